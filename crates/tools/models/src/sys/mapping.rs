//! Shared memory of a model: a few words, and the bytes of a channel's ring.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;

use bytemuck::Pod;
use loom::cell::Cell;
use loom::sync::Arc;

use crate::channel::Layout;
use crate::error::Result;
use crate::ipc::ring::Memory;
use crate::sys::atomic::{AtomicU32, AtomicU64, Relaxed};
use crate::sys::failpoint::is_dead;
use crate::sys::shared_words::SharedAtomic;

/// Some words of shared memory, and no others: each adds to the states that loom explores.
#[derive(Clone, Debug)]
pub(crate) struct SharedMapping(Arc<Words>);

#[derive(Debug)]
struct Words {
    words32: Vec<(usize, AtomicU32)>,
    words64: Vec<(usize, AtomicU64)>,
    ring: Vec<RingByte>,
}

/// Loom reports a byte that is read or written while another thread may write it. `None` while it has no
/// memory.
type RingByte = Cell<Option<u8>>;

const AREA: usize = crate::channel::endpoint::AREAS / 2;
const WORDS32: [usize; 7] = [64, 68, 72, 80, 84, 88, 136];
const WORDS64: [usize; 4] = [0, 48, 56, 128];
/// Behind the two areas: the number of receivers, and the two positions of an unbounded channel.
const MORE_WORDS32: [usize; 3] = [2 * AREA, 2 * AREA + 64, 2 * AREA + 72];
const RING: usize = 2 * AREA + 128;
/// Where a server's page has an error.
const SERVERS_ERROR: usize = 592;

/// The header of a lock has this word of 32 bits.
const EVENTS: usize = 32;
const HEADER: usize = 88;
const SLOT: usize = 24;
/// The header, a value, and two slots of a lock.
const LOCK: usize = HEADER + 8 + 2 * SLOT;

#[allow(clippy::unused_self)] // as the library has it
impl SharedMapping {
    /// A word for a mutex.
    pub(crate) fn new() -> Self {
        Self::of([].into_iter(), [0].into_iter(), Vec::new())
    }

    /// The words of a server's page, with the bytes of an error.
    pub(crate) fn of_server() -> Self {
        Self::of([0].into_iter(), (8..=80).step_by(8).chain([SERVERS_ERROR]), Vec::new())
    }

    /// The words and bytes of a channel; a sparse one's have no memory yet.
    pub(crate) fn of_channel(layout: Layout) -> Self {
        let words32 = WORDS32.into_iter().flat_map(|word| [word, AREA + word]).chain(MORE_WORDS32);
        let words64 = WORDS64.into_iter().flat_map(|word| [word, AREA + word]);
        let byte = if layout.is_sparse() { None } else { Some(0) };
        let ring = (RING..layout.end()).map(|_| Cell::new(byte)).collect();
        Self::of(words32, words64, ring)
    }

    #[allow(clippy::unnecessary_wraps)] // as the library has it
    pub(crate) fn nameable(self) -> Result<Self> {
        Ok(self)
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
        Ok(Self::of([EVENTS].into_iter(), words.into_iter(), Vec::new()))
    }

    #[allow(clippy::unnecessary_wraps)] // as the library has it
    pub(crate) fn allocate(&self) -> Result<()> {
        Ok(())
    }

    fn of(
        words32: impl Iterator<Item = usize>,
        words64: impl Iterator<Item = usize>,
        ring: Vec<RingByte>,
    ) -> Self {
        let words32 = words32.map(|word| (word, AtomicU32::new(0))).collect();
        let words64 = words64.map(|word| (word, AtomicU64::new(0))).collect();
        Self(Arc::new(Words { words32, words64, ring }))
    }

    /// Gives a range of the ring memory, where it has none.
    pub(crate) fn allocate_bytes(&self, offset: usize, length: usize) {
        self.change_bytes(offset, length, |_, byte| Some(byte.unwrap_or(0)));
    }

    pub(crate) fn release_bytes(&self, offset: usize, length: usize) {
        self.change_bytes(offset, length, |_, _| None);
    }

    /// Does nothing for a lock and for a joinable queue, whose models have no bytes.
    fn change_bytes(&self, offset: usize, length: usize, change: impl Fn(usize, Option<u8>) -> Option<u8>) {
        if is_dead() || self.0.ring.is_empty() {
            return;
        }
        for (index, byte) in self.0.ring.iter().skip(offset - RING).take(length).enumerate() {
            byte.set(change(index, byte.get()));
        }
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
        NonZeroUsize::new(RING + self.0.ring.len()).unwrap()
    }
}

impl Memory for SharedMapping {
    fn write(&self, offset: usize, bytes: &[u8]) {
        self.change_bytes(offset, bytes.len(), |index, byte| {
            assert!(byte.is_some(), "it is written without memory");
            Some(bytes[index])
        });
    }

    fn read<R>(&self, offset: usize, length: usize, read: impl FnOnce(&[u8]) -> R) -> R {
        let bytes = self.0.ring[offset - RING..][..length].iter();
        let bytes: Vec<u8> = bytes.map(|byte| byte.get().expect("it is read without memory")).collect();
        read(&bytes)
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
