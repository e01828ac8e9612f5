//! Counts the submitted tasks of a pool that have no result, and makes a caller wait that has too many.

use std::sync::{Arc, Condvar, PoisonError};
use std::time::Instant;

use multiproc::pool::encoded::PrivateMutex;

pub(crate) struct Permits {
    max: usize,
    taken: PrivateMutex<usize>,
    freed: Condvar,
}

/// Counts one task until it drops.
pub(crate) struct Permit(Arc<Permits>);

impl Permits {
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max, taken: PrivateMutex::new(0), freed: Condvar::new() })
    }

    /// Room for one more task; waits for it until `deadline`, if there is one. `None` if there is no room by
    /// then, and in a forked copy.
    pub(crate) fn take(self: &Arc<Self>, deadline: Option<Instant>) -> Option<Permit> {
        let mut taken = self.taken.lock()?;
        while *taken >= self.max {
            taken = match deadline {
                None => self.freed.wait(taken).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return None;
                    }
                    self.freed.wait_timeout(taken, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        *taken += 1;
        Some(Permit(Arc::clone(self)))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(mut taken) = self.0.taken.lock() {
            *taken -= 1;
        }
        self.0.freed.notify_one();
    }
}
