//! Ends workers, and settles the items of those that have exited.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::WorkerHandle;
use super::phase::WorkerPhase;
use crate::error::{Cause, Error, ErrorKind, Origin, Result};
use crate::ipc::wire;
use crate::pool::call::Call;
use crate::pool::chunk::Chunk;
use crate::pool::stats::WorkerStats;
use crate::pool::worker_rings::Scope;
use crate::sys::failpoint::{self, Failpoint};
use crate::sys::poll::Deadline;
use crate::trace;

/// A worker that exits within this time, without running anything, may be unable to live.
const EARLY_EXIT: Duration = Duration::from_secs(1);

/// What the exit of a worker leaves to settle.
pub(crate) struct WorkerExit {
    pub(crate) error: Error,
    /// It was not ready yet, and was not told to exit.
    pub(crate) failed_startup: bool,
    /// It exited soon after its start without running anything, and was not told to exit.
    pub(crate) exited_early: bool,
    pub(crate) initializer_failed: bool,
    /// Items for other workers: the one that it was running, if it may run again, and those that it had not
    /// claimed.
    pub(crate) again: Vec<Chunk>,
    pub(crate) rest: Vec<Chunk>,
    pub(crate) stats: WorkerStats,
}

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

    /// Ends the worker's item if that exceeds its time limit; returns what the worker had not claimed.
    pub(crate) fn enforce_time_limit(&mut self) -> Vec<Chunk> {
        let Some(least) = self.least_timeout() else { return Vec::new() };
        if self.running_for().is_none_or(|time| time < least) {
            return Vec::new();
        }
        self.take_results(Scope::Completed);
        if self.exceeded_limit().is_none() {
            return Vec::new();
        }
        let rest = self.revoke(u32::MAX);
        self.take_results(Scope::Completed);
        if let Some(timeout) = self.exceeded_limit() {
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
    fn exceeded_limit(&mut self) -> Option<Duration> {
        let timeout = self.in_flight.front()?.options.timeout?;
        (self.running_for()? >= timeout).then_some(timeout)
    }

    /// How long the item has been running: the larger of the worker's exact word, which a task can overwrite,
    /// and the pool's own observation.
    fn running_for(&mut self) -> Option<Duration> {
        let number = self.rings.results_taken();
        let has_claimed = self.rings.pending().is_ok_and(|pending| pending < self.in_flight.count());
        let runs = has_claimed && !self.rings.has_completed();
        let before = self.seen_running.filter(|&(seen, _)| seen == number);
        self.seen_running = runs.then(|| before.unwrap_or_else(|| (number, Instant::now())));
        self.rings.running_for().max(self.seen_running.map(|(_, since)| since.elapsed()))
    }

    /// The item was stopped together with the pool for some of the time between these instants of the
    /// [`clock`](crate::sys::clock::nanos), which does not count.
    pub(crate) fn exclude_time(&mut self, from: u64, until: u64) {
        self.rings.exclude_time(from, until);
        self.seen_running = None;
    }

    /// When to check the time limit of the running item next.
    pub(crate) fn next_time_limit_check(&self, now: Instant) -> Option<Instant> {
        let least = self.least_timeout()?;
        let Some(time) = self.rings.running_for() else {
            return now.checked_add(least); // no later item can exceed its limit sooner
        };
        // The oldest item is the running one only if all completed results were taken.
        let running = self.in_flight.front().filter(|_| !self.rings.has_completed());
        let timeout = running.and_then(|call| call.options.timeout).unwrap_or(least);
        now.checked_add(timeout.saturating_sub(time).min(least)) // the item with that limit may begin now
    }
}

/// Ends the worker.
impl WorkerHandle {
    /// When its initializer must have returned, if that is pending.
    pub(crate) fn initialize_by(&self) -> Option<Instant> {
        self.initialize_by.filter(|_| !self.is_ready() && self.phase.failure().is_none())
    }

    /// Kills it if its initializer has exceeded its time limit.
    pub(crate) fn end_initializer(&mut self) {
        if let Some(time) = self.initialize_by().filter(|&time| time <= Instant::now()) {
            let limit = time.duration_since(self.started_at).as_secs_f32();
            let why = format!("its initializer did not return within {limit} s");
            self.fail_worker(Error::new(Cause::Start(why)));
        }
    }

    /// Kills it for this reason.
    pub(super) fn fail_worker(&mut self, why: Error) {
        if self.phase.kill(Some(why)) {
            self.spawned.child.kill();
        }
    }

    /// When to kill it, because it was told to exit, or has hung up, and still lives.
    pub(crate) fn kill_at(&self) -> Option<Instant> {
        self.phase.kill_at()
    }

    /// Checks its liveness socket, and kills it if it should have exited.
    pub(crate) fn end_if_due(&mut self) {
        if matches!(
            self.phase,
            WorkerPhase::Running | WorkerPhase::Retired | WorkerPhase::ShuttingDown { .. }
        ) && self.spawned.child.has_hung_up()
        {
            self.phase.hang_up();
        }
        if self.kill_at().is_some_and(|time| time <= Instant::now()) && self.phase.kill_at_deadline() {
            self.spawned.child.kill();
        }
    }

    /// Tells it to exit if it has nothing in flight and nothing pinned; returns whether that is new.
    pub(crate) fn shut_down(&mut self) -> bool {
        let has_nothing = self.in_flight.count() == 0 && self.pinned.is_empty();
        let is_new = has_nothing && self.phase.begin_shutdown(self.shutdown_timeout);
        if is_new {
            self.rings.close();
        }
        is_new
    }

    /// Sends SIGTERM, once.
    pub(crate) fn terminate(&mut self) {
        if self.phase.terminate(self.shutdown_timeout) {
            let _ = self.spawned.child.terminate(); // if the kernel refuses, SIGKILL follows
        }
    }

    /// Sends SIGKILL, once.
    pub(crate) fn kill(&mut self) {
        self.phase.begin_shutdown(self.shutdown_timeout);
        if self.phase.kill(None) {
            self.spawned.child.kill();
        }
    }

    pub(crate) fn shut_down_now(self) {
        self.spawned.child.kill();
        self.spawned.child.wait(Deadline::Never);
    }

    /// Settles the items of a worker that has exited. The one that it was running fails, unless it may run
    /// again and the pool `may_retry`.
    pub(crate) fn reap(mut self, may_retry: bool) -> WorkerExit {
        failpoint::hit(Failpoint::Reaping);
        let times = self.stats(); // while its item counts as running
        let (error, initializer_failed) = self.exit_cause();
        let error =
            if self.is_ready() { error } else { error.during_startup() }.with_memory_limit(self.memory_limit);
        while self.take_results(Scope::Completed) {}
        // Items claimed and without a result have failed: usually one, or none. If the worker has overwritten
        // which ones those are, all have.
        let pending = if self.is_cancelled() { 0 } else { self.rings.pending().unwrap_or(0) };
        let pending = pending.min(self.in_flight.count());
        let rest = self.reclaim(pending);
        let rest = self.settle_pinned(rest, &error);
        let (mut again, mut retried) = (Vec::new(), 0);
        if may_retry && error.kind() == ErrorKind::Died && self.in_flight.may_front_run_again() {
            again = self.reclaim(self.in_flight.count());
            retried = again.iter().map(|chunk| u64::from(chunk.count)).sum();
            for chunk in &mut again {
                chunk.deaths.push(error.clone());
                chunk.call.count_retries(chunk.count);
            }
        }
        self.fail(self.in_flight.count(), &error);
        let unexpected = !self.phase.was_told_to_exit();
        if unexpected {
            trace::died(self.pid(), &error);
        }
        WorkerExit {
            error,
            failed_startup: !self.is_ready() && unexpected,
            exited_early: unexpected && self.completed == 0 && self.started_at.elapsed() < EARLY_EXIT,
            initializer_failed,
            again,
            rest,
            stats: self.final_stats(&times, retried),
        }
    }

    /// Why it exited, and whether its initializer failed.
    fn exit_cause(&mut self) -> (Error, bool) {
        let pid = self.pid();
        let origin = || Origin::Worker { pid };
        let failure = self.phase.failure();
        // Whatever else has ended the worker: `cancel` has returned that its item is cancelled.
        let was_killed_for_it = failure.is_some_and(|why| why.is_cancelled() || why.is_timeout());
        if let Some(grace) = self.grace.take().filter(|_| !was_killed_for_it) {
            return (grace.into_error(pid), false);
        }
        if let Some(why) = failure {
            return (why.clone().with_origin(origin()), why.is_start());
        }
        let ended = self.spawned.result(&origin);
        match ended.and_then(|(outcome, _)| {
            wire::decode_internal::<Result<()>>(&outcome, Vec::new(), "a worker's end")
        }) {
            Ok(Err(error)) => (error.or_with_origin(origin), !self.is_ready()),
            Ok(Ok(())) => (self.spawned.child.exit_error(origin()), false),
            Err(error) => (error, false),
        }
    }

    pub(crate) fn fail_all(mut self, error: &Error) {
        self.spawned.child.kill();
        self.spawned.child.wait(Deadline::Never); // before the memory of its items is reused
        self.fail(self.in_flight.count(), error);
        self.fail_pinned(error);
    }
}
