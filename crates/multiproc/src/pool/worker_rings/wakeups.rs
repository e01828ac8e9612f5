//! Wake-ups of a pool: of its callers, or else of its thread.

use crate::ipc::event_count::EventCount;
use crate::sys::atomic::{AtomicU32, Relaxed, SeqCst, fence};

/// Its words in shared memory.
pub(crate) struct PoolWakeups<'a> {
    /// One for callers, one for the pool's thread.
    pub(crate) callers: EventCount<'a>,
    pub(crate) thread: EventCount<'a>,
    /// [`WaitingCallers`], as a number.
    pub(crate) waiting: &'a AtomicU32,
}

/// Which callers wait for results.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum WaitingCallers {
    /// None: the pool's thread handles what happens.
    None = 0,
    /// One or several, of which each may need the next result.
    Callers = 1,
    /// A single one, which needs all results of its call. A wake-up for each of them would cost more than
    /// short items do.
    OneNeedsAll = 2,
}

impl PoolWakeups<'_> {
    /// Call after a change that a driver must handle.
    pub(crate) fn notify(&self) {
        self.callers.notify_all(); // with a fence between the change and both loads
        if self.waiting.load(Relaxed) == WaitingCallers::None as u32 {
            self.thread.notify_all();
        }
    }

    /// Whether callers may learn of results a little later.
    pub(crate) fn may_batch_wakeups(&self) -> bool {
        self.waiting.load(Relaxed) == WaitingCallers::OneNeedsAll as u32
    }

    /// Call when a caller comes or goes. The last one must then poll once more: a later change wakes the
    /// thread. One that comes must poll before it waits.
    pub(crate) fn set_waiting(&self, waiting: WaitingCallers) {
        self.waiting.store(waiting as u32, SeqCst);
        fence(SeqCst);
    }
}
