//! Takes work from workers that have stalled: they begin nothing, as stopped processes do.

use super::{Phase, Scheduler};
use crate::pool::worker_handle::{ExitReason, WorkerHandle};

impl Scheduler {
    /// Takes back what stalled workers have not claimed.
    #[cold]
    pub(super) fn revoke_from_stalled(&mut self) {
        if !self.has_ready() {
            return;
        }
        let has_others = self.has_others();
        for worker in &mut self.workers {
            self.backlog.put_back(worker.revoke_if_stalled(has_others));
        }
        self.shut_down_stopped();
        self.sleep.wake_requested |= self.needs_worker();
    }

    /// If no worker begins anything, in a pool that starts a worker only for work that no other can run: shuts down
    /// those without items, so that others are started.
    fn shut_down_stopped(&mut self) {
        let starts_for_work = self.policy.idle_timeout.is_some() || matches!(self.phase, Phase::Closed);
        let accepting = || self.workers.iter().filter(|worker| worker.accepts_work());
        let waits = !self.backlog.has_none_to_dispatch();
        if starts_for_work && waits && accepting().all(WorkerHandle::may_be_stopped) {
            for worker in self.workers.iter_mut().filter(|worker| worker.accepts_work()) {
                worker.shut_down(ExitReason::Other);
            }
        }
    }
}
