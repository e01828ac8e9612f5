//! Who sees to a pool: callers that wait for results of their own, or else the pool's thread.

use crate::ipc::event_count::EventCount;
use crate::sys::atomic::{AtomicU32, Relaxed, SeqCst, fence};

/// What a pool and all of its workers share for that.
pub(crate) struct PoolWakeups<'a> {
    /// For callers, and for the thread.
    pub(crate) callers: EventCount<'a>,
    pub(crate) thread: EventCount<'a>,
    /// Whether there are any callers.
    pub(crate) has_callers: &'a AtomicU32,
}

impl PoolWakeups<'_> {
    /// To be called after a change that somebody must see to.
    pub(crate) fn notify(&self) {
        self.callers.notify_all(); // with a fence between the change and both looks
        if self.has_callers.load(Relaxed) == 0 {
            self.thread.notify_all();
        }
    }

    /// The first caller comes, or the last one goes. Who goes then looks a last time for changes: one that he misses will
    /// wake the thread.
    pub(crate) fn set_has_callers(&self, has_callers: bool) {
        self.has_callers.store(has_callers.into(), SeqCst);
        fence(SeqCst);
    }
}
