//! The shared memories that a worker knows by name: those that were sent to it last. Both sides keep the list,
//! and the same messages change it in the same order, so they agree without a reply. When the worker has lost a
//! message, the pool starts a new list: from then on, its list is the end of the worker's.

use std::collections::VecDeque;

use super::MemoryName;
use crate::ipc::wire::{MAX_MEMORIES, MAX_MEMORY_BYTES, MemoryId};

/// `T`: what a side keeps of each.
#[derive(Debug)]
pub(crate) struct KnownMemories<T> {
    /// Their names, their sizes in bytes, and what is kept. The latest is at the end.
    known: VecDeque<(MemoryId, usize, T)>,
    bytes: usize,
}

impl<T> Default for KnownMemories<T> {
    fn default() -> Self {
        Self { known: VecDeque::new(), bytes: 0 }
    }
}

impl<T> KnownMemories<T> {
    pub(super) fn get(&self, id: MemoryId) -> Option<&T> {
        self.known.iter().rev().find(|(known, ..)| *known == id).map(|(.., kept)| kept)
    }

    /// Adds one that was sent. The oldest make room for it.
    pub(super) fn add(&mut self, MemoryName { id, size }: MemoryName, kept: T) {
        let size = size.get();
        self.known.push_back((id, size, kept));
        self.bytes = self.bytes.saturating_add(size);
        while self.known.len() > MAX_MEMORIES || self.bytes > MAX_MEMORY_BYTES {
            let Some((_, size, _)) = self.known.pop_front() else { break };
            self.bytes -= size;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;

    fn known(memories: &KnownMemories<()>) -> Vec<MemoryId> {
        memories.known.iter().map(|(id, ..)| *id).collect()
    }

    #[test]
    fn the_oldest_are_forgotten_beyond_the_most_memories_and_the_most_bytes() {
        let mut memories = KnownMemories::default();
        let name = |id, size| MemoryName { id, size: NonZeroUsize::new(size).unwrap() };
        (1..=10).for_each(|id| memories.add(name(id, 1), ()));
        assert_eq!(known(&memories), [3, 4, 5, 6, 7, 8, 9, 10]);
        memories.add(name(11, MAX_MEMORY_BYTES - 2), ());
        assert_eq!(known(&memories), [9, 10, 11]);
        memories.add(name(12, MAX_MEMORY_BYTES), ());
        assert_eq!(known(&memories), [12]);
        assert!(memories.get(12).is_some() && memories.get(11).is_none());
    }
}
