//! An exclusive chunk of a [`SharedArray`](super::SharedArray): its word in the ledger, its mapping.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::atomic::AtomicU64;

use bytemuck::Pod;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{Error, Result};
use crate::ipc::packet::PacketSocket;
use crate::ipc::wire::{SharedFd, SharedMemory};
use crate::sys::atomic::{AcqRel, Acquire, Relaxed, Release};
use crate::sys::writable::WritableRange;

/// An exclusive part of a [`SharedArray`](super::SharedArray). It travels as an argument of a process or task,
/// and through a pipe.
///
/// Dropping it, or the end of the process that holds it, gives it back.
pub struct ArrayChunk<T> {
    /// Taken and mapped. It must be unmapped before the lease ends.
    range: Option<WritableRange>,
    parcel: Parcel,
    element: PhantomData<T>,
}

/// A chunk's encoding.
#[derive(Serialize, Deserialize)]
pub(super) struct Parcel {
    /// The size of an element (bytes).
    element: usize,
    /// Where the chunk begins in the array, and its length, in elements.
    first: usize,
    length: usize,
    memory: SharedFd,
    ledger: SharedMemory,
    /// The chunk's word in the ledger, and the number at which it may be taken, or has been taken by this
    /// handle.
    word: usize,
    number: Number,
    lease: PacketSocket,
}

impl<T: Pod> ArrayChunk<T> {
    pub(super) fn new(parcel: Parcel) -> Self {
        Self { range: None, parcel, element: PhantomData }
    }

    /// Where the chunk begins in the array.
    pub fn first(&self) -> usize {
        self.parcel.first
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.parcel.length
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.parcel.length == 0
    }

    /// The elements.
    ///
    /// # Panics
    /// When another handle has the chunk, which takes a second copy of its encoding; and when the kernel has
    /// no memory to map it.
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
        if self.parcel.length == 0 {
            return Ok(&mut []);
        }
        if !self.parcel.take() {
            return Err(Error::invalid("another handle has this chunk of an array"));
        }
        let range = match self.range.take() {
            Some(range) => range,
            None => self.parcel.map()?,
        };
        Ok(bytemuck::cast_slice_mut(self.range.insert(range).bytes_mut()))
    }
}

impl Parcel {
    pub(super) fn new<T>(
        memory: SharedFd,
        ledger: SharedMemory,
        lease: PacketSocket,
        word: usize,
        elements: Range<usize>,
    ) -> Self {
        let (first, length) = (elements.start, elements.len());
        let (element, number) = (size_of::<T>(), Number::default());
        Self { element, first, length, memory, ledger, word, number, lease }
    }

    /// Takes the chunk, unless this handle has it; returns whether it has it then.
    fn take(&self) -> bool {
        let (word, number) = (self.ledger.word64(self.word * size_of::<u64>()), self.number.get());
        if number % 2 == 1 {
            return word.load(Relaxed) == number;
        }
        let is_taken = word.compare_exchange(number, number + 1, AcqRel, Relaxed).is_ok();
        if is_taken {
            self.number.set(number + 1);
        }
        is_taken
    }

    /// Lets another handle take the chunk, if this one has it.
    fn release(&self) {
        let number = self.number.get();
        if number % 2 == 1 {
            self.release_from(number);
        }
    }

    /// Two threads may encode a handle at a time. The later one must not release the chunk from the handle
    /// that has taken it meanwhile.
    fn release_from(&self, number: u64) {
        let next = number.wrapping_add(1);
        let word = self.ledger.word64(self.word * size_of::<u64>());
        let _ = word.compare_exchange(number, next, Release, Relaxed);
        self.number.set(next);
    }

    fn map(&self) -> Result<WritableRange> {
        WritableRange::map(self.memory.as_fd(), self.first * self.element, self.length * self.element)
    }

    /// Whether a received parcel is about elements of type `T`, and its numbers make sense.
    fn fits<T>(&self) -> bool {
        let end = self.first.checked_add(self.length).and_then(|end| end.checked_mul(self.element));
        let words = self.ledger.size().get() / size_of::<u64>();
        self.element == size_of::<T>()
            && end.is_some_and(|end| isize::try_from(end).is_ok())
            && self.word < words
    }
}

impl<T> Drop for ArrayChunk<T> {
    fn drop(&mut self) {
        self.range = None; // before the lease ends
    }
}

impl<T: Pod> Serialize for ArrayChunk<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.parcel.release();
        self.parcel.serialize(serializer)
    }
}

impl<'de, T: Pod> Deserialize<'de> for ArrayChunk<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let parcel = Parcel::deserialize(deserializer)?;
        if !parcel.fits::<T>() {
            return Err(D::Error::custom("a chunk of an array of another type"));
        }
        Ok(Self::new(parcel))
    }
}

/// A number that changes behind a shared reference.
#[derive(Default)]
struct Number(AtomicU64);

impl Number {
    fn get(&self) -> u64 {
        self.0.load(Acquire)
    }

    fn set(&self, number: u64) {
        self.0.store(number, Release);
    }
}

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.get().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        u64::deserialize(deserializer).map(|number| Self(AtomicU64::new(number & !1)))
    }
}

impl<T> fmt::Debug for ArrayChunk<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Parcel { first, length, .. } = &self.parcel;
        write!(f, "ArrayChunk({first}..{})", first + length)
    }
}

#[cfg(test)]
mod tests {
    use super::super::SharedArray;
    use super::*;

    /// Another handle of the same chunk, as from its encoding.
    fn copy(of: &Parcel) -> Parcel {
        let Parcel { element, first, length, word, .. } = *of;
        let (memory, ledger, lease) = (of.memory.clone(), of.ledger.clone(), of.lease.clone());
        let number = Number(AtomicU64::new(of.number.get() & !1));
        Parcel { element, first, length, memory, ledger, word, number, lease }
    }

    #[test]
    fn a_second_thread_that_encodes_a_chunk_does_not_release_it_from_its_new_holder() {
        let mut array = SharedArray::<u64>::zeroed(1).unwrap();
        let chunk = array.chunks_mut(1).unwrap().next().unwrap();
        assert!(chunk.parcel.take());
        let seen_by_both = chunk.parcel.number.get();
        chunk.parcel.release_from(seen_by_both);
        let (first, second) = (copy(&chunk.parcel), copy(&chunk.parcel));
        assert!(first.take());
        chunk.parcel.release_from(seen_by_both);
        assert!(first.take() && !second.take() && !chunk.parcel.take());
    }
}
