//! What a worker has done, written where it outlives the worker.
//!
//! A worker reports results in batches. What it has finished but not reported yet must not be lost when it is killed,
//! and of the items that it was given, the parent must know which one it was running. So it writes both into memory
//! that it shares with the parent, which looks there once, when the worker is dead.
//!
//! Each change that counts is a single store, so a worker killed at any instruction leaves a state that is true.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::wire::Pages;

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Outbox(Pages);

const SIZE: NonZeroUsize = NonZeroUsize::new(crate::link::INLINE).unwrap();
/// Two words, each of two halves: the chunk's number and how many of its items were started; and which item the
/// first result in the box is of, with how many bytes of results there are.
const PROGRESS: usize = 0;
const CONTENT: usize = 8;
const DATA: usize = 64;
/// How many bytes of results fit.
pub(crate) const ROOM: usize = SIZE.get() - DATA;

/// What a dead worker left.
#[derive(Debug, PartialEq)]
pub(crate) struct Estate {
    /// The number of the last chunk that it began.
    pub(crate) serial: u32,
    /// How many items of that chunk it had started.
    pub(crate) started: u32,
    /// Which item of the chunk the first of these results is of.
    pub(crate) first: u32,
    pub(crate) results: Vec<u8>,
}

impl Outbox {
    pub(crate) fn create() -> Result<Self> {
        Pages::create(SIZE).map(Self)
    }

    /// The same memory, for the other process.
    pub(crate) fn share(&self) -> Self {
        Self(self.0.clone())
    }

    /// The worker has begun so many items of this chunk.
    pub(crate) fn started(&self, serial: u32, items: u32) {
        self.progress().store(join(serial, items), Ordering::Release);
    }

    /// Puts the bytes of a finished result behind the `length` that are there since item `first`.
    pub(crate) fn put(&self, first: u32, length: usize, result: &[u8]) {
        self.0.write(DATA + length, result);
        let length = u32::try_from(length + result.len()).unwrap_or(0); // below SIZE, else `write` has panicked
        self.content().store(join(first, length), Ordering::Release);
    }

    /// What was in the box has been reported; the next result in it will be that of item `first`.
    pub(crate) fn clear(&self, first: u32) {
        self.content().store(join(first, 0), Ordering::Release);
    }

    /// What the worker left. It must be dead.
    pub(crate) fn estate(&self) -> Estate {
        let (serial, started) = split(self.progress().load(Ordering::Acquire));
        let (first, length) = split(self.content().load(Ordering::Acquire));
        let length = usize::try_from(length).unwrap_or(0);
        let results = if length <= ROOM { self.0.read(DATA, length) } else { Vec::new() };
        Estate { serial, started, first, results }
    }

    fn progress(&self) -> &AtomicU64 {
        self.0.word64(PROGRESS)
    }

    fn content(&self) -> &AtomicU64 {
        self.0.word64(CONTENT)
    }
}

fn join(high: u32, low: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

#[allow(clippy::cast_possible_truncation)] // taking halves is the purpose
fn split(word: u64) -> (u32, u32) {
    ((word >> 32) as u32, word as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_estate_is_what_was_put_since_it_was_cleared() {
        let outbox = Outbox::create().unwrap();
        outbox.started(7, 3);
        outbox.put(0, 0, b"lost");
        outbox.clear(1);
        outbox.put(1, 0, b"ab");
        outbox.put(1, 2, b"c");
        let expected = Estate { serial: 7, started: 3, first: 1, results: b"abc".to_vec() };
        assert_eq!(outbox.share().estate(), expected);
    }

    #[test]
    fn nonsense_in_the_box_is_no_results() {
        let outbox = Outbox::create().unwrap();
        outbox.content().store(u64::MAX, Ordering::Relaxed);
        assert!(outbox.estate().results.is_empty());
    }
}
