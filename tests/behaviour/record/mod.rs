//! **Records** of failed tasks, and their replay.

mod files;
mod replay;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::{env, fs, process};

use libtest_mimic::Trial;

pub(crate) fn trials() -> Vec<Trial> {
    [files::trials(), replay::trials()].into_iter().flatten().collect()
}

/// A directory that does not exist yet, and is removed in the end.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        Self(env::temp_dir().join(format!("multiproc-records-{}-{number}", process::id())))
    }

    fn path(&self) -> &Path {
        &self.0
    }

    fn files(&self) -> Vec<PathBuf> {
        fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().path()).collect()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0); // a test may have removed it
    }
}
