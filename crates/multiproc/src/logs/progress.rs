//! The progress of the log thread through the ring of records, and waiting for it.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::lock;
use super::ring::{Counts, LogRing};
use crate::sys::poll::Deadline;

/// How long a thread waits for a logger that takes no record.
const STALL_TIMEOUT: Duration = Duration::from_secs(1);

pub(super) struct LogProgress {
    pub(super) ring: LogRing,
    progress: Mutex<PassCounters>,
    /// Notified when a pass has ended, and when a thread begins to wait.
    changed: Condvar,
}

/// What the reader has done. It reads the ring in passes: each takes what was written before it began.
///
/// All of it is in private memory, so a process that overwrites the ring prolongs no wait.
struct PassCounters {
    delivered: Counts,
    begun_passes: u64,
    ended_passes: u64,
    waiting_threads: usize,
}

impl LogProgress {
    pub(super) fn new(ring: LogRing) -> Self {
        let delivered = Counts::START;
        let progress = PassCounters { delivered, begun_passes: 0, ended_passes: 0, waiting_threads: 0 };
        Self { ring, progress: Mutex::new(progress), changed: Condvar::new() }
    }

    pub(super) fn begin_pass(&self) {
        lock(&self.progress).begun_passes += 1;
    }

    /// Called when the logger has got this much.
    pub(super) fn advance(&self, delivered: Counts) {
        lock(&self.progress).delivered = delivered;
    }

    pub(super) fn end_pass(&self) {
        lock(&self.progress).ended_passes += 1;
        self.changed.notify_all();
    }

    /// Blocks until the logger has got what is in the ring now; until the deadline, and not beyond
    /// [`STALL_TIMEOUT`] in which the logger takes no record.
    pub(super) fn wait(&self, deadline: Deadline) {
        let mut progress = lock(&self.progress);
        if progress.delivered == self.ring.counts() {
            return;
        }
        let wanted = progress.begun_passes + 1;
        progress.waiting_threads += 1;
        self.changed.notify_all();
        self.ring.event().notify_all(); // a writer may have been killed before it did so
        while progress.ended_passes < wanted {
            let before = progress.delivered;
            let time = deadline.or_within(STALL_TIMEOUT).left().unwrap_or(STALL_TIMEOUT);
            let is_pending = |progress: &mut PassCounters| progress.ended_passes < wanted;
            let waited = self.changed.wait_timeout_while(progress, time, is_pending);
            progress = waited.unwrap_or_else(PoisonError::into_inner).0;
            if progress.delivered == before || deadline.is_over() {
                break;
            }
        }
        progress.waiting_threads -= 1;
    }

    /// Sleeps for this time, unless a thread waits.
    pub(super) fn sleep_unless_awaited(&self, time: Duration) {
        let progress = lock(&self.progress);
        drop(self.changed.wait_timeout_while(progress, time, |progress| progress.waiting_threads == 0));
    }
}
