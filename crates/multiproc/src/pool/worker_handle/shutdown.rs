//! Ends workers, and settles the items of those that have exited.

use std::time::Duration;

use super::phase::WorkerPhase;
use super::{ExitReason, WorkerHandle};
use crate::error::{Cause, Error, ErrorKind, Result};
use crate::ipc::wire;
use crate::pool::chunk::Chunk;
use crate::pool::stats::WorkerStats;
use crate::pool::worker_rings::Scope;
use crate::sys::failpoint::{self, Failpoint};
use crate::sys::poll::Deadline;
use crate::sys::running_time::RunningTime;
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

/// Ends the worker.
impl WorkerHandle {
    /// Whether it runs a task or may begin one: it was not told to exit, and was not killed a while ago.
    pub(crate) fn may_run_task(&self) -> bool {
        self.phase.may_run_task()
    }

    /// Until when that is so of one that was killed.
    pub(crate) fn dying_until(&self) -> Option<RunningTime> {
        self.phase.dying_until()
    }

    /// Takes no more work; returns what it has not claimed.
    pub(crate) fn retire(&mut self, why: ExitReason) -> Vec<Chunk> {
        self.exit_reason.get_or_insert(why);
        self.phase.retire();
        self.revoke(u32::MAX)
    }

    /// Takes its retirement as a surplus worker back; returns whether it was retired so.
    pub(crate) fn reinstate(&mut self) -> bool {
        let is_surplus = matches!(self.exit_reason, Some(ExitReason::Surplus)) && self.phase.reinstate();
        if is_surplus {
            self.exit_reason = None;
        }
        is_surplus
    }

    pub(crate) fn is_retired(&self) -> bool {
        self.phase.is_retired()
    }

    /// When its initializer must have returned, if that is pending.
    pub(crate) fn initialize_by(&self) -> Option<RunningTime> {
        self.initialize_by.filter(|_| !self.is_ready() && self.phase.failure().is_none())
    }

    /// Kills it if its initializer has exceeded its time limit.
    pub(crate) fn end_initializer(&mut self) {
        if self.initialize_by().is_some_and(RunningTime::is_past) {
            let limit = self.initializer_timeout.as_secs_f32();
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
    pub(crate) fn kill_at(&self) -> Option<RunningTime> {
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
        if self.kill_at().is_some_and(RunningTime::is_past) && self.phase.kill_at_deadline() {
            self.spawned.child.kill();
        }
    }

    /// Tells it to exit if it has nothing in flight and nothing bound to it; returns whether that is new.
    pub(crate) fn shut_down(&mut self, why: ExitReason) -> bool {
        let has_nothing = self.in_flight.count() == 0 && self.worker_bound.is_empty();
        let is_new = has_nothing && self.phase.begin_shutdown(self.shutdown_timeout);
        if is_new {
            self.exit_reason.get_or_insert(why);
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
        // Its only item was cancelled or timed out, if it has a grace; begun or not, it has no other result.
        let pending =
            if self.is_cancelled() || self.grace.is_some() { 0 } else { self.rings.not_begun().unwrap_or(0) };
        let pending = pending.min(self.in_flight.count());
        let rest = self.reclaim(pending);
        let rest = self.settle_worker_bound(rest, &error);
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
        let failure = self.phase.failure();
        // Whatever else has ended the worker: `cancel` has returned that its item is cancelled.
        let was_killed_for_it = failure.is_some_and(|why| why.is_cancelled() || why.is_timeout());
        if let Some(grace) = self.grace.as_ref().filter(|_| !was_killed_for_it) {
            return (grace.error(self.origin()), false);
        }
        if let Some(why) = failure {
            return (why.clone().with_origin(self.origin()), why.is_start());
        }
        let ended = self.spawned.result(&|| self.origin());
        match ended.and_then(|(outcome, _)| {
            wire::decode_internal::<Result<()>>(&outcome, Vec::new(), "a worker's end")
        }) {
            Ok(Err(error)) => (error.or_with_origin(|| self.origin()), !self.is_ready()),
            Ok(Ok(())) => (self.spawned.child.exit_error(self.origin()), false),
            Err(error) => (error, false),
        }
    }

    pub(crate) fn fail_all(mut self, error: &Error) {
        self.spawned.child.kill();
        self.spawned.child.wait(Deadline::Never); // before the memory of its items is reused
        self.fail(self.in_flight.count(), error);
        self.fail_worker_bound(error);
    }
}
