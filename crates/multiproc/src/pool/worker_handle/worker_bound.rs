//! Items that only this worker may run: those of broadcasts.

use std::collections::VecDeque;
use std::sync::Arc;

use super::{Dispatched, WorkerHandle};
use crate::error::Error;
use crate::pool::call::Call;
use crate::pool::chunk::Chunk;

/// Each is a chunk of one out-of-line item, so no other worker gets it: such an item is not revoked.
#[derive(Default)]
pub(super) struct Pinned {
    waiting: VecDeque<Chunk>,
    /// The call of the last one that was sent. The others may have results.
    sent: Option<Arc<Call>>,
    /// The number of those that were sent.
    pub(super) count: u64,
}

impl Pinned {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    fn is_of(&self, chunk: &Chunk) -> bool {
        self.sent.as_ref().is_some_and(|call| Arc::ptr_eq(call, &chunk.call))
    }
}

impl WorkerHandle {
    /// Gives it an item that it runs before any other that is not in flight.
    pub(crate) fn pin(&mut self, chunk: Chunk) {
        self.pinned.waiting.push_back(chunk);
    }

    /// Whether pinned items wait to be sent.
    pub(crate) fn has_pinned(&self) -> bool {
        !self.pinned.is_empty()
    }

    /// The number of pinned items that wait to be sent.
    pub(crate) fn pinned(&self) -> u64 {
        self.pinned.waiting.len() as u64
    }

    /// Sends it the next pinned item if it is idle; `None` if there is nothing to send. The kernel's refusal
    /// is the item's error.
    pub(crate) fn dispatch_pinned(&mut self) -> Option<Dispatched> {
        let takes_work = self.phase.is_running() || self.phase.is_retired();
        if !self.is_ready() || !takes_work || self.full || self.in_flight.count() > 0 {
            return None;
        }
        let mut chunk = self.pinned.waiting.pop_front()?;
        let call = Arc::clone(&chunk.call);
        let outcome = self.dispatch(&mut chunk, 1);
        match &outcome {
            Dispatched::Accepted => {
                self.pinned.sent = Some(call);
                self.pinned.count += 1;
            }
            Dispatched::Failed(error) => chunk.fail(error),
            Dispatched::Full | Dispatched::WouldBlock => self.pinned.waiting.push_front(chunk),
        }
        Some(outcome)
    }

    /// Fails the pinned items that were not sent.
    pub(crate) fn fail_pinned(&mut self, error: &Error) {
        for chunk in self.pinned.waiting.drain(..) {
            chunk.fail(error);
        }
    }

    /// Of a dead worker: fails its pinned items that it has not begun, and returns the other chunks.
    pub(super) fn settle_pinned(&mut self, rest: Vec<Chunk>, error: &Error) -> Vec<Chunk> {
        self.fail_pinned(error);
        let (pinned, rest): (Vec<_>, Vec<_>) = rest.into_iter().partition(|chunk| self.pinned.is_of(chunk));
        for chunk in pinned {
            chunk.fail(error);
        }
        rest
    }
}
