//! The inbox of one call: where its results arrive, and where its caller waits for them.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, PoisonError};
use std::time::{Duration, Instant};

use multiproc::Error;
use multiproc::pool::encoded::PrivateMutex;

use crate::protocol;

/// The results of a chunk.
pub(crate) struct Batch {
    pub(crate) chunk: u64,
    /// The input index of its first item.
    pub(crate) first: u64,
    pub(crate) count: u32,
    pub(crate) content: Content,
}

pub(crate) enum Content {
    /// For each item a value or an error, from a host.
    Results { bytes: Vec<u8>, host: Arc<str>, work: Duration },
    /// One error for all of them.
    Lost(Error),
}

impl Content {
    /// The number of errors among the results.
    pub(super) fn errors(&self) -> u64 {
        match self {
            Self::Results { bytes, .. } => protocol::count_errors(bytes),
            Self::Lost(_) => 0,
        }
    }
}

#[derive(Default)]
pub(crate) struct Inbox {
    batches: PrivateMutex<VecDeque<Batch>>,
    arrived: Condvar,
}

impl Inbox {
    pub(crate) fn deliver(&self, batch: Batch) {
        if let Some(mut batches) = self.batches.lock() {
            batches.push_back(batch);
        }
        self.arrived.notify_all();
    }

    pub(crate) fn has_some(&self) -> bool {
        self.batches.lock().is_some_and(|batches| !batches.is_empty())
    }

    pub(crate) fn try_take(&self) -> Option<Batch> {
        self.batches.lock()?.pop_front()
    }

    /// Waits for a batch, until `deadline` if there is one. A forked copy gets none, and does not wait.
    pub(crate) fn take(&self, deadline: Option<Instant>) -> Option<Batch> {
        let mut batches = self.batches.lock()?;
        loop {
            if let Some(batch) = batches.pop_front() {
                return Some(batch);
            }
            batches = match deadline {
                None => self.arrived.wait(batches).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return None;
                    }
                    self.arrived.wait_timeout(batches, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}
