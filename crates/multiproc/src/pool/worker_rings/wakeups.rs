//! Wake-ups of a pool: of its callers, or else of its thread.

use crate::ipc::event_count::EventCount;
use crate::sys::atomic::{AtomicU32, Relaxed, SeqCst, fence};

/// The words for it in shared memory.
pub(crate) struct PoolWakeups<'a> {
    /// Of callers, and of the pool's thread.
    pub(crate) callers: EventCount<'a>,
    pub(crate) thread: EventCount<'a>,
    /// Whether there are callers.
    pub(crate) has_callers: &'a AtomicU32,
}

impl PoolWakeups<'_> {
    /// Call after a change that a driver must handle.
    pub(crate) fn notify(&self) {
        self.callers.notify_all(); // with a fence between the change and both loads
        if self.has_callers.load(Relaxed) == 0 {
            self.thread.notify_all();
        }
    }

    /// Call when the first caller comes or the last one goes. The latter must then poll once more: a later
    /// change wakes the thread.
    pub(crate) fn set_has_callers(&self, has_callers: bool) {
        self.has_callers.store(has_callers.into(), SeqCst);
        fence(SeqCst);
    }
}
