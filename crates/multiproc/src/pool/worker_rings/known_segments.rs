//! The shared segments that a worker knows by name: those that were sent to it last. Both sides keep the list,
//! and the same messages change it in the same order, so they agree without a reply. When the worker has lost a
//! message, the pool starts a new list: from then on, its list is the end of the worker's.

use std::collections::VecDeque;

use super::MemoryName;
use crate::ipc::wire::{MAX_MEMORY_BYTES, MAX_SEGMENTS, SegmentId};

/// `T`: what a side keeps of each.
#[derive(Debug)]
pub(crate) struct KnownSegments<T> {
    /// Their names, their sizes in bytes, and what is kept. The latest is at the end.
    known: VecDeque<(SegmentId, usize, T)>,
    bytes: usize,
}

impl<T> Default for KnownSegments<T> {
    fn default() -> Self {
        Self { known: VecDeque::new(), bytes: 0 }
    }
}

impl<T> KnownSegments<T> {
    pub(super) fn get(&self, id: SegmentId) -> Option<&T> {
        self.known.iter().rev().find(|(known, ..)| *known == id).map(|(.., kept)| kept)
    }

    /// Adds one that was sent. The oldest make room for it.
    pub(super) fn add(&mut self, MemoryName { id, size }: MemoryName, kept: T) {
        let size = size.get();
        self.known.push_back((id, size, kept));
        self.bytes = self.bytes.saturating_add(size);
        while self.known.len() > MAX_SEGMENTS || self.bytes > MAX_MEMORY_BYTES {
            let Some((_, size, _)) = self.known.pop_front() else { break };
            self.bytes -= size;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;

    fn known(segments: &KnownSegments<()>) -> Vec<SegmentId> {
        segments.known.iter().map(|(id, ..)| *id).collect()
    }

    #[test]
    fn the_oldest_are_forgotten_beyond_the_most_segments_and_the_most_bytes() {
        let mut segments = KnownSegments::default();
        let name = |id, size| MemoryName { id, size: NonZeroUsize::new(size).unwrap() };
        (1..=10).for_each(|id| segments.add(name(id, 1), ()));
        assert_eq!(known(&segments), [3, 4, 5, 6, 7, 8, 9, 10]);
        segments.add(name(11, MAX_MEMORY_BYTES - 2), ());
        assert_eq!(known(&segments), [9, 10, 11]);
        segments.add(name(12, MAX_MEMORY_BYTES), ());
        assert_eq!(known(&segments), [12]);
        assert!(segments.get(12).is_some() && segments.get(11).is_none());
    }
}
