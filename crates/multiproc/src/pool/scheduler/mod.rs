//! Who does what: the chunks that wait, the workers, and what each of them has in hand.
//!
//! One state, changed by one event at a time; whoever holds the lock around it may move it along.

mod backlog;
mod respawn;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::{Cause, Error, Result};
use crate::pool::call::{Call, ResultBatch};
use crate::pool::chunk::Chunk;
use crate::pool::worker_handle::{Dispatched, WorkerHandle};
use crate::pool::worker_main::Initializer;
use crate::sys::clock;

use self::backlog::Backlog;
pub(crate) use self::respawn::CHECK_INTERVAL;

pub(crate) struct Scheduler {
    backlog: Backlog,
    workers: Vec<WorkerHandle>,
    phase: Phase,
    /// Why workers cannot be had, if that is so: every call gets this error.
    broken: Option<Error>,
    policy: Policy,
    /// When to offer chunks again that the system had no room for, and to receive results for which it had no descriptor.
    retry_at: Option<Instant>,
    /// When what lies with a worker has lain there for too long: items that it has not begun, and results
    /// that it holds back. Counted from the first look that has seen some.
    /// In nanoseconds of the coarse clock, which a look at the workers reads anyway.
    rebalance_at: Option<u64>,
    /// At which tick of the clock the pool was looked after last.
    polled_at: u64,
    /// At which tick of the clock what the workers have written was checked last.
    checked_at: u64,
    /// Some call has got a result otherwise than by a turn.
    progressed: bool,
    sleep: Sleep,
    /// Since when the system has refused new workers, and how.
    spawn_refused: Option<(Instant, Error)>,
    /// How many workers are being started.
    spawning: usize,
    /// The pool's thread has ended.
    is_over: bool,
    /// A worker has been ready once.
    has_started: bool,
    /// How many workers in a row have died before they were ready.
    failed_startup: u32,
    /// How many in a row have died soon after their start, having run nothing.
    exited_early: u32,
    /// Until when no new ones are started.
    paused_until: Option<Instant>,
}

/// What the pool was told about its workers.
#[derive(Clone)]
pub(crate) struct Policy {
    /// How many there should be.
    pub(crate) workers: usize,
    /// How many items go to one of them at once; by default as many as are worthwhile.
    pub(crate) chunk_size: Option<u32>,
    /// After how many tasks each is replaced.
    pub(crate) max_tasks: Option<u64>,
    /// How long one may take to end.
    pub(crate) shutdown_timeout: Duration,
    /// How many bytes of memory each may have.
    pub(crate) memory_limit: Option<u64>,
    /// How long after its start one may take for that.
    pub(crate) initializer_timeout: Duration,
    /// What each runs first. It may hold ends of queues, so it goes when the pool does.
    pub(crate) initializer: Option<Initializer>,
}

enum Phase {
    Open,
    /// No new work; ends when there is none left.
    Closed,
    /// No work at all; whoever is still there is asked to end at the first time, and killed at the second. A time so
    /// far away that the clock cannot say it never comes.
    Ending {
        ask: Option<Instant>,
        kill: Option<Instant>,
    },
}

/// What a look at the workers has brought.
#[derive(Clone, Copy, Default)]
pub(crate) struct PollResult {
    /// Results have come, or a worker is ready.
    pub(crate) progressed: bool,
    /// How many workers have something in hand.
    pub(crate) busy: usize,
    /// One of them was asleep when it was given something.
    pub(crate) woken: bool,
}

/// That of the pool's thread.
#[derive(Default)]
struct Sleep {
    /// How long it lasts, unless the thread is woken.
    until: Option<Instant>,
    /// It lasts too long.
    must_end: bool,
}

impl Sleep {
    /// Makes it end at that time at the latest; says whether the thread must be woken for that.
    fn end_by(&mut self, time: Instant) -> bool {
        let lasts_longer = self.until.is_none_or(|until| until > time);
        if lasts_longer {
            self.until = Some(time);
        }
        lasts_longer
    }
}

/// After the system had no room for a chunk, how long until the next try. (Nothing announces that there is room.)
const RETRY_AFTER: Duration = Duration::from_millis(2);
/// How long items may lie in the rings of a worker that shows no result, and how long results may be held
/// back, in nanoseconds. Where all is well, both take some microseconds.
const REBALANCE_AFTER: u64 = 5_000_000;
/// Less work than this is not worth to be taken from one worker and given to another.
const MIN_REBALANCED: Duration = Duration::from_millis(1);

/// What callers cause.
impl Scheduler {
    pub(crate) fn new(policy: Policy) -> Self {
        Self {
            backlog: Backlog::default(),
            workers: Vec::new(),
            phase: Phase::Open,
            broken: None,
            policy,
            retry_at: None,
            rebalance_at: None,
            polled_at: 0,
            checked_at: 0,
            progressed: false,
            sleep: Sleep::default(),
            spawn_refused: None,
            spawning: 0,
            is_over: false,
            has_started: false,
            failed_startup: 0,
            exited_early: 0,
            paused_until: None,
        }
    }

    pub(crate) fn check_open(&self) -> Result<()> {
        match (self.broken.as_ref().or_else(|| self.lasting_refusal()), &self.phase) {
            (Some(error), _) => Err(error.clone()),
            (None, Phase::Open) => Ok(()),
            (None, Phase::Closed | Phase::Ending { .. }) => Err(Error::new(Cause::Closed)),
        }
    }

    pub(crate) fn submit(&mut self, chunks: impl Iterator<Item = Chunk>) -> Result<()> {
        self.check_open()?;
        let now = clock::ticks();
        self.ignore_stopped_time(now);
        self.backlog.extend(chunks);
        self.dispatch();
        if self.rebalance_at.is_none() && self.may_be_stuck() {
            self.rebalance_at = Some(now + REBALANCE_AFTER);
        }
        Ok(())
    }

    /// Takes back what no worker has begun of a call.
    pub(crate) fn withdraw(&mut self, call: &Arc<Call>) {
        self.fail_pending(call);
        self.dispatch();
    }

    /// Takes back a call of one item, if no worker has begun it; else ends the worker. Says whether its error is now that it
    /// was cancelled.
    pub(crate) fn cancel(&mut self, call: &Arc<Call>) -> bool {
        let is_cancelled =
            self.fail_pending(call) || self.workers.iter_mut().any(|worker| worker.cancel(call));
        self.dispatch();
        is_cancelled
    }

    /// Says whether there was anything. Of a call of one item, that has its error then; of any other, the
    /// caller is gone.
    fn fail_pending(&mut self, call: &Arc<Call>) -> bool {
        for worker in self.workers.iter_mut().filter(|worker| worker.has_work_of(call)) {
            self.backlog.put_back(worker.revoke(u32::MAX));
        }
        let is_any = self.backlog.withdraw(call);
        if is_any {
            call.deliver(ResultBatch::Lost { first: 0, count: 1, error: Error::new(Cause::Cancelled) });
        }
        is_any
    }

    pub(crate) fn close(&mut self) {
        if matches!(self.phase, Phase::Open) {
            self.phase = Phase::Closed;
        }
    }

    pub(crate) fn end(&mut self, ask: Option<Instant>, kill: Option<Instant>) {
        self.phase = Phase::Ending { ask, kill };
        for worker in &mut self.workers {
            self.backlog.put_back(worker.revoke(u32::MAX));
        }
        self.fail_waiting(&Error::new(Cause::Cancelled));
    }

    pub(crate) fn worker_pids(&self) -> Vec<u32> {
        self.workers.iter().filter(|worker| worker.accepts_work()).map(WorkerHandle::pid).collect()
    }
}

/// What whoever waits for results does.
impl Scheduler {
    /// Takes in what the workers have said, and hands out what waits. When it is late, also what they hold back, and what
    /// lies too long with one of them.
    pub(crate) fn poll(&mut self) -> PollResult {
        let (mut polled, mut is_short) = (PollResult::default(), false);
        let now = clock::ticks();
        self.ignore_stopped_time(now);
        self.check_workers(now);
        let is_late = self.rebalance_at.is_some_and(|time| time <= now);
        for worker in &mut self.workers {
            let was_ready = worker.is_ready();
            if worker.in_flight() > 0 || !was_ready {
                polled.progressed |= worker.collect() || (is_late && worker.take_unflushed());
                is_short |= worker.has_unreceived();
            }
            if worker.is_ready() != was_ready {
                self.failed_startup = 0;
                self.has_started = true;
            }
            if worker.in_flight() > 0 {
                polled.busy += 1;
            } else if self.policy.max_tasks.is_some_and(|most| worker.assigned() >= most) {
                self.sleep.must_end |= worker.shut_down(); // its successor is the thread's business
            }
        }
        if is_late {
            let has_others = self.workers.len() > 1;
            for worker in &mut self.workers {
                self.backlog.put_back(worker.make_way(has_others));
            }
        }
        self.dispatch();
        if is_short {
            self.retry_at = Some(Instant::now() + RETRY_AFTER);
        }
        self.rebalance();
        let is_stuck = self.may_be_stuck() || self.workers.iter().any(WorkerHandle::may_have_unflushed);
        self.rebalance_at = match self.rebalance_at.filter(|_| is_stuck && !is_late) {
            None if is_stuck => Some(now + REBALANCE_AFTER),
            rebalance_at => rebalance_at,
        };
        self.shut_down_idle();
        polled.progressed |= std::mem::take(&mut self.progressed);
        polled.woken = self.workers.iter_mut().fold(false, |woken, worker| worker.was_woken() | woken);
        polled
    }

    /// Whether items may lie with a worker that is not about to begin them.
    fn may_be_stuck(&self) -> bool {
        let has_others = self.workers.len() > 1;
        self.workers.iter().any(|worker| worker.may_be_stuck(has_others))
    }

    /// Twice a second, checks what the workers have written against what the pool knows by itself.
    fn check_workers(&mut self, now: u64) {
        if u128::from(now.saturating_sub(self.checked_at)) >= CHECK_INTERVAL.as_nanos() {
            self.checked_at = now;
            self.workers.iter_mut().for_each(|worker| self.progressed |= worker.check());
        }
    }

    /// When to take a turn again at the latest.
    pub(crate) fn next_check(&self) -> Option<Instant> {
        let rebalance_at = self
            .rebalance_at
            .map(|time| Instant::now() + Duration::from_nanos(time.saturating_sub(clock::ticks())));
        self.retry_at.into_iter().chain(rebalance_at).min()
    }

    /// Gives waiting chunks to workers that have room, to those first that have the least to do.
    fn dispatch(&mut self) {
        self.retry_at = None;
        while let Some(chunk) = self.backlog.front_mut() {
            let target_len = u32::try_from(chunk.call.target_len()).unwrap_or(u32::MAX);
            let size = self.policy.chunk_size.unwrap_or(target_len);
            let most = size.max(target_len).saturating_mul(2);
            let may_run = |worker: &WorkerHandle| match self.policy.max_tasks {
                Some(most) => u32::try_from(most.saturating_sub(worker.assigned())).unwrap_or(u32::MAX),
                None => u32::MAX,
            };
            let can_take = |worker: &&mut WorkerHandle| worker.has_room(chunk, most) && may_run(worker) > 0;
            let load = |worker: &&mut WorkerHandle| (worker.may_be_stopped(), worker.in_flight());
            let Some(worker) = self.workers.iter_mut().filter(can_take).min_by_key(load) else { return };
            let outcome = worker.dispatch(chunk, size.min(may_run(worker)));
            let mut is_gone = chunk.count == 0;
            match outcome {
                Dispatched::Accepted => {
                    let timeout = chunk.call.options.timeout;
                    let deadline = timeout.and_then(|time| Instant::now().checked_add(time));
                    self.sleep.must_end |= deadline.is_some_and(|deadline| self.sleep.end_by(deadline));
                }
                Dispatched::Full => {}
                Dispatched::WouldBlock => {
                    self.retry_at = Some(Instant::now() + RETRY_AFTER);
                    return;
                }
                Dispatched::Failed(error) => {
                    chunk.fail(&error);
                    (is_gone, self.progressed) = (true, true);
                }
            }
            if is_gone {
                self.backlog.pop_front();
            }
        }
    }

    /// Lets idle workers have some of what others have not begun, unless those will be done with it sooner.
    /// Where that turns out to be wrong, they [give way](WorkerHandle::make_way).
    fn rebalance(&mut self) {
        if !self.backlog.is_empty() || !self.workers.iter().any(WorkerHandle::is_idle) {
            return;
        }
        let unbegun = self.workers.iter_mut().map(|worker| (worker.pending(false), worker));
        let Some((count, busiest)) = unbegun.max_by_key(|(count, _)| *count) else { return };
        if count > 0 && busiest.time_for(count) >= MIN_REBALANCED {
            self.backlog.put_back(busiest.revoke(count.div_ceil(2)));
            self.dispatch();
        }
    }

    /// Lets go of workers that will not be needed: in a pool that is about to end, those that have nothing more to do. It
    /// may be a caller who takes their last results, so it is not for the pool's thread alone.
    fn shut_down_idle(&mut self) {
        let is_ending = self.broken.is_some() || matches!(self.phase, Phase::Ending { .. });
        let is_closed = matches!(self.phase, Phase::Closed) && self.backlog.is_empty();
        // What others have not begun may have to go to one that is idle.
        if is_ending || is_closed && self.workers.iter_mut().all(|worker| worker.pending(true) == 0) {
            for worker in &mut self.workers {
                self.sleep.must_end |= worker.shut_down();
            }
        }
    }
}
