//! Retires workers: those beyond the wanted number, those that have grown too much, and those that have been
//! idle for long.

use super::{Phase, Scheduler};
use crate::error::Result;
use crate::pool::worker_handle::{ExitReason, WorkerHandle};
use crate::sys::running_time::RunningTime;

/// The least interval between two measurements of the workers' memory, in nanoseconds: one takes about 10 µs
/// for each.
const MEASURE_INTERVAL: u64 = 100_000_000;

impl Scheduler {
    /// Keeps this many workers from now on. The pool's thread starts those that are missing; surplus ones
    /// finish what they run.
    ///
    /// Returns the number of missing ones, of those that there are without work.
    pub(crate) fn resize(&mut self, workers: usize) -> Result<usize> {
        self.check_open()?;
        self.policy.workers = workers;
        self.reinstate_surplus();
        self.retire_surplus();
        self.dispatch();
        self.sleep.wake_requested = true;
        let accepting = self.workers.iter().filter(|worker| worker.accepts_work()).count();
        Ok(self.policy.least_workers().saturating_sub(accepting))
    }

    /// Keeps surplus workers that still run a task, as far as they are wanted again.
    fn reinstate_surplus(&mut self) {
        let accepting = self.workers.iter().filter(|worker| worker.accepts_work()).count();
        let mut missing = self.policy.workers.saturating_sub(accepting);
        for worker in &mut self.workers {
            let has_all = worker.initializers() == self.policy.initializers.len(); // it may have missed a broadcast
            if missing > 0 && has_all && worker.reinstate() {
                missing -= 1;
            }
        }
    }

    /// Gives the workers beyond the wanted number nothing more to do, those with the least work first.
    pub(super) fn retire_surplus(&mut self) {
        let mut accepting: Vec<_> = self.workers.iter_mut().filter(|worker| worker.accepts_work()).collect();
        accepting.sort_by_key(|worker| worker.in_flight());
        let surplus = accepting.len().saturating_sub(self.policy.workers);
        for worker in accepting.into_iter().take(surplus) {
            self.backlog.put_back(worker.retire(ExitReason::Surplus));
            if worker.in_flight() == 0 {
                self.sleep.wake_requested |= worker.shut_down(ExitReason::Surplus);
            }
        }
    }

    /// Gives workers that have grown too much nothing more to do. Also some time after the last result, so that
    /// an idle worker does not keep what its last task has left.
    pub(super) fn retire_overgrown(&mut self, now: u64, has_results: bool) {
        let Some(max) = self.policy.max_growth else { return };
        self.unmeasured |= has_results;
        if now < self.measured_at.saturating_add(MEASURE_INTERVAL) {
            return;
        }
        (self.measured_at, self.unmeasured) = (now, false);
        for worker in self.workers.iter_mut().filter(|worker| worker.accepts_work()) {
            if worker.growth().is_some_and(|growth| growth > max) {
                self.backlog.put_back(worker.retire(ExitReason::Growth));
                self.sleep.wake_requested = true; // the pool's thread starts its successor
            }
        }
    }

    /// When to measure the workers though none of them has anything to do, in nanoseconds of the clock of polls.
    pub(super) fn next_measurement(&self) -> Option<u64> {
        self.unmeasured.then(|| self.measured_at.saturating_add(MEASURE_INTERVAL))
    }

    /// Shuts down workers that have been idle for longer than the pool's options permit.
    pub(super) fn shut_down_idle_for_long(&mut self) {
        let Some(timeout) = self.policy.idle_timeout.filter(|_| matches!(self.phase, Phase::Open)) else {
            return;
        };
        let accepting = self.workers.iter().filter(|worker| worker.accepts_work()).count();
        let surplus = accepting.saturating_sub(self.policy.min_workers);
        let idle =
            self.workers.iter_mut().filter(|worker| worker.idle_time().is_some_and(|idle| idle >= timeout));
        for worker in idle.take(surplus) {
            worker.shut_down(ExitReason::Idle);
        }
    }

    /// When the next worker has been idle for that long.
    pub(super) fn next_idle_end(&self) -> Option<RunningTime> {
        let timeout = self.policy.idle_timeout.filter(|_| matches!(self.phase, Phase::Open))?;
        let accepting = self.workers.iter().filter(|worker| worker.accepts_work()).count();
        if accepting <= self.policy.min_workers {
            return None;
        }
        let left =
            self.workers.iter().filter_map(WorkerHandle::idle_time).map(|idle| timeout.saturating_sub(idle));
        RunningTime::after(left.min()?)
    }
}
