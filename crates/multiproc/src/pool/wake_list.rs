//! The wakers of calls whose results have arrived. They are called when no lock of the pool is held.

use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use crate::callback_thread::WAKERS;
use crate::error::Result;

/// What a call wakes when results arrive.
pub(crate) enum ArrivalWaker {
    /// Code of this library that neither blocks nor uses a pool. Any thread that drives the pool calls it.
    Internal(Waker),
    /// An executor's. It may do anything, so the thread for wakers calls it.
    Foreign(Waker),
}

impl ArrivalWaker {
    /// # Errors
    /// When the kernel refuses the thread for wakers.
    pub(super) fn foreign(waker: &Waker) -> Result<Self> {
        WAKERS.start()?;
        Ok(Self::Foreign(waker.clone()))
    }
}

#[derive(Default)]
pub(crate) struct WakeList {
    /// Whether there are any. Written only under the pool's lock and the one below.
    is_any: AtomicBool,
    wakers: Mutex<Vec<ArrivalWaker>>,
}

impl WakeList {
    pub(super) fn add(&self, waker: ArrivalWaker) {
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
            match waker {
                ArrivalWaker::Internal(waker) => waker.wake(),
                ArrivalWaker::Foreign(waker) => WAKERS.call(waker),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<ArrivalWaker>> {
        self.wakers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
