//! Shared memory of a model: a few words.

use std::collections::BTreeSet;
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
const EVENTS: usize = 32;
const HEADER: usize = 88;
const SLOT: usize = 24;
/// The header, a value, and two slots of a lock.
const LOCK: usize = HEADER + 8 + 2 * SLOT;

#[allow(clippy::unused_self)] // as the library has it
impl SharedMapping {
    /// The words of two [areas](crate::channel::endpoint::AREAS).
    pub(crate) fn new() -> Self {
        let both = |words: [usize; 4]| words.into_iter().flat_map(|word| [word, AREA + word]);
        Self::of(both(WORDS32), both(WORDS64))
    }

    /// The words of a lock, or of a joinable queue.
    #[allow(clippy::unnecessary_wraps)] // as the library has it
    pub(crate) fn create(size: NonZeroUsize) -> Result<Self> {
        let size = size.get();
        let mut words: BTreeSet<_> = (0..size.min(LOCK)).step_by(8).collect();
        if size > LOCK {
            words.extend(words_of_queue(size)); // or a lock with more slots, which does not touch these
        }
        words.remove(&EVENTS);
        Ok(Self::of([EVENTS].into_iter(), words.into_iter()))
    }

    #[allow(clippy::unnecessary_wraps)] // as the library has it
    pub(crate) fn allocate(&self) -> Result<()> {
        Ok(())
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

    /// A slice is a word: the length of an item, or the item.
    pub(crate) fn load_bytes(&self, offset: usize, to: &mut [u8]) {
        to.copy_from_slice(&self.word64(offset).load(Relaxed).to_ne_bytes());
    }

    pub(crate) fn store_bytes(&self, offset: usize, from: &[u8]) {
        self.word64(offset).store(u64::from_ne_bytes(from.try_into().unwrap()), Relaxed);
    }

    pub(crate) fn atomics<A: SharedAtomic>(&self, _offset: usize, _count: usize) -> &[A] {
        unreachable!("a model has no slices")
    }

    pub(crate) fn size(&self) -> NonZeroUsize {
        unreachable!("a model checks no sizes")
    }
}

/// Behind the header: two slots at the end, and before them two items of a word with their lengths.
fn words_of_queue(size: usize) -> impl Iterator<Item = usize> {
    let slots = size - 2 * SLOT;
    let items = [HEADER, HEADER + (slots - HEADER) / 2];
    let items = items.into_iter().flat_map(|item| [item, item + 8]);
    (slots..size).step_by(8).chain(items)
}

fn find<W>(words: &[(usize, W)], offset: usize) -> &W {
    let found = words.iter().find(|(word, _)| *word == offset);
    &found.expect("a word that this model does not have").1
}
