//! When a thread that waits checks whether others live, without a clock.
//!
//! Once a thread has died, a check is due whenever a thread asks; a death ends each sleep until a check. So a
//! wake-up that is lost, though no thread has died, is a deadlock.

use std::cell::Cell;
use std::time::Duration;

use super::poll::Deadline;
use super::{failpoint, thread_id};

loom::thread_local! {
    /// The deaths before the last check of this thread, and before its last question whether one is due.
    static SEEN: Cell<[u32; 2]> = Cell::new([0; 2]);
}

/// The checks of one wait. Another one may take place inside of it.
pub(crate) struct Checks {
    seen_outside: [u32; 2],
}

#[allow(clippy::unused_self)] // as the library has it
impl Checks {
    pub(crate) fn begin() -> Self {
        let seen_outside =
            if failpoint::has_kills() { SEEN.with(|seen| seen.replace([0; 2])) } else { [0; 2] };
        Self { seen_outside }
    }

    pub(crate) fn are_due(&self) -> bool {
        deaths() != 0
    }

    pub(crate) fn done(&mut self) {
        if failpoint::has_kills() {
            SEEN.with(|seen| seen.set([seen.get()[1]; 2]));
        }
    }

    pub(crate) fn time(&self, _deadline: Deadline) -> Duration {
        Duration::MAX
    }
}

impl Drop for Checks {
    fn drop(&mut self) {
        if failpoint::has_kills() {
            SEEN.with(|seen| seen.set(self.seen_outside));
        }
    }
}

/// Whether a thread has died since this one last checked.
pub(super) fn has_new_death() -> bool {
    let now = deaths();
    now != 0 && SEEN.with(|seen| seen.get()[0] != now)
}

loom::thread_local! {
    /// The deaths at which this thread has stopped polling.
    static POLLED: Cell<u32> = Cell::new(0);
}

/// Whether a death ends a poll of this thread: each one does once, as the time limit of a poll would.
pub(super) fn is_woken_by_death() -> bool {
    let now = deaths();
    now != 0 && POLLED.with(|polled| polled.replace(now)) != now
}

fn deaths() -> u32 {
    if !failpoint::has_kills() {
        return 0;
    }
    let now = thread_id::ended();
    SEEN.with(|seen| seen.set([seen.get()[0], now]));
    now
}
