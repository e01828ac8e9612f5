//! Which handle has a chunk of a [`SharedArray`](super::SharedArray): a word in shared memory counts how often
//! the chunk was taken and released, and each handle knows the count at which it may take the chunk.

use serde_core::{Deserialize, Deserializer, Serialize, Serializer};

use crate::ipc::ring::just_before_overflow;
use crate::sys::atomic::{AcqRel, Acquire, AtomicU64, Relaxed, Release};
use crate::sys::failpoint::{self, Failpoint};

/// The generation at which a handle may take its chunk, an even number, or has taken it. It changes behind a
/// shared reference.
pub(super) struct Generation(AtomicU64);

impl Generation {
    /// That of a chunk which no handle has taken yet: an even number.
    pub(super) const START: u64 = just_before_overflow(2) as u64;

    /// Of a handle that has not taken its chunk.
    pub(super) fn new(generation: u64) -> Self {
        Self(AtomicU64::new(generation & !1))
    }

    /// Takes the chunk, unless this handle has it; returns whether it has it then.
    pub(super) fn take(&self, word: &AtomicU64) -> bool {
        let generation = self.get();
        if generation % 2 == 1 {
            return word.load(Relaxed) == generation;
        }
        let is_taken = word.compare_exchange(generation, generation + 1, AcqRel, Relaxed).is_ok();
        if is_taken {
            self.set(generation + 1);
        }
        is_taken
    }

    /// Lets another handle take the chunk, if this one has it.
    pub(super) fn release(&self, word: &AtomicU64) {
        let generation = self.get();
        if generation % 2 == 1 {
            self.release_from(word, generation);
        }
    }

    /// Two threads may encode a handle at a time. The later one must not release the chunk from the handle
    /// that has taken it meanwhile.
    pub(super) fn release_from(&self, word: &AtomicU64, generation: u64) {
        let next = generation.wrapping_add(1);
        let _ = word.compare_exchange(generation, next, Release, Relaxed);
        failpoint::hit(Failpoint::ChunkReleased);
        self.set(next);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Acquire)
    }

    fn set(&self, generation: u64) {
        self.0.store(generation, Release);
    }
}

impl Serialize for Generation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.get().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Generation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        u64::deserialize(deserializer).map(Self::new)
    }
}
