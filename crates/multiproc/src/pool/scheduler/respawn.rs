//! Keeping up a pool's workers: starting as many as there should be, settling deaths, ending those whose time is over.

use std::time::{Duration, Instant};

use super::{Phase, Policy, Scheduler, Sleep};
use crate::error::{Cause, Error};
use crate::pool::worker_handle::{WorkerConfig, WorkerExit, WorkerHandle};
use crate::sys::clock;

/// So many workers in a row may die before they are ready; then it is no accident. (Somebody who kills workers at
/// random hits a new one now and then; a worker that crashes at birth does so every time.)
const MAX_STARTUP_FAILURES: u32 = 20;
/// So many in a row may die soon after their start, having run nothing. From then on there is a pause after each such
/// death, so that a worker that cannot live does not take up the machine. It is no error, as no call may have been harmed.
const MAX_EARLY_EXITS: u32 = 20;
/// After the system has refused a new worker, how long until the next try; and how long a pool that has no other
/// worker tries before its work fails. The first is also the pause after a death too many.
const RETRY: Duration = Duration::from_millis(100);
const GIVE_UP: Duration = Duration::from_secs(3);
/// How long nobody looks at most while there is work. One who is stopped, or killed, after he has changed something and
/// before he has rung wakes nobody; and a caller may be busy with decoding what has come.
pub(crate) const CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// When the pool is looked after so much later than it should be, its process was stopped.
const LATE_AFTER: Duration = Duration::from_millis(250);

/// What the pool's thread does.
impl Scheduler {
    /// Whether one should be started. One at a time.
    pub(crate) fn needs_worker(&self) -> bool {
        if self.spawning > 0 || self.paused_until.is_some_and(|end| end > Instant::now()) {
            return false;
        }
        let accepting = || self.workers.iter().filter(|worker| worker.accepts_work());
        let wanted = match self.phase {
            Phase::Ending { .. } => 0,
            _ if self.broken.is_some() => 0,
            Phase::Open => self.policy.workers,
            Phase::Closed => {
                let busy = accepting().filter(|worker| worker.in_flight() > 0).count();
                self.policy.workers.min(busy + self.backlog.items(self.policy.workers))
            }
        };
        accepting().count() < wanted
    }

    /// A worker is being started: from when it is asked for until it is here, or refused.
    pub(crate) fn next_worker(&mut self) -> WorkerConfig {
        self.spawning += 1; // of which there is only this one, so its index is no other's
        let accepting = || self.workers.iter().filter(|worker| worker.accepts_work());
        let index = (0..self.policy.workers)
            .find(|&index| accepting().all(|worker| worker.index() != index))
            .unwrap_or(0);
        let Policy { initializer, memory_limit, .. } = &self.policy;
        WorkerConfig { index, initializer: initializer.clone(), memory_limit: *memory_limit }
    }

    pub(crate) fn add(&mut self, worker: WorkerHandle) {
        self.spawning -= 1;
        self.spawn_refused = None;
        if self.is_over {
            return worker.shut_down_now();
        }
        self.workers.push(worker);
    }

    /// Settles deaths, and ends workers that are to end; says whether there is anything left to wait for.
    pub(crate) fn maintain(&mut self) -> bool {
        self.ignore_stopped_time(clock::ticks());
        while let Some(place) = self.workers.iter().position(WorkerHandle::has_ended) {
            let worker = self.workers.swap_remove(place);
            self.reap(worker);
        }
        for worker in &mut self.workers {
            self.backlog.put_back(worker.end_overtime());
        }
        self.poll();
        self.end_workers();
        let may_end = match self.phase {
            Phase::Open => false,
            Phase::Closed => self.backlog.is_empty(), // as it always is in a broken pool
            Phase::Ending { .. } => true,
        };
        // Who is being started still is killed when he comes.
        let is_time = matches!(self.phase, Phase::Ending { kill, .. } if kill.is_some_and(|time| time <= Instant::now()));
        let is_over = may_end && self.workers.is_empty() && (self.spawning == 0 || is_time);
        if is_over {
            self.policy.initializer = None;
            self.is_over = true;
        }
        !is_over
    }

    /// Where nothing has looked after the pool for much longer than it does, though a worker had something in
    /// hand, this process was stopped, and its workers with it as a rule: the whole time counts for no item's
    /// limit, since nothing tells when in it the stop began. To be called with the time of the coarse clock at
    /// each look.
    pub(super) fn ignore_stopped_time(&mut self, now: u64) {
        let before = std::mem::replace(&mut self.polled_at, now);
        let gap = Duration::from_nanos(now.saturating_sub(before));
        if gap > CHECK_INTERVAL + LATE_AFTER && self.workers.iter().any(|worker| worker.in_flight() > 0) {
            let now = clock::nanos();
            self.workers.iter_mut().for_each(|worker| worker.shift_clock(before, now));
        }
    }

    /// Presses workers that should be gone.
    fn end_workers(&mut self) {
        let now = Instant::now();
        let is_over = |time: Option<Instant>| time.is_some_and(|time| now >= time);
        for worker in &mut self.workers {
            worker.check_lifeline();
            if is_over(worker.set_kill_deadline(self.policy.shutdown_timeout)) {
                worker.end();
            }
            worker.end_initializer(self.policy.initializer_timeout);
            if let Phase::Ending { ask, kill } = self.phase {
                worker.escalate(is_over(ask), is_over(kill));
            }
        }
    }

    /// When [`Scheduler::maintain`] will have something to do that no event announces.
    pub(crate) fn next_step(&self) -> Option<Instant> {
        let (ask, kill) = match self.phase {
            Phase::Ending { ask, kill } => (ask, kill),
            _ => (None, None),
        };
        let now = Instant::now();
        let kill_deadlines =
            self.workers.iter().filter_map(|worker| worker.set_kill_deadline(self.policy.shutdown_timeout));
        let timeouts = self.workers.iter().filter_map(|worker| worker.next_overtime_check(now));
        let limit = self.policy.initializer_timeout;
        let initialized = self.workers.iter().filter_map(|worker| worker.initialized_by(limit));
        let times = [ask, kill, self.paused_until].into_iter().flatten().filter(|&time| time > now);
        let watch = self.is_busy().then(|| now + CHECK_INTERVAL);
        kill_deadlines
            .chain(timeouts)
            .chain(initialized)
            .chain(times)
            .chain(self.next_check())
            .chain(watch)
            .min()
    }

    /// Whether there is anything that could be stuck.
    fn is_busy(&self) -> bool {
        let is_idle = |worker: &WorkerHandle| worker.in_flight() == 0 && worker.accepts_work();
        !self.backlog.is_empty() || !self.workers.iter().all(is_idle)
    }

    /// The pool's thread is about to sleep; gives until when.
    pub(crate) fn prepare_sleep(&mut self) -> Option<Instant> {
        self.sleep = Sleep { until: self.next_step(), must_end: false };
        self.sleep.until
    }

    /// Whether the pool's thread must be woken, lest it sleep through the next step.
    pub(crate) fn would_oversleep(&mut self) -> bool {
        self.next_step().is_some_and(|next| self.sleep.end_by(next))
    }

    /// Whether the pool's thread must be woken for what callers do not see to: an item's time that will be over, or a worker
    /// that goes.
    pub(crate) fn must_wake(&mut self) -> bool {
        std::mem::take(&mut self.sleep.must_end)
    }

    /// Whether callers must be woken: some result has come otherwise than by a turn, or there is a time to look again that
    /// they do not know of.
    pub(crate) fn needs_caller_wake(&mut self) -> bool {
        std::mem::take(&mut self.progressed) || self.retry_at.is_some()
    }

    /// Settles what a dead worker had in hand: only the item that it was running fails, or is run once more.
    fn reap(&mut self, worker: WorkerHandle) {
        let may_retry = self.broken.is_none() && !matches!(self.phase, Phase::Ending { .. });
        let WorkerExit { error, failed_startup, exited_early, initializer_failed, rest } =
            worker.reap(may_retry);
        self.backlog.put_back(rest);
        self.exited_early = if exited_early { self.exited_early + 1 } else { 0 };
        if self.exited_early >= MAX_EARLY_EXITS {
            self.paused_until = Some(Instant::now() + RETRY);
        }
        if failed_startup {
            self.failed_startup += 1;
            let has_conditions = self.policy.initializer.is_some() || self.policy.memory_limit.is_some();
            let cannot_live = initializer_failed && has_conditions || error.is_start() && !self.has_started;
            if cannot_live || self.failed_startup >= MAX_STARTUP_FAILURES {
                self.fail(&error);
            } else if self.failed_startup > 1 {
                self.paused_until = Some(Instant::now() + RETRY);
            }
        }
        if self.broken.is_some() || matches!(self.phase, Phase::Ending { .. }) {
            let error = self.broken.clone().unwrap_or_else(|| Error::new(Cause::Cancelled));
            self.fail_waiting(&error); // what the dead had not begun
        }
    }

    /// The system refuses a new worker. If others live, the pool goes on with them; if it has been so for a while and
    /// none lives, all that waits has this error, and what comes, until there is a worker again. It tries on.
    pub(crate) fn spawn_failed(&mut self, error: Error) {
        self.spawning -= 1;
        let now = Instant::now();
        let since = self.spawn_refused.take().map_or(now, |(since, _)| since);
        self.spawn_refused = Some((since, error));
        if let Some(error) = self.lasting_refusal().cloned() {
            if error.os_error().is_some() {
                self.fail_waiting(&error);
            } else {
                self.fail(&error); // of what is no lack of something, the next try would not be better
            }
        }
        self.paused_until = Some(now + RETRY);
    }

    pub(super) fn lasting_refusal(&self) -> Option<&Error> {
        let (since, error) = self.spawn_refused.as_ref()?;
        (self.workers.is_empty() && since.elapsed() >= GIVE_UP).then_some(error)
    }

    fn fail(&mut self, error: &Error) {
        self.broken.get_or_insert_with(|| error.clone());
        self.fail_waiting(error);
    }

    pub(super) fn fail_waiting(&mut self, error: &Error) {
        self.backlog.fail(error);
    }

    /// Ends everything on the spot: all that is left to do has this error.
    pub(crate) fn give_up(&mut self, error: &Error) {
        self.fail(error);
        for worker in std::mem::take(&mut self.workers) {
            worker.fail_all(error);
        }
    }

    pub(crate) fn kill_all(&mut self) {
        for worker in std::mem::take(&mut self.workers) {
            worker.shut_down_now();
        }
    }
}
