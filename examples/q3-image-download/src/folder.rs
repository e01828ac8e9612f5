//! Where the images go.

use std::fs;
use std::path::PathBuf;
use std::process;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use tempfile::TempDir;

/// A folder that stays, or a temporary one. In it are files that are not whole yet, which are removed, as a temporary
/// folder is, also on Ctrl-C.
pub(crate) struct Folder {
    path: PathBuf,
    unfinished: PathBuf,
    temporary: Arc<Mutex<Option<TempDir>>>,
}

impl Folder {
    pub(crate) fn open(out: Option<PathBuf>) -> Result<Self> {
        let temporary = match &out {
            None => tempfile::tempdir().context("cannot create a temporary folder")?,
            Some(path) => {
                fs::create_dir_all(path)
                    .with_context(|| format!("cannot create the folder {}", path.display()))?;
                tempfile::tempdir_in(path).with_context(|| format!("cannot write to {}", path.display()))?
            }
        };
        let unfinished = temporary.path().to_owned();
        let temporary = Arc::new(Mutex::new(Some(temporary)));
        let interrupted = Arc::clone(&temporary);
        ctrlc::set_handler(move || {
            drop(interrupted.lock().unwrap_or_else(PoisonError::into_inner).take());
            process::exit(130); // as a shell reports a program that Ctrl-C has ended; the children end with us
        })?;
        Ok(Self { path: out.unwrap_or_else(|| unfinished.clone()), unfinished, temporary })
    }

    /// Where files are that are not whole yet.
    pub(crate) fn unfinished(&self) -> PathBuf {
        self.unfinished.clone()
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
