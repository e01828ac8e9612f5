//! Takes work from workers that have stalled: they begin nothing, as stopped processes do.

use super::{Phase, Scheduler};
use crate::pool::worker_handle::ExitReason;

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

    /// If no worker begins what waits, in a pool that starts a worker only for work that no other can run: shuts down
    /// those that may be stopped, so that others are started. Those that are busy stay.
    fn shut_down_stopped(&mut self) {
        let starts_for_work = self.policy.idle_timeout.is_some() || matches!(self.phase, Phase::Closed);
        let mut accepting = self.workers.iter().filter(|worker| worker.accepts_work());
        let waits = !self.backlog.has_none_to_dispatch();
        if starts_for_work && waits && accepting.all(|worker| worker.may_be_stopped() || worker.is_paused()) {
            let accepting = self.workers.iter_mut().filter(|worker| worker.accepts_work());
            for worker in accepting.filter(|worker| worker.may_be_stopped()) {
                worker.shut_down(ExitReason::Other);
            }
        }
    }
}
