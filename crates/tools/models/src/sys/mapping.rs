//! Shared memory of a model: a few words.

use std::num::NonZeroUsize;

use bytemuck::Pod;
use loom::sync::Arc;

use crate::error::Result;
use crate::sys::atomic::{AtomicU32, AtomicU64, Relaxed};
use crate::sys::shared_words::SharedAtomic;

/// Some words of shared memory, and no others: each adds to the states that loom explores.
#[derive(Clone, Debug)]
pub(crate) struct SharedMapping(Arc<Words>);

#[derive(Debug)]
struct Words {
    words32: Vec<(usize, AtomicU32)>,
    words64: Vec<(usize, AtomicU64)>,
}

const AREA: usize = crate::channel::endpoint::AREAS / 2;
const WORDS32: [usize; 4] = [64, 68, 72, 136];
const WORDS64: [usize; 4] = [0, 48, 56, 128];

/// The header of a lock has this word of 32 bits.
const EVENTS: usize = 56;
/// The header, a value, and two slots of a lock.
const LOCK: usize = 64 + 8 + 2 * 24;

#[allow(clippy::unused_self)] // as the library has it
impl SharedMapping {
    /// The words of two [areas](crate::channel::endpoint::AREAS).
    pub(crate) fn new() -> Self {
        let both = |words: [usize; 4]| words.into_iter().flat_map(|word| [word, AREA + word]);
        Self::of(both(WORDS32), both(WORDS64))
    }

    /// The words of a lock.
    #[allow(clippy::unnecessary_wraps)] // as the library has it
    pub(crate) fn create(size: NonZeroUsize) -> Result<Self> {
        let words = (0..LOCK.min(size.get())).step_by(8).filter(|&word| word != EVENTS);
        Ok(Self::of([EVENTS].into_iter(), words))
    }

    fn of(words32: impl Iterator<Item = usize>, words64: impl Iterator<Item = usize>) -> Self {
        let words32 = words32.map(|word| (word, AtomicU32::new(0))).collect();
        let words64 = words64.map(|word| (word, AtomicU64::new(0))).collect();
        Self(Arc::new(Words { words32, words64 }))
    }

    pub(crate) fn word32(&self, offset: usize) -> &AtomicU32 {
        find(&self.0.words32, offset)
    }

    pub(crate) fn word64(&self, offset: usize) -> &AtomicU64 {
        find(&self.0.words64, offset)
    }

    /// A value is a word.
    pub(crate) fn load<T: Pod>(&self, offset: usize) -> T {
        bytemuck::cast(self.word64(offset).load(Relaxed))
    }

    pub(crate) fn store<T: Pod>(&self, offset: usize, value: &T) {
        self.word64(offset).store(bytemuck::cast(*value), Relaxed);
    }

    pub(crate) fn load_bytes(&self, _offset: usize, _to: &mut [u8]) {
        unreachable!("a model has no slices")
    }

    pub(crate) fn store_bytes(&self, _offset: usize, _from: &[u8]) {
        unreachable!("a model has no slices")
    }

    pub(crate) fn atomics<A: SharedAtomic>(&self, _offset: usize, _count: usize) -> &[A] {
        unreachable!("a model has no slices")
    }

    pub(crate) fn size(&self) -> NonZeroUsize {
        unreachable!("a model checks no sizes")
    }
}

fn find<W>(words: &[(usize, W)], offset: usize) -> &W {
    let found = words.iter().find(|(word, _)| *word == offset);
    &found.expect("a word that this model does not have").1
}
