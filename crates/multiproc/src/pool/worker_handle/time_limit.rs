//! Time limits and cancelling: ends the running item.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::WorkerHandle;
use crate::error::{Cause, Error};
use crate::pool::call::Call;
use crate::pool::chunk::Chunk;
use crate::pool::worker_rings::Scope;
use crate::sys::clock;
use crate::trace;

/// Ends the running item by killing its worker, once its [grace](super::grace), if any, is over.
///
/// The running item can change at any instant. So the pool first revokes what the worker has not claimed.
/// From then on the worker can claim nothing, and the item that a last poll shows running is the one that the
/// kill hits, if any.
impl WorkerHandle {
    /// Ends the single item of this call if the worker has claimed it and not completed it; returns whether
    /// it did. The item then counts as cancelled, even if it completes before the kill.
    ///
    /// Call [`revoke`](WorkerHandle::revoke) before. (An out-of-line item cannot be revoked, and counts as
    /// claimed.)
    pub(crate) fn cancel(&mut self, call: &Arc<Call>) -> bool {
        if self.phase.failure().is_some() || self.grace.is_some() || !self.has_work_of(call) {
            return false;
        }
        self.take_results(Scope::Completed);
        // If the kernel has refused a barrier, the worker keeps a run of items, of which any may be running.
        let is_running = self.in_flight.count() == 1 && self.has_work_of(call);
        if is_running {
            trace::cancelled(Some(self.pid()));
            self.end_item(Cause::Cancelled);
        }
        is_running
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.phase.failure().is_some_and(Error::is_cancelled)
    }

    /// Ends the worker's item if that exceeds its time limit `now`; returns what the worker had not claimed.
    pub(crate) fn enforce_time_limit(&mut self, now: u64) -> Vec<Chunk> {
        let Some(least) = self.least_timeout() else { return Vec::new() };
        if self.running_for(now).is_none_or(|time| time < least) {
            return Vec::new();
        }
        self.take_results(Scope::Completed);
        if self.exceeded_limit(now).is_none() {
            return Vec::new();
        }
        let rest = self.revoke(u32::MAX);
        self.take_results(Scope::Completed);
        if let Some(timeout) = self.exceeded_limit(now) {
            trace::timed_out(self.pid(), timeout);
            self.end_item(Cause::TimeLimit(timeout));
        }
        rest
    }

    /// The shortest time limit of any item, unless the running one is being ended.
    fn least_timeout(&self) -> Option<Duration> {
        let goes_on = self.phase.failure().is_none() && self.grace.is_none();
        self.in_flight.least_timeout().filter(|_| goes_on)
    }

    /// The time limit of the running item, if it is exceeded. All results must have been taken.
    fn exceeded_limit(&mut self, now: u64) -> Option<Duration> {
        let timeout = self.in_flight.front()?.options.timeout?;
        (self.running_for(now)? >= timeout).then_some(timeout)
    }

    /// How long the item has been running by this time of the [`clock`](crate::sys::clock::nanos): the larger of
    /// the worker's exact word, which a task can overwrite, and the pool's own observation.
    fn running_for(&mut self, now: u64) -> Option<Duration> {
        let number = self.rings.results_taken();
        let has_claimed = self.rings.not_begun().is_ok_and(|pending| pending < self.in_flight.count());
        let runs = has_claimed && !self.rings.has_completed();
        let before = self.seen_running.filter(|&(seen, _)| seen == number);
        self.seen_running = runs.then(|| before.unwrap_or((number, now)));
        let seen = self.seen_running.map(|(_, since)| Duration::from_nanos(now.saturating_sub(since)));
        self.rings.running_for(now).max(seen)
    }

    /// The worker was stopped together with the pool for some of the time between these instants of the
    /// [`clock`](crate::sys::clock::nanos), which does not count for its item.
    pub(crate) fn exclude_time(&mut self, from: u64, until: u64) {
        self.rings.exclude_time(from, until);
        self.seen_running = None;
    }

    /// When to check the time limit of the running item next.
    pub(crate) fn next_time_limit_check(&self, now: Instant) -> Option<Instant> {
        let least = self.least_timeout()?;
        let Some(time) = self.rings.running_for(clock::nanos()) else {
            return now.checked_add(least); // no later item can exceed its limit sooner
        };
        // The oldest item is the running one only if all completed results were taken.
        let running = self.in_flight.front().filter(|_| !self.rings.has_completed());
        let timeout = running.and_then(|call| call.options.timeout).unwrap_or(least);
        now.checked_add(timeout.saturating_sub(time).min(least)) // the item with that limit may begin now
    }
}
