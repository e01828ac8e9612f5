//! Housekeeping on the pool's thread: time limits, workers that should have ended, the pool's end.

use std::time::Duration;

use super::{Phase, Scheduler};
use crate::pool::worker_handle::WorkerHandle;
use crate::sys::clock;
use crate::sys::running_time::{LONGEST_GAP, RunningTime};

impl Scheduler {
    /// Reaps dead workers, and ends those that are due; returns whether the pool goes on.
    pub(crate) fn run_housekeeping(&mut self) -> bool {
        self.last_housekeeping = RunningTime::now();
        // One time for both, or a stop between them counted against the limits.
        let now = clock::nanos();
        self.ignore_stopped_time(now);
        while let Some(index) = self.workers.iter().position(WorkerHandle::has_ended) {
            let worker = self.workers.swap_remove(index);
            self.reap(worker);
        }
        for worker in &mut self.workers {
            worker.enforce_grace();
            self.backlog.put_back(worker.enforce_time_limit(now));
        }
        self.poll(now);
        self.shut_down_idle_for_long();
        self.end_workers();
        let may_end = match self.phase {
            Phase::Open => false,
            Phase::Closed => self.backlog.is_empty(), // as it always is in a broken pool
            Phase::Ending { .. } | Phase::Ended => true,
        };
        // A worker still being started is killed by `add`.
        let is_time = matches!(self.phase, Phase::Ending { kill_at: Some(time), .. } if time.is_past());
        let is_over = may_end && self.workers.is_empty() && (!self.starts.is_spawning() || is_time);
        if is_over {
            self.policy.initializers.clear();
            self.phase = Phase::Ended;
        }
        !is_over
    }

    /// Detects that this process, and usually its workers, were stopped: no thread has polled for longer than
    /// [`LONGEST_GAP`] while a worker had items. The whole gap counts against none of their limits, since the stop's
    /// begin is unknown. (A worker says when its item has begun, so [`RunningTime`] cannot tell.) Called at each poll
    /// with the time.
    pub(super) fn ignore_stopped_time(&mut self, now: u64) {
        let before = std::mem::replace(&mut self.polled_at, now);
        let gap = Duration::from_nanos(now.saturating_sub(before));
        if gap > LONGEST_GAP && self.workers.iter().any(|worker| worker.in_flight() > 0) {
            let now = clock::nanos();
            self.workers.iter_mut().for_each(|worker| worker.exclude_time(before, now));
        }
    }

    /// Terminates or kills workers that should have exited.
    fn end_workers(&mut self) {
        let is_over = |time: Option<RunningTime>| time.is_some_and(RunningTime::is_past);
        for worker in &mut self.workers {
            worker.end_if_due();
            worker.end_initializer();
            match self.phase {
                Phase::Ending { kill_at, .. } if is_over(kill_at) => worker.kill(),
                Phase::Ending { terminate_at, .. } if is_over(terminate_at) => worker.terminate(),
                _ => {}
            }
        }
    }
}
