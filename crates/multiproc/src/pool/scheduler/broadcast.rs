//! Broadcasts: items of which every worker runs one.

use std::time::Instant;

use super::{REDISPATCH_AFTER, Scheduler};
use crate::error::Result;
use crate::pool::chunk::Chunk;
use crate::pool::worker_handle::{Dispatched, WorkerHandle};
use crate::task::initializer::Initializer;

impl Scheduler {
    /// Gives each present worker an item, which `make_chunk` makes by its number, and has each later one run
    /// the initializer. Returns the number of items, which are in the order of the workers' indices.
    pub(crate) fn broadcast(
        &mut self,
        initializer: Initializer,
        make_chunk: impl Fn(u64) -> Result<Chunk>,
    ) -> Result<u64> {
        self.check_open()?;
        let mut present: Vec<_> = self.workers.iter_mut().filter(|worker| worker.accepts_work()).collect();
        present.sort_by_key(|worker| worker.index());
        let chunks = (0..present.len() as u64).map(make_chunk).collect::<Result<Vec<_>>>()?;
        let count = chunks.len() as u64;
        present.into_iter().zip(chunks).for_each(|(worker, chunk)| worker.push_worker_bound(chunk));
        self.policy.initializers.push(initializer);
        self.has_worker_bound = true;
        self.dispatch();
        Ok(count)
    }

    /// Sends worker-bound items to idle workers.
    pub(super) fn dispatch_worker_bound(&mut self) {
        for worker in &mut self.workers {
            match worker.dispatch_worker_bound() {
                Some(Dispatched::WouldBlock) => self.redispatch_at = Some(Instant::now() + REDISPATCH_AFTER),
                Some(Dispatched::Failed(_)) => self.progressed = true,
                Some(Dispatched::Accepted | Dispatched::Full) | None => {}
            }
        }
        self.has_worker_bound = self.workers.iter().any(WorkerHandle::has_worker_bound);
    }
}
