//! Where the images go.

use std::fs;
use std::path::PathBuf;
use std::process;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use tempfile::TempDir;

/// A folder that stays, or a temporary one that is removed, also on Ctrl-C.
pub(crate) struct Folder {
    path: PathBuf,
    temporary: Arc<Mutex<Option<TempDir>>>,
}

impl Folder {
    pub(crate) fn open(out: Option<PathBuf>) -> Result<Self> {
        if let Some(path) = out {
            fs::create_dir_all(&path)
                .with_context(|| format!("cannot create the folder {}", path.display()))?;
            return Ok(Self { path, temporary: Arc::default() });
        }
        let folder = tempfile::tempdir().context("cannot create a temporary folder")?;
        let path = folder.path().to_owned();
        let temporary = Arc::new(Mutex::new(Some(folder)));
        let interrupted = Arc::clone(&temporary);
        ctrlc::set_handler(move || {
            drop(interrupted.lock().unwrap_or_else(PoisonError::into_inner).take());
            process::exit(130); // as a shell reports a program that Ctrl-C has ended; the children end with us
        })?;
        Ok(Self { path, temporary })
    }

    pub(crate) fn file(&self, method: &str, number: u32) -> PathBuf {
        self.path.join(format!("{method}-{number:02}.jpg"))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(self.temporary.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}
