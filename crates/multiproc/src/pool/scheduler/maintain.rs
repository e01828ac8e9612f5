//! What the pool's thread does at each turn: time limits, workers that should have ended, the pool's end.

use std::time::{Duration, Instant};

use super::{Phase, Scheduler};
use crate::pool::worker_handle::WorkerHandle;
use crate::sys::clock;

/// The longest interval between polls while there is work. A process stopped or killed between a change and
/// its notification wakes no thread, and a caller may be busy decoding results.
pub(crate) const CHECK_INTERVAL: Duration = Duration::from_millis(500);
/// A poll later than expected by this much means that the process was stopped.
const LATE_AFTER: Duration = Duration::from_millis(250);

impl Scheduler {
    /// Reaps dead workers, and ends those that are due; returns whether the pool goes on.
    pub(crate) fn maintain(&mut self) -> bool {
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
        self.poll();
        self.shut_down_idle_for_long();
        self.end_workers();
        let may_end = match self.phase {
            Phase::Open => false,
            Phase::Closed => self.backlog.is_empty(), // as it always is in a broken pool
            Phase::Ending { .. } | Phase::Ended => true,
        };
        // A worker still being started is killed by `add`.
        let is_past = |time: Instant| time <= Instant::now();
        let is_time = matches!(self.phase, Phase::Ending { kill_at: Some(time), .. } if is_past(time));
        let is_over = may_end && self.workers.is_empty() && (!self.starts.is_spawning() || is_time);
        if is_over {
            self.policy.initializers.clear();
            self.phase = Phase::Ended;
        }
        !is_over
    }

    /// Detects that this process, and usually its workers, were stopped: nothing polled for much longer than
    /// the interval while a worker had items or ran its initializer. The whole gap counts against no limit of
    /// these, since the stop's begin is unknown. Call at each poll with the time.
    pub(super) fn ignore_stopped_time(&mut self, now: u64) {
        let before = std::mem::replace(&mut self.polled_at, now);
        let gap = Duration::from_nanos(now.saturating_sub(before));
        let is_limited = |worker: &WorkerHandle| worker.in_flight() > 0 || worker.initialize_by().is_some();
        if gap > CHECK_INTERVAL + LATE_AFTER && self.workers.iter().any(is_limited) {
            let now = clock::nanos();
            self.workers.iter_mut().for_each(|worker| worker.exclude_time(before, now));
        }
    }

    /// Terminates or kills workers that should have exited.
    fn end_workers(&mut self) {
        let now = Instant::now();
        let is_over = |time: Option<Instant>| time.is_some_and(|time| now >= time);
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
