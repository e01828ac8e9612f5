//! The wakers of calls whose results have arrived. They are called when no lock of the pool is held, since a
//! waker may do anything: run a task of an executor, drop a handle, use this pool.

use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;

#[derive(Default)]
pub(crate) struct Completions {
    /// Whether there are any. Written only under the pool's lock and the one below.
    is_any: AtomicBool,
    wakers: Mutex<Vec<Waker>>,
}

impl Completions {
    pub(super) fn add(&self, waker: Waker) {
        self.lock().push(waker);
        self.is_any.store(true, Ordering::Release);
    }

    /// Calls them. Call without any lock.
    pub(super) fn wake(&self) {
        if !self.is_any.load(Ordering::Acquire) {
            return;
        }
        let wakers = {
            let mut wakers = self.lock();
            self.is_any.store(false, Ordering::Release);
            mem::take(&mut *wakers)
        };
        for waker in wakers {
            let _ = catch_unwind(AssertUnwindSafe(|| waker.wake())); // a panic is the executor's own
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Waker>> {
        self.wakers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
