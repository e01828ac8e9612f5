//! Items that only this worker may run: those of broadcasts.

use std::collections::VecDeque;
use std::sync::Arc;

use super::{Dispatched, WorkerHandle};
use crate::error::Error;
use crate::pool::call::Call;
use crate::pool::chunk::Chunk;

/// Each is a chunk of one out-of-line item, so no other worker gets it: such an item is not revoked.
#[derive(Default)]
pub(super) struct WorkerBound {
    waiting: VecDeque<Chunk>,
    /// The call of the last one that was sent. The others may have results.
    sent: Option<Arc<Call>>,
    /// The number of those that were sent.
    pub(super) count: u64,
}

impl WorkerBound {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    fn is_of(&self, chunk: &Chunk) -> bool {
        self.sent.as_ref().is_some_and(|call| Arc::ptr_eq(call, &chunk.call))
    }
}

impl WorkerHandle {
    /// Gives it an item that it runs before any other that is not in flight.
    pub(crate) fn push_worker_bound(&mut self, chunk: Chunk) {
        self.worker_bound.waiting.push_back(chunk);
    }

    /// Whether worker-bound items wait to be sent.
    pub(crate) fn has_worker_bound(&self) -> bool {
        !self.worker_bound.is_empty()
    }

    /// The number of worker-bound items that wait to be sent.
    pub(crate) fn worker_bound_count(&self) -> u64 {
        self.worker_bound.waiting.len() as u64
    }

    /// Sends it the next worker-bound item if it is idle; `None` if there is nothing to send. The kernel's refusal
    /// is the item's error.
    pub(crate) fn dispatch_worker_bound(&mut self) -> Option<Dispatched> {
        let takes_work = self.phase.is_running() || self.phase.is_retired();
        if !self.is_ready() || !takes_work || self.takes_no_more || self.in_flight.count() > 0 {
            return None;
        }
        let mut chunk = self.worker_bound.waiting.pop_front()?;
        let call = Arc::clone(&chunk.call);
        let outcome = self.dispatch(&mut chunk, 1);
        match &outcome {
            Dispatched::Accepted => {
                self.worker_bound.sent = Some(call);
                self.worker_bound.count += 1;
            }
            Dispatched::Failed(error) => chunk.fail(error),
            Dispatched::Full | Dispatched::WouldBlock => self.worker_bound.waiting.push_front(chunk),
        }
        Some(outcome)
    }

    /// Fails the worker-bound items that were not sent.
    pub(crate) fn fail_worker_bound(&mut self, error: &Error) {
        for chunk in self.worker_bound.waiting.drain(..) {
            chunk.fail(error);
        }
    }

    /// Of a dead worker: fails its worker-bound items that it has not begun, and returns the other chunks.
    pub(super) fn settle_worker_bound(&mut self, rest: Vec<Chunk>, error: &Error) -> Vec<Chunk> {
        self.fail_worker_bound(error);
        let (worker_bound, rest): (Vec<_>, Vec<_>) =
            rest.into_iter().partition(|chunk| self.worker_bound.is_of(chunk));
        for chunk in worker_bound {
            chunk.fail(error);
        }
        rest
    }
}
