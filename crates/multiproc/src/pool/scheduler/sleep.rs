//! How long the pool's thread may sleep, and what wakes it.

use std::time::Instant;

use super::{Phase, Scheduler};
use crate::pool::worker_handle::WorkerHandle;
use crate::sys::running_time::{CHECK_INTERVAL, RunningTime};

/// The sleep of the pool's thread.
#[derive(Default)]
pub(super) struct Sleep {
    /// When it ends, unless the thread is woken.
    until: Option<Instant>,
    /// The thread must be woken.
    pub(super) wake_requested: bool,
    /// So must the callers: they would sleep past a check that was planned since.
    pub(super) wake_callers: bool,
}

impl Sleep {
    /// Ends the sleep at `time` at the latest; returns whether the thread must be woken for that.
    pub(super) fn wake_by(&mut self, time: Instant) -> bool {
        let lasts_longer = self.until.is_none_or(|until| until > time);
        if lasts_longer {
            self.until = Some(time);
        }
        lasts_longer
    }
}

impl Scheduler {
    /// When [`Scheduler::run_housekeeping`] has something to do that no event announces.
    pub(crate) fn next_step(&self) -> Option<Instant> {
        let (terminate_at, kill_at) = match self.phase {
            Phase::Ending { terminate_at, kill_at } => (terminate_at, kill_at),
            _ => (None, None),
        };
        let now = Instant::now();
        let kill_deadlines = self.workers.iter().filter_map(WorkerHandle::kill_at);
        let dying = self.workers.iter().filter_map(WorkerHandle::dying_until);
        let graces = self.workers.iter().filter_map(WorkerHandle::grace_until);
        let timeouts = self.workers.iter().filter_map(|worker| worker.next_time_limit_check(now));
        let initialized = self.workers.iter().filter_map(WorkerHandle::initialize_by);
        // What has passed before the last housekeeping was handled there. What has passed since is due.
        let times = [terminate_at, kill_at, self.starts.paused_until()]
            .into_iter()
            .flatten()
            .filter(|&time| time > self.last_housekeeping);
        // A process stopped or killed between a change and its notification wakes no thread, and a caller may be
        // busy decoding results.
        let watch = self.has_work().then(|| now + CHECK_INTERVAL);
        let limits = kill_deadlines
            .chain(dying)
            .chain(graces)
            .chain(initialized)
            .chain(times)
            .chain(self.next_idle_end());
        limits.map(RunningTime::sleep_until).chain(timeouts).chain(self.next_check()).chain(watch).min()
    }

    /// Whether the pool has work that could be stuck.
    fn has_work(&self) -> bool {
        let is_idle = |worker: &WorkerHandle| worker.in_flight() == 0 && worker.accepts_work();
        !self.backlog.is_empty() || self.has_worker_bound || !self.workers.iter().all(is_idle)
    }

    /// Records and returns when the pool's thread must wake up.
    pub(crate) fn prepare_sleep(&mut self) -> Option<Instant> {
        self.sleep = Sleep { until: self.next_step(), ..Sleep::default() };
        self.sleep.until
    }

    /// Whether the pool's thread would sleep past the next step.
    pub(crate) fn sleeps_past_next_step(&mut self) -> bool {
        self.next_step().is_some_and(|next| self.sleep.wake_by(next))
    }

    /// Whether the pool's thread must be woken for what callers do not handle: a time limit, or the exit of a
    /// worker.
    pub(crate) fn must_wake(&mut self) -> bool {
        std::mem::take(&mut self.sleep.wake_requested)
    }

    /// Whether callers must be woken: a result has arrived outside a poll, or there is a check or a retry that they
    /// do not know.
    pub(crate) fn needs_caller_wake(&mut self) -> bool {
        let has_new_check = std::mem::take(&mut self.sleep.wake_callers);
        std::mem::take(&mut self.progressed) || has_new_check || self.redispatch_at.is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use nix::errno::Errno;

    use super::*;
    use crate::error::Error;
    use crate::pool::builder::PoolBuilder;
    use crate::pool::scheduler::Policy;

    /// No work waits that would have the thread look again.
    #[test]
    fn a_pause_that_passes_before_the_thread_sleeps_is_not_slept_through() {
        let idle_timeout = Some(Duration::from_secs(3600));
        let policy = Policy { workers: 1, idle_timeout, ..PoolBuilder::new().config.policy };
        let mut scheduler = Scheduler::new(policy);
        scheduler.spawn_failed(Error::os("create a process", Errno::EAGAIN));
        assert!(scheduler.run_housekeeping() && scheduler.begin_start().is_none());
        while !scheduler.starts.paused_until().unwrap().is_past() {
            thread::yield_now();
        }
        let is_due = |until: Option<Instant>| until.is_some_and(|until| until <= Instant::now());
        assert!(is_due(scheduler.prepare_sleep()));
        assert!(scheduler.run_housekeeping() && scheduler.begin_start().is_some());
        assert!(!is_due(scheduler.prepare_sleep()), "the thread does not sleep");
    }
}
