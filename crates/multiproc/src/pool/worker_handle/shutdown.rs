//! How a worker ends: of itself, when it is told to, or because of what it runs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::WorkerHandle;
use crate::error::{Cause, Error, Origin, Result};
use crate::ipc::wire;
use crate::pool::call::Call;
use crate::pool::chunk::Chunk;
use crate::pool::worker_rings::Scope;
use crate::sys::failpoint::{self, Failpoint};
use crate::sys::poll::Deadline;

/// How long a worker that has cut its lifeline may take to die of itself.
const EXIT_GRACE: Duration = Duration::from_secs(1);

/// A worker that dies so soon after its start, and has run nothing, may be one that cannot live.
const EARLY_EXIT: Duration = Duration::from_secs(1);

/// What has been done to make it end.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
pub(super) enum StopSignal {
    No,
    Asked,
    Killed,
}

/// What a worker's death leaves to settle.
pub(crate) struct WorkerExit {
    pub(crate) error: Error,
    /// It had not even come up, and nobody had told it to go.
    pub(crate) failed_startup: bool,
    /// It died soon after its start, having run nothing, and nobody had told it to go.
    pub(crate) exited_early: bool,
    pub(crate) initializer_failed: bool,
    /// Items to be run by others: that which it was running, if it may be run again, and those that it had not begun.
    pub(crate) rest: Vec<Chunk>,
}

/// Ending the item that runs, which is to end its worker.
///
/// What it runs can change at any instant. So first it must give back what it has not begun: from then on it can begin
/// nothing, and what a last look shows to be running is what the kill will meet, or else nothing.
impl WorkerHandle {
    /// Kills it, if it has begun the one item of this call, and has not finished it; says whether that was so. Then the item
    /// is cancelled, even if it is finished before the kill.
    ///
    /// What it has not begun must have been [taken back](WorkerHandle::revoke). (One that came as a message cannot be, and
    /// counts as begun.)
    pub(crate) fn cancel(&mut self, call: &Arc<Call>) -> bool {
        if self.broken.is_some() || !self.has_work_of(call) {
            return false;
        }
        self.take_results(Scope::Completed);
        let is_running = self.has_work_of(call);
        if is_running {
            self.fail_worker(Error::new(Cause::Cancelled));
        }
        is_running
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.broken.as_ref().is_some_and(Error::is_cancelled)
    }

    /// Kills it, if its item has run for longer than it may; then gives what it had not begun.
    pub(crate) fn end_overtime(&mut self) -> Vec<Chunk> {
        let Some(least) = self.in_flight.least_timeout().filter(|_| self.broken.is_none()) else {
            return Vec::new();
        };
        if self.running_for().is_none_or(|time| time < least) {
            return Vec::new();
        }
        self.take_results(Scope::Completed);
        if self.overtime().is_none() {
            return Vec::new();
        }
        let rest = self.revoke(u32::MAX);
        self.take_results(Scope::Completed);
        if let Some(timeout) = self.overtime() {
            self.fail_worker(Error::new(Cause::Overtime(timeout)));
        }
        rest
    }

    /// How long its item may run, if it has run for that long. All results must have been taken.
    fn overtime(&mut self) -> Option<Duration> {
        let timeout = self.in_flight.front()?.options.timeout?;
        (self.running_for()? >= timeout).then_some(timeout)
    }

    /// How long its item runs, by what the worker says or, if that is less, by what the pool has seen. The
    /// first is exact, but the worker can overwrite it.
    fn running_for(&mut self) -> Option<Duration> {
        let number = self.rings.results_taken();
        let has_claimed = self.rings.pending().is_ok_and(|pending| pending < self.in_flight.count());
        let runs = has_claimed && !self.rings.has_finished();
        let before = self.seen_running.filter(|&(seen, _)| seen == number);
        self.seen_running = runs.then(|| before.unwrap_or_else(|| (number, Instant::now())));
        self.rings.running_for().max(self.seen_running.map(|(_, since)| since.elapsed()))
    }

    /// Its item was stopped together with the pool between these instants of the
    /// [`clock`](crate::sys::clock::nanos), or for a part of that time, which does not count.
    pub(crate) fn shift_clock(&mut self, from: u64, until: u64) {
        self.rings.shift_clock(from, until);
        self.seen_running = None;
    }

    /// When to look next whether its item runs for too long.
    pub(crate) fn next_overtime_check(&self, now: Instant) -> Option<Instant> {
        let least = self.in_flight.least_timeout().filter(|_| self.broken.is_none())?;
        let Some(time) = self.rings.running_for() else {
            return now.checked_add(least); // nothing that begins later can be over sooner
        };
        // Only if nothing is finished that was not taken, the first in hand is the one that runs.
        let running = self.in_flight.front().filter(|_| !self.rings.has_finished());
        let timeout = running.and_then(|call| call.options.timeout).unwrap_or(least);
        now.checked_add(timeout.saturating_sub(time).min(least)) // one with the least may begin just now
    }
}

/// Ending the worker.
impl WorkerHandle {
    /// When its initializer must have returned, which may take so long from its start.
    pub(crate) fn initialized_by(&self, limit: Duration) -> Option<Instant> {
        let may_wait = self.has_initializer && !self.ready && self.broken.is_none();
        self.started_at.checked_add(limit).filter(|_| may_wait)
    }

    /// Kills it, if that has not.
    pub(crate) fn end_initializer(&mut self, limit: Duration) {
        if self.initialized_by(limit).is_some_and(|time| time <= Instant::now()) {
            let why = format!("its initializer did not return within {} s", limit.as_secs_f32());
            self.fail_worker(Error::new(Cause::Start(why)));
        }
    }

    /// Something about it is broken: it can do no good any more.
    pub(super) fn fail_worker(&mut self, why: Error) {
        self.broken.get_or_insert(why);
        self.escalate(false, true);
    }

    /// When it must be killed, because it was told to go and has not died of itself.
    pub(crate) fn set_kill_deadline(&self, timeout: Duration) -> Option<Instant> {
        if self.stop_signal == StopSignal::Killed {
            return None;
        }
        let leaving_since = self.leaving_since.and_then(|since| since.checked_add(timeout));
        self.hung_up_at.map(|since| since + EXIT_GRACE).into_iter().chain(leaving_since).min()
    }

    /// Ends one whose time is over.
    pub(crate) fn end(&mut self) {
        if self.hung_up_at.is_some() && self.leaving_since.is_none() {
            self.broken.get_or_insert_with(|| Error::new(Cause::LinkLost));
        }
        self.escalate(false, true);
    }

    /// Looks whether it has cut its lifeline, which mostly means that it is dying. But a task can have executed another
    /// program, or closed descriptors that are not its own.
    pub(crate) fn check_lifeline(&mut self) {
        if self.hung_up_at.is_none() && self.spawned.child.has_hung_up() {
            self.hung_up_at = Some(Instant::now());
        }
    }

    /// Tells it to go, if it has nothing in hand; says whether that is new.
    pub(crate) fn shut_down(&mut self) -> bool {
        let is_new = self.in_flight.count() == 0 && self.leaving_since.is_none();
        if is_new {
            self.leave_pool();
            self.rings.close();
        }
        is_new
    }

    fn leave_pool(&mut self) {
        self.leaving_since.get_or_insert_with(Instant::now);
    }

    /// Asks it to end, or kills it, if that has not been done before.
    pub(crate) fn escalate(&mut self, ask: bool, kill: bool) {
        if ask {
            self.leave_pool();
        }
        // A signal that the system refuses leaves nothing better to do than the next one.
        if kill && self.stop_signal < StopSignal::Killed {
            self.stop_signal = StopSignal::Killed;
            self.spawned.child.kill();
        } else if ask && self.stop_signal < StopSignal::Asked {
            self.stop_signal = StopSignal::Asked;
            let _ = self.spawned.child.terminate();
        }
    }

    pub(crate) fn shut_down_now(self) {
        self.spawned.child.kill();
        self.spawned.child.wait(Deadline::Never);
    }

    /// Settles the death of a worker. What it was running is lost, if it may not be run again, or not `may_retry`.
    pub(crate) fn reap(mut self, may_retry: bool) -> WorkerExit {
        failpoint::hit(Failpoint::Reaping);
        let (error, initializer_failed) = self.exit_cause();
        let error =
            if self.ready { error } else { error.during_startup() }.with_memory_limit(self.memory_limit);
        while self.take_results(Scope::Completed) {}
        // What was begun and has no result has failed: mostly that is one item, or none.
        // Where it has overwritten which ones those are, all have.
        let pending = if self.is_cancelled() { 0 } else { self.rings.pending().unwrap_or(0) };
        let pending = pending.min(self.in_flight.count());
        let mut rest = self.reclaim(pending);
        if may_retry && error.is_death() && self.in_flight.may_front_run_again() {
            let mut again = self.reclaim(self.in_flight.count());
            for chunk in &mut again {
                chunk.deaths += 1;
            }
            rest.splice(0..0, again);
        }
        self.fail(self.in_flight.count(), &error);
        let unasked = self.leaving_since.is_none();
        WorkerExit {
            error,
            failed_startup: !self.ready && unasked,
            exited_early: unasked && self.completed == 0 && self.started_at.elapsed() < EARLY_EXIT,
            initializer_failed,
            rest,
        }
    }

    /// Why it died, and whether that was its initializer's doing.
    fn exit_cause(&mut self) -> (Error, bool) {
        let origin = || Origin::Worker { pid: self.pid() };
        if let Some(why) = &self.broken {
            return (why.clone().with_origin(origin()), why.is_start());
        }
        let ended = self.spawned.result(&origin);
        match ended.and_then(|outcome| wire::decode_own::<Result<()>>(&outcome, Vec::new(), "a worker's end"))
        {
            Ok(Err(error)) => (error.or_with_origin(origin), !self.ready),
            Ok(Ok(())) => (self.spawned.child.exit_error(origin()), false),
            Err(error) => (error, false),
        }
    }

    pub(crate) fn fail_all(mut self, error: &Error) {
        self.spawned.child.kill();
        self.spawned.child.wait(Deadline::Never); // before the memory of its items is used again
        self.fail(self.in_flight.count(), error);
    }
}
