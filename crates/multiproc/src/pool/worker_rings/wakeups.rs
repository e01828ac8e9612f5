//! Who sees to a pool: callers that wait for results of their own, or else the pool's thread.

use crate::ipc::event_count::Bell;
use crate::sys::atomic::{AtomicU32, Relaxed, SeqCst, fence};

/// What a pool and all of its workers share for that.
pub(crate) struct Attendance<'a> {
    /// For callers, and for the thread.
    pub(crate) callers: Bell<'a>,
    pub(crate) thread: Bell<'a>,
    /// Whether there are any callers.
    pub(crate) attended: &'a AtomicU32,
}

impl Attendance<'_> {
    /// To be called after a change that somebody must see to.
    pub(crate) fn call(&self) {
        self.callers.ring(); // with a fence between the change and both looks
        if self.attended.load(Relaxed) == 0 {
            self.thread.ring();
        }
    }

    /// The first caller comes, or the last one goes. Who goes then looks a last time for changes: one that he misses will
    /// wake the thread.
    pub(crate) fn set(&self, attended: bool) {
        self.attended.store(attended.into(), SeqCst);
        fence(SeqCst);
    }
}
