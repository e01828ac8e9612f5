//! Which worker gets the next chunk, and work stealing: an idle worker gets what another has not claimed.

use std::time::{Duration, Instant};

use super::{REDISPATCH_AFTER, Scheduler};
use crate::pool::chunk::Chunk;
use crate::pool::worker_handle::{Dispatched, WorkerHandle};
use crate::sys::clock;

/// Less work than this is not moved from one worker to another.
const MIN_STOLEN: Duration = Duration::from_millis(1);

impl Scheduler {
    /// Dispatches waiting chunks to workers with room, least loaded first.
    pub(super) fn dispatch(&mut self) {
        self.redispatch_at = None;
        if self.has_worker_bound {
            self.dispatch_worker_bound();
        }
        while let Some(chunk) = self.backlog.front_mut() {
            let size = self.policy.chunk_size.unwrap_or(chunk.call.target_chunk_len());
            let most = size.saturating_mul(2).max(chunk.call.most_in_flight());
            let may_run = |worker: &WorkerHandle| match self.policy.max_tasks {
                Some(most) => u32::try_from(most.saturating_sub(worker.assigned())).unwrap_or(u32::MAX),
                None => u32::MAX,
            };
            // A loop: the compiler does not always inline `min_by_key`, which costs chunks of one a fifth.
            let mut least_loaded = None;
            for worker in &mut self.workers {
                let load = (worker.may_be_stopped(), worker.in_flight());
                let is_less = least_loaded.as_ref().is_none_or(|(least, _)| load < *least);
                if is_less && worker.has_room(chunk, most) && may_run(worker) > 0 {
                    least_loaded = Some((load, worker));
                }
            }
            let worker = match least_loaded {
                Some((_, worker)) => worker,
                None => match starting_worker(&mut self.workers, chunk) {
                    Some(worker) => worker,
                    None => return,
                },
            };
            let before = worker.in_flight();
            let outcome = worker.dispatch(chunk, size.min(may_run(worker)));
            let mut is_gone = chunk.count == 0;
            match outcome {
                Dispatched::Accepted => {
                    let submitted_at = chunk.call.submitted_at(chunk.sort_key);
                    let waited = clock::coarse_nanos().saturating_sub(submitted_at);
                    self.ended.wait_times.add(waited, u64::from(worker.in_flight() - before));
                    let timeout = chunk.call.options.timeout;
                    let deadline = timeout.and_then(|time| Instant::now().checked_add(time));
                    self.sleep.wake_requested |=
                        deadline.is_some_and(|deadline| self.sleep.wake_by(deadline));
                }
                Dispatched::Full => {}
                Dispatched::WouldBlock => {
                    self.redispatch_at = Some(Instant::now() + REDISPATCH_AFTER);
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

    /// Moves unclaimed items from the worker with the most of them to idle workers (work stealing), unless
    /// the former will soon be done with them. Where that estimate is wrong, a
    /// [stall check](WorkerHandle::revoke_if_stalled) moves them later.
    pub(super) fn steal_work(&mut self) {
        if !self.backlog.has_none_to_dispatch() || !self.workers.iter().any(WorkerHandle::is_idle) {
            return;
        }
        let surplus = self.workers.iter_mut().map(|worker| (worker.surplus(), worker));
        let Some((count, busiest)) = surplus.max_by_key(|(count, _)| *count) else { return };
        if count > 0 && busiest.time_for(count) >= MIN_STOLEN {
            self.backlog.put_back(busiest.revoke(count.div_ceil(2)));
            self.dispatch();
        }
    }
}

/// A worker to take a chunk that it finds once it is ready, while none is ready: the first result of a pool
/// then need not wait until the pool has seen that the worker is.
#[cold]
fn starting_worker<'a>(workers: &'a mut [WorkerHandle], chunk: &Chunk) -> Option<&'a mut WorkerHandle> {
    if workers.iter().any(WorkerHandle::is_ready) {
        return None;
    }
    workers.iter_mut().find(|worker| worker.may_start_with(chunk))
}
