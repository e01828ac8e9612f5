//! The environment variables of this process.

use std::{env, fs};

/// Removes a variable. It stays where other threads could read the environment.
pub(crate) fn remove_if_single_threaded(name: &str) {
    let threads = fs::read_dir("/proc/self/task").map_or(usize::MAX, Iterator::count);
    if threads == 1 {
        // SAFETY: no other thread exists that could read or write the environment.
        unsafe { env::remove_var(name) };
    }
}
