//! What a worker has done so far.

use std::time::Instant;

use super::{ExitReason, WorkerHandle};
use crate::error::{Error, ErrorKind};
use crate::pool::stats::WorkerStats;

impl WorkerHandle {
    pub(crate) fn stats(&self) -> WorkerStats {
        let now = Instant::now();
        let ready_at = self.ready_at.unwrap_or(now);
        let lifetime = now.saturating_duration_since(ready_at);
        let (busy, idle, failed) = self.rings.totals();
        // The worker has stored the time of its last wait before it claims an item.
        let is_running = self.rings.not_begun().is_ok_and(|pending| pending < self.in_flight.count());
        let running = if is_running { lifetime.saturating_sub(idle) } else { busy.min(lifetime) };
        let failed = self.lost + failed.min(self.completed - self.lost);
        WorkerStats {
            pid: self.accepts_work().then(|| self.pid()),
            tasks_done: self.completed - failed,
            tasks_failed: failed,
            starting: ready_at.saturating_duration_since(self.started_at),
            running,
            waiting: lifetime.saturating_sub(running),
            run_times: self.rings.run_times(),
            ..WorkerStats::default()
        }
    }

    /// Those of a worker that has ended with these times, when its items are settled.
    pub(super) fn final_stats(&self, times: &WorkerStats, tasks_retried: u64) -> WorkerStats {
        let WorkerStats { running, waiting, starting, .. } = *times;
        let mut stats = WorkerStats { pid: None, tasks_retried, running, waiting, starting, ..self.stats() };
        let count = match self.phase.failure().map(Error::kind) {
            _ if self.phase.was_told_to_exit() => match self.exit_reason {
                Some(ExitReason::Tasks) => &mut stats.recycled,
                Some(ExitReason::Growth) => &mut stats.overgrown,
                Some(ExitReason::Idle) => &mut stats.idled_out,
                Some(ExitReason::Surplus) => &mut stats.scaled_down,
                Some(ExitReason::Other) | None => &mut stats.shut_down,
            },
            Some(ErrorKind::Timeout) => &mut stats.timed_out,
            Some(ErrorKind::Cancelled) => &mut stats.cancelled,
            _ => &mut stats.died,
        };
        *count += 1;
        stats
    }
}
