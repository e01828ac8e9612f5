//! Broadcasts: items of which every worker runs one.

use std::time::Instant;

use super::{REDISPATCH_AFTER, Scheduler};
use crate::error::{Error, Result};
use crate::pool::chunk::Chunk;
use crate::pool::worker_handle::{Dispatched, WorkerHandle};
use crate::sys::socket::MAX_DESCRIPTORS;
use crate::task::initializer::Initializer;

/// The most descriptors of all initializers. Besides, a worker gets its own: of its rings, link and wake-ups, of logs,
/// a trace, and the standard streams.
const MAX_HELD: usize = MAX_DESCRIPTORS - 13;

impl Scheduler {
    /// Gives each present worker an item, which `make_chunk` makes by its number, and has each later one run
    /// the initializer. Returns the number of items, which are in the order of the workers' indices.
    pub(crate) fn broadcast(
        &mut self,
        initializer: Initializer,
        make_chunk: impl Fn(u64) -> Result<Chunk>,
    ) -> Result<u64> {
        self.check_open()?;
        self.check_descriptors(&initializer)?;
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

    /// Whether a later worker can be sent one more initializer: all of them travel in the packet that starts it.
    fn check_descriptors(&self, initializer: &Initializer) -> Result<()> {
        let initializers = self.policy.initializers.iter().chain([initializer]);
        let held: usize = initializers.map(|initializer| initializer.descriptors.len()).sum();
        if held <= MAX_HELD || initializer.descriptors.is_empty() {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "the initializers and broadcasts of this pool would hold {held} descriptors, which each new worker gets; \
             at most {MAX_HELD} can travel"
        )))
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
