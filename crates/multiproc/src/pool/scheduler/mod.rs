//! The scheduler: the state of a pool, which is its workers, the chunks that wait, and its end.
//!
//! A single state behind one lock; whichever thread holds the lock advances it.

mod backlog;
mod broadcast;
mod dispatch;
mod housekeeping;
mod retire;
mod sleep;
mod stall;
mod worker_starts;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::{Cause, Error, Result};
use crate::pool::call::Call;
use crate::pool::chunk::Chunk;
use crate::pool::recording::Recording;
use crate::pool::stats::PoolStats;
use crate::pool::worker_handle::{ExitReason, WorkerHandle};
use crate::sys::clock;
use crate::sys::running_time::{CHECK_INTERVAL, RunningTime};
use crate::task::initializer::Initializer;
use crate::trace;

use self::backlog::Backlog;
use self::sleep::Sleep;
use self::worker_starts::Starts;

pub(crate) struct Scheduler {
    backlog: Backlog,
    workers: Vec<WorkerHandle>,
    phase: Phase,
    /// Why the pool cannot have workers; every call returns this error.
    broken: Option<Error>,
    policy: Policy,
    /// When to retry chunks for which a socket had no room, and results for which there was no descriptor.
    redispatch_at: Option<Instant>,
    /// When items unclaimed by a worker, or results that it has not made visible, are overdue. In nanoseconds
    /// of the clock that each poll reads anyway.
    stall_check_at: Option<u64>,
    /// The time from one such check to the next, in nanoseconds.
    stall_wait: u64,
    /// When the pool's thread began its last housekeeping.
    last_housekeeping: RunningTime,
    /// The time of the last poll, in nanoseconds.
    polled_at: u64,
    /// The time of the last check of what the workers have written.
    checked_at: u64,
    /// The time of the last check of their memory.
    measured_at: u64,
    /// Results have arrived since then, and their tasks may have grown the workers.
    unmeasured: bool,
    /// A call has received a result since the last poll.
    progressed: bool,
    /// Workers have items of their own that wait: those of broadcasts.
    has_worker_bound: bool,
    sleep: Sleep,
    starts: Starts,
    /// The statistics of the workers that have ended.
    ended: PoolStats,
}

/// The options of a pool that concern its workers.
#[derive(Clone)]
pub(crate) struct Policy {
    /// The process name of the workers.
    pub(crate) name: String,
    /// How many workers the pool keeps, at most.
    pub(crate) workers: usize,
    /// After how long an idle worker is shut down.
    pub(crate) idle_timeout: Option<Duration>,
    /// How many idle workers stay.
    pub(crate) min_workers: usize,
    /// Items per chunk; by default [`Call::target_chunk_len`].
    pub(crate) chunk_size: Option<u32>,
    /// Tasks after which a worker is replaced.
    pub(crate) max_tasks: Option<u64>,
    /// Bytes of growth after which a worker is replaced.
    pub(crate) max_growth: Option<u64>,
    /// Limit for a worker's shutdown.
    pub(crate) shutdown_timeout: Duration,
    /// Bytes of memory for each worker.
    pub(crate) memory_limit: Option<u64>,
    /// Limit from a worker's start until its initializer has returned.
    pub(crate) initializer_timeout: Duration,
    /// What each worker runs first. They may hold ends of queues, so they are dropped with the pool.
    pub(crate) initializers: Vec<Initializer>,
    /// Records tasks that fail, if the user asks for it.
    pub(crate) recording: Option<Arc<Recording>>,
}

impl Policy {
    /// How many workers there are without any work.
    pub(crate) fn least_workers(&self) -> usize {
        if self.idle_timeout.is_some() { self.workers.min(self.min_workers) } else { self.workers }
    }
}

enum Phase {
    Open,
    /// No new work; ends when none is left.
    Closed,
    /// No work at all; remaining workers get SIGTERM, then SIGKILL, at these instants. `None` is beyond the
    /// clock's range.
    Ending {
        terminate_at: Option<RunningTime>,
        kill_at: Option<RunningTime>,
    },
    /// The pool's thread has ended; a worker that still starts is killed.
    Ended,
}

/// The result of a poll.
#[derive(Clone, Copy, Default)]
pub(crate) struct PollResult {
    /// Results have arrived, or a worker has become ready.
    pub(crate) progressed: bool,
    /// Workers with items in flight.
    pub(crate) busy_workers: usize,
    /// A dispatch has woken a sleeping worker.
    pub(crate) woken: bool,
}

/// The delay before the next dispatch, since nothing announces free room or a free descriptor.
const REDISPATCH_AFTER: Duration = Duration::from_millis(2);
/// How long items may stay unclaimed with a worker that shows no result, and how long results may stay
/// invisible, in nanoseconds. Normally both take a few microseconds.
const STALL_LIMIT: u64 = 5_000_000;
/// The longest interval between two checks for invisible results, if all items were begun, in nanoseconds. The interval
/// grows while a long item runs and the checks find nothing.
const LONGEST_STALL_WAIT: u64 = 50_000_000;

/// For threads that call the pool:
impl Scheduler {
    pub(crate) fn new(policy: Policy) -> Self {
        Self {
            backlog: Backlog::default(),
            workers: Vec::new(),
            phase: Phase::Open,
            broken: None,
            policy,
            redispatch_at: None,
            stall_check_at: None,
            stall_wait: STALL_LIMIT,
            last_housekeeping: RunningTime::default(),
            polled_at: 0,
            checked_at: 0,
            measured_at: 0,
            unmeasured: false,
            progressed: false,
            has_worker_bound: false,
            sleep: Sleep::default(),
            starts: Starts::default(),
            ended: PoolStats::default(),
        }
    }

    pub(crate) fn check_open(&self) -> Result<()> {
        match (self.broken.as_ref().or_else(|| self.persistent_spawn_error()), &self.phase) {
            (Some(error), _) => Err(error.clone()),
            (None, Phase::Open) => Ok(()),
            (None, Phase::Closed | Phase::Ending { .. } | Phase::Ended) => Err(Error::new(Cause::Closed)),
        }
    }

    pub(crate) fn submit(&mut self, chunks: impl Iterator<Item = Chunk>) -> Result<()> {
        self.check_open()?;
        let now = clock::coarse_nanos();
        self.ignore_stopped_time(now);
        self.backlog.extend(chunks, now);
        self.dispatch();
        self.sleep.wake_requested |= self.policy.idle_timeout.is_some() && self.needs_worker();
        if self.stall_check_at.is_none_or(|time| time > now + STALL_LIMIT) && self.may_be_stuck() {
            self.stall_check_at = Some(now + STALL_LIMIT);
            self.sleep.wake_callers = true;
        }
        Ok(())
    }

    /// Withdraws the items of a call that no worker has claimed.
    pub(crate) fn withdraw(&mut self, call: &Arc<Call>) {
        self.fail_pending(call);
        self.dispatch();
    }

    /// Withdraws a call. An item that runs is asked to end if its call has a grace; otherwise its worker is killed.
    /// Returns whether an item was cancelled. The result of the call is [`Cause::Cancelled`] then; those of a lazy call
    /// are not read any more.
    pub(crate) fn cancel(&mut self, call: &Arc<Call>) -> bool {
        let mut is_cancelled = self.fail_pending(call);
        for worker in &mut self.workers {
            is_cancelled |= worker.cancel(call);
        }
        let next_end =
            self.workers.iter().filter_map(WorkerHandle::grace_until).min().map(RunningTime::sleep_until);
        self.sleep.wake_requested |= next_end.is_some_and(|time| self.sleep.wake_by(time));
        self.dispatch();
        is_cancelled
    }

    pub(crate) fn is_running(&self, call: &Arc<Call>) -> bool {
        self.workers.iter().any(|worker| worker.is_running(call))
    }

    /// Withdraws the unclaimed items of a call; returns whether there were any. Then one error is delivered for all of
    /// them.
    fn fail_pending(&mut self, call: &Arc<Call>) -> bool {
        for worker in self.workers.iter_mut().filter(|worker| worker.has_work_of(call)) {
            self.backlog.put_back(worker.revoke(u32::MAX));
        }
        let error = Error::new(Cause::Cancelled);
        let is_pausing = self.backlog.fail_pausing(call, &error);
        let is_any = self.backlog.withdraw(call);
        if is_any || is_pausing {
            trace::cancelled(None);
        }
        if is_any {
            let left = self.workers.iter().map(|worker| u64::from(worker.items_of(call))).sum();
            call.deliver_cancelled(left);
        }
        is_any || is_pausing
    }

    pub(crate) fn close(&mut self) {
        if matches!(self.phase, Phase::Open) {
            self.phase = Phase::Closed;
        }
    }

    pub(crate) fn end(&mut self, terminate_at: Option<RunningTime>, kill_at: Option<RunningTime>) {
        if matches!(self.phase, Phase::Ended) {
            return;
        }
        self.phase = Phase::Ending { terminate_at, kill_at };
        for worker in &mut self.workers {
            self.backlog.put_back(worker.revoke(u32::MAX));
        }
        self.fail_waiting(&Error::new(Cause::Cancelled));
    }

    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.phase, Phase::Ended)
    }

    pub(crate) fn stats(&self) -> PoolStats {
        let mut stats = self.ended.clone();
        let mut pending = self.backlog.items(usize::MAX) as u64 + self.backlog.pausing();
        for worker in &self.workers {
            *stats.worker(worker.index()) += &worker.stats();
            pending += u64::from(worker.in_flight()) + worker.worker_bound_count();
        }
        PoolStats { pending, ..stats }
    }

    pub(crate) fn worker_pids(&self) -> Vec<u32> {
        self.workers.iter().filter(|worker| worker.accepts_work()).map(WorkerHandle::pid).collect()
    }
}

/// For the thread that drives the pool:
impl Scheduler {
    /// Collects the workers' results and dispatches waiting chunks. When overdue, also takes invisible
    /// results and unclaimed items from workers. `now`, in nanoseconds, may be the time of the last tick. After a sleep
    /// until the [next check](Self::next_check) it must be exact, since that tick may lie before the check.
    pub(crate) fn poll(&mut self, now: u64) -> PollResult {
        let (mut polled, mut lacks_descriptor) = (PollResult::default(), false);
        self.ignore_stopped_time(now);
        self.check_workers(now);
        if self.backlog.end_pauses() {
            self.sleep.wake_requested |= self.needs_worker();
        }
        let is_stall_check = self.stall_check_at.is_some_and(|time| time <= now);
        for worker in &mut self.workers {
            let was_ready = worker.is_ready();
            if worker.in_flight() > 0 || !was_ready {
                polled.progressed |= worker.collect() || (is_stall_check && worker.take_unflushed());
                lacks_descriptor |= worker.has_unreceived();
            }
            if worker.is_ready() != was_ready {
                self.starts.on_ready();
            }
            if worker.in_flight() > 0 {
                polled.busy_workers += 1;
            } else if worker.is_retired()
                || self.policy.max_tasks.is_some_and(|most| worker.assigned() >= most)
            {
                self.sleep.wake_requested |= worker.shut_down(ExitReason::Tasks); // the pool's thread starts its successor
            }
        }
        self.retire_overgrown(now, polled.progressed);
        if is_stall_check {
            self.revoke_from_stalled();
        }
        self.dispatch();
        self.steal_work();
        if lacks_descriptor {
            self.redispatch_at = Some(Instant::now() + REDISPATCH_AFTER);
        }
        self.plan_stall_check(now, is_stall_check, polled.progressed);
        self.shut_down_idle();
        polled.progressed |= std::mem::take(&mut self.progressed);
        polled.woken = self.workers.iter_mut().fold(false, |woken, worker| worker.was_woken() | woken);
        polled
    }

    /// Sets when to take unclaimed items and invisible results, if there may be any.
    fn plan_stall_check(&mut self, now: u64, was_check: bool, progressed: bool) {
        let may_be_stuck = self.may_be_stuck();
        let is_needed = may_be_stuck || self.workers.iter().any(WorkerHandle::may_have_unflushed);
        if may_be_stuck || progressed {
            self.stall_wait = STALL_LIMIT;
        } else if was_check {
            self.stall_wait = (2 * self.stall_wait).min(LONGEST_STALL_WAIT);
        }
        let planned = self.stall_check_at.filter(|_| !was_check).unwrap_or(u64::MAX);
        self.stall_check_at = is_needed.then(|| planned.min(now + self.stall_wait));
    }

    /// Whether a poll and the pool's thread have nothing to do: no item waits or runs, and the pool is open, without an
    /// idle timeout, and measured.
    pub(crate) fn is_at_rest(&self) -> bool {
        let is_open = matches!(self.phase, Phase::Open) && self.policy.idle_timeout.is_none();
        let is_open = is_open && !self.unmeasured;
        is_open && self.backlog.is_empty() && self.workers.iter().all(WorkerHandle::is_idle)
    }

    /// Whether items may lie with a worker that is not about to begin them, and another could. False if no worker is
    /// ready.
    fn may_be_stuck(&self) -> bool {
        let has_others = self.has_others();
        self.has_ready() && self.workers.iter().any(|worker| worker.may_be_stuck(has_others))
    }

    fn has_ready(&self) -> bool {
        self.workers.iter().any(WorkerHandle::is_ready)
    }

    /// Whether another worker can run what one does not begin: one that is there, or can be started.
    fn has_others(&self) -> bool {
        self.workers.len() > 1 || self.policy.workers > 1
    }

    /// Twice a second, checks what the workers have written against what the pool knows by itself.
    fn check_workers(&mut self, now: u64) {
        if u128::from(now.saturating_sub(self.checked_at)) >= CHECK_INTERVAL.as_nanos() {
            self.checked_at = now;
            self.workers.iter_mut().for_each(|worker| self.progressed |= worker.check());
        }
    }

    /// When to poll again at the latest.
    pub(crate) fn next_check(&self) -> Option<Instant> {
        let coarse = self.stall_check_at.into_iter().chain(self.next_measurement()).min();
        let coarse = coarse
            .map(|time| Instant::now() + Duration::from_nanos(time.saturating_sub(clock::coarse_nanos())));
        self.redispatch_at
            .into_iter()
            .chain(coarse)
            .chain(self.backlog.pauses_until().map(RunningTime::sleep_until))
            .min()
    }

    /// Shuts down workers that an ending pool no longer needs. A caller may collect their last results, so
    /// this is not left to the pool's thread.
    fn shut_down_idle(&mut self) {
        let is_ending = self.broken.is_some() || matches!(self.phase, Phase::Ending { .. });
        let is_closed = matches!(self.phase, Phase::Closed) && self.backlog.is_empty();
        // An idle worker may still be needed for what others have not claimed.
        if is_ending || is_closed && self.workers.iter_mut().all(|worker| worker.not_begun() == 0) {
            for worker in &mut self.workers {
                self.sleep.wake_requested |= worker.shut_down(ExitReason::Other);
            }
        }
    }
}
