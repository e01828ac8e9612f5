//! An exclusive chunk of a [`SharedArray`](super::SharedArray): its generation, its mapping.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;
use std::os::fd::AsFd;

use bytemuck::Pod;
use serde_core::de::Error as _;
use serde_core::{Deserialize, Deserializer, Serialize, Serializer};

use super::generation::Generation;
use crate::error::{Error, Result};
use crate::impl_serde::impl_serde;
use crate::ipc::packet::PacketSocket;
use crate::ipc::wire::attachment::{self, Kind};
use crate::ipc::wire::{SharedFd, SharedMemory};
use crate::shared_slice::SharedSlice;
use crate::sys::atomic::AtomicU64;
use crate::sys::failpoint::{self, Failpoint};
use crate::sys::fork_detect::OriginalProcess;
use crate::sys::writable::WritableRange;

/// An exclusive part of a [`SharedArray`](super::SharedArray). It travels as an argument or result of a process
/// or task, and through a pipe.
///
/// Dropping it, or the end of the process that holds it, gives it back.
pub struct ArrayChunk<T> {
    /// Taken and mapped. It must be unmapped before the liveness socket is closed.
    range: Option<WritableRange>,
    /// The process that has taken it, if one has. A forked copy has the mapping, too, and must not use it.
    holder: Option<OriginalProcess>,
    handle: ChunkHandle,
    element: PhantomData<T>,
}

/// A handle of a chunk, as it is encoded.
pub(super) struct ChunkHandle {
    /// The size of an element (bytes).
    element: usize,
    /// Where the chunk begins in the array, and its length, in elements.
    first: usize,
    length: usize,
    memory: SharedFd,
    generations: SharedMemory,
    /// The chunk's word in `generations`, and the generation at which this handle may take it or has taken
    /// it.
    word: usize,
    generation: Generation,
    liveness_socket: PacketSocket,
}

impl_serde!(struct ChunkHandle {
    element, first, length, memory, generations, word, generation, liveness_socket,
});

impl<T: Pod> ArrayChunk<T> {
    pub(super) fn new(handle: ChunkHandle) -> Self {
        Self { range: None, holder: None, handle, element: PhantomData }
    }

    /// Where the chunk begins in the array.
    pub fn first(&self) -> usize {
        self.handle.first
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.handle.length
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.handle.length == 0
    }

    /// The elements.
    ///
    /// # Panics
    /// When another handle has the chunk, which takes a second copy of its encoding, or a process of which this one is
    /// a forked copy; and when the kernel has no memory to map it.
    #[allow(clippy::should_implement_trait, reason = "it does, but `AsMut` alone would leave the type open")]
    pub fn as_mut(&mut self) -> &mut [T] {
        match self.take() {
            Ok(elements) => elements,
            Err(error) => panic!("{error}"),
        }
    }

    /// As [`as_mut`](Self::as_mut).
    ///
    /// # Errors
    /// Where `as_mut` panics.
    pub fn take(&mut self) -> Result<&mut [T]> {
        if self.handle.length == 0 {
            return Ok(&mut []);
        }
        if self.is_of_original() {
            return Err(Error::invalid(
                "a forked copy of a process cannot use a chunk that the original has taken",
            ));
        }
        if !self.handle.take() {
            return Err(Error::invalid("another handle has this chunk of an array"));
        }
        self.holder = Some(OriginalProcess::current());
        let range = match self.range.take() {
            Some(range) => range,
            None => self.handle.map()?,
        };
        Ok(bytemuck::cast_slice_mut(self.range.insert(range).bytes_mut()))
    }
}

impl<T> ArrayChunk<T> {
    /// Whether this is a forked copy of the process that has taken the chunk.
    fn is_of_original(&self) -> bool {
        self.holder.is_some_and(|holder| !holder.is_current())
    }
}

impl ChunkHandle {
    pub(super) fn new<T>(
        memory: SharedFd,
        generations: SharedMemory,
        liveness_socket: PacketSocket,
        word: usize,
        elements: Range<usize>,
    ) -> Self {
        let (first, length) = (elements.start, elements.len());
        let (element, generation) = (size_of::<T>(), Generation::new(Generation::START));
        Self { element, first, length, memory, generations, word, generation, liveness_socket }
    }

    fn take(&self) -> bool {
        self.generation.take(self.word())
    }

    fn release(&self) {
        self.generation.release(self.word());
    }

    fn word(&self) -> &AtomicU64 {
        self.generations.word64(self.word * size_of::<u64>())
    }

    fn map(&self) -> Result<WritableRange> {
        failpoint::hit(Failpoint::ChunkTaken);
        WritableRange::map(self.memory.as_fd(), self.first * self.element, self.length * self.element)
    }

    /// Whether a received handle is for elements of type `T`, and its numbers make sense.
    fn fits<T>(&self) -> bool {
        let end = self.first.checked_add(self.length).and_then(|end| end.checked_mul(self.element));
        let words = self.generations.size().get() / size_of::<u64>();
        self.element == size_of::<T>()
            && end.is_some_and(|end| isize::try_from(end).is_ok())
            && self.word < words
    }
}

impl<T> Drop for ArrayChunk<T> {
    fn drop(&mut self) {
        self.range = None; // before the liveness socket is closed
        failpoint::hit(Failpoint::ChunkUnmapped);
    }
}

impl<T: Pod> Serialize for ArrayChunk<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if !self.is_of_original() {
            self.handle.release();
        }
        attachment::serialize(Kind::Chunk, &self.handle, serializer)
    }
}

impl<'de, T: Pod> Deserialize<'de> for ArrayChunk<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const { SharedSlice::<T>::CHECKED };
        let handle: ChunkHandle = attachment::deserialize(Kind::Chunk, deserializer)?;
        if !handle.fits::<T>() {
            return Err(D::Error::custom("a chunk of an array of another type"));
        }
        Ok(Self::new(handle))
    }
}

impl<T> fmt::Debug for ArrayChunk<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ChunkHandle { first, length, .. } = &self.handle;
        write!(f, "ArrayChunk({first}..{})", first + length)
    }
}

#[cfg(test)]
mod tests {
    use super::super::SharedArray;
    use super::*;

    /// Another handle of the same chunk, as from its encoding.
    fn copy(of: &ChunkHandle) -> ChunkHandle {
        let ChunkHandle { element, first, length, word, .. } = *of;
        let (memory, generations, liveness_socket) =
            (of.memory.clone(), of.generations.clone(), of.liveness_socket.clone());
        let generation = Generation::new(of.generation.get());
        ChunkHandle { element, first, length, memory, generations, word, generation, liveness_socket }
    }

    #[test]
    fn a_second_thread_that_encodes_a_chunk_does_not_release_it_from_its_new_holder() {
        let mut array = SharedArray::<u64>::zeroed(1).unwrap();
        let chunk = array.chunks_mut(1).unwrap().next().unwrap();
        assert!(chunk.handle.take());
        let seen_by_both = chunk.handle.generation.get();
        chunk.handle.generation.release_from(chunk.handle.word(), seen_by_both);
        let (first, second) = (copy(&chunk.handle), copy(&chunk.handle));
        assert!(first.take());
        chunk.handle.generation.release_from(chunk.handle.word(), seen_by_both);
        assert!(first.take() && !second.take() && !chunk.handle.take());
    }
}
