//! The time in which an item that was cancelled, or has exceeded its time limit, can end by itself.

use std::time::Duration;

use super::WorkerHandle;
use crate::error::{Cause, Error, Origin};
use crate::pool::worker_rings::Scope;
use crate::sys::running_time::RunningTime;

/// The running item is to end. Its worker has no other items and gets none.
pub(super) struct Grace {
    /// When the worker is killed. `None` is beyond the clock's range.
    until: Option<RunningTime>,
    /// The item's error then.
    why: Cause,
}

impl WorkerHandle {
    /// Ends the running item: asks it to end if its call has a grace, else kills the worker. All else must
    /// have been revoked, and all results taken.
    pub(super) fn end_item(&mut self, why: Cause) {
        let grace = self.in_flight.front().map_or(0, |call| call.options.grace);
        // If the kernel has refused a barrier, the worker keeps a run of items, and would begin the next one.
        if grace == 0 || self.in_flight.count() != 1 {
            return self.fail_worker(Error::new(why));
        }
        let until = RunningTime::after(Duration::from_millis(grace.into()));
        self.grace = Some(Box::new(Grace { until, why }));
        self.takes_no_more = true; // so it gets nothing
        self.rings.set_cancelled(true);
    }

    /// When to kill the worker, if its item does not end by itself before.
    pub(crate) fn grace_until(&self) -> Option<RunningTime> {
        self.grace.as_ref().filter(|_| self.phase.failure().is_none()).and_then(|grace| grace.until)
    }

    /// Kills the worker if its item has not ended in its grace.
    pub(crate) fn enforce_grace(&mut self) {
        if self.grace_until().is_none_or(|until| !until.is_past()) {
            return;
        }
        self.take_results(Scope::Completed);
        if let Some(grace) = &self.grace {
            self.fail_worker(Error::new(grace.why.clone()));
        }
    }

    /// Its item has ended by itself: the worker may get others. Returns the item's error, if that was asked to
    /// end.
    pub(super) fn end_grace(&mut self) -> Option<Error> {
        let grace = self.grace.take()?;
        self.takes_no_more = false;
        self.rings.set_cancelled(false);
        Some(grace.error(self.origin()))
    }
}

impl Grace {
    pub(super) fn error(&self, worker: Origin) -> Error {
        let limit = if let Cause::TimeLimit(limit) = self.why { Some(limit) } else { None };
        Error::new(Cause::EndedInGrace(limit)).with_origin(worker)
    }
}
