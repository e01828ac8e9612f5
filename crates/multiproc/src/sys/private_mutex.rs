//! A mutex between the threads of one process, on which a forked copy of the process does not block.
//!
//! Another thread may hold a mutex at a fork. The copy lacks that thread, so it would wait for ever.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::fork_detect::OriginalProcess;

/// A mutex between the threads of one process.
#[derive(Debug)]
pub struct PrivateMutex<T> {
    mutex: Mutex<T>,
    original: OriginalProcess,
}

impl<T> PrivateMutex<T> {
    /// A mutex of this process.
    pub fn new(value: T) -> Self {
        Self { mutex: Mutex::new(value), original: OriginalProcess::current() }
    }

    /// `None` in a forked copy of the process that made it. The value is consistent also after a panic of a holder.
    pub fn lock(&self) -> Option<MutexGuard<'_, T>> {
        self.original.is_current().then(|| self.mutex.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<T: Default> Default for PrivateMutex<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}
