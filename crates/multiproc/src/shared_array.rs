//! `SharedArray`: plain data in shared memory that processes fill together, each its own exclusive chunk.
//!
//! Two things make a chunk exclusive and bring it back:
//!
//! - A word for each chunk, in a ledger that all processes share. An even number: no process has the chunk; a
//!   handle that knows the number may take it, by a compare-and-exchange to the next one. To send a taken chunk
//!   is to store the number after that. So of all handles of a chunk, however they came about, at most one has
//!   it.
//! - A lease, one end of a pair of sockets that each handle holds, in any process and in transit. When the last
//!   of them is gone, dropped or killed, the kernel hangs up the other end, which the array has.

use std::fmt;
use std::marker::PhantomData;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytemuck::Pod;
use nix::errno::Errno;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{Error, Result};
use crate::ipc::packet::PacketSocket;
use crate::ipc::wire::{SharedFd, SharedMemory};
use crate::shared_slice::SharedSlice;
use crate::sys::atomic::{AcqRel, Acquire, Relaxed, Release};
use crate::sys::poll::Deadline;
use crate::sys::sealed::{self, Sealed};
use crate::sys::writable::WritableRange;

/// Plain data in shared memory that several processes fill, each an exclusive [chunk](ArrayChunk) of it.
///
/// A chunk travels to one task, which writes it in place, and comes back when the task ends, in whatever way.
/// Nothing is copied.
///
/// ```
/// use multiproc::{ArrayChunk, Pool, SharedArray};
///
/// fn squares(mut chunk: ArrayChunk<u64>) {
///     let first = chunk.first() as u64;
///     for (number, square) in (first..).zip(chunk.as_mut()) {
///         *square = number * number;
///     }
/// }
///
/// fn main() -> multiproc::Result<()> {
///     multiproc::init();
///     let mut array = SharedArray::zeroed(1_000)?;
///     Pool::new(2)?.map(squares, array.chunks_mut(100)?)?;
///     let squares = array.into_shared()?; // a `SharedSlice`
///     assert_eq!(squares[999], 999 * 999);
///     Ok(())
/// }
/// ```
///
/// # On what the exclusive access rests
///
/// Safe code cannot have two references to an element at a time, in the same process or in two: a chunk is
/// taken by one atomic exchange, whoever else may have a copy of its encoding. A chunk of a task that is
/// killed is nowhere any more; its elements have the values that the task wrote so far. A chunk is not sent a
/// second time when a call [retries](crate::pool::CallOptions::retries).
///
/// Other processes have no reference, but they have the memory: one that writes where it has nothing to write
/// (by `unsafe` code, or a C library) can change elements of a chunk in another process, as it can change its
/// own heap. Every such element is a valid `T`. A [`SharedSlice`] is safe from that as well.
///
/// # Elements
///
/// As for a [`SharedSlice`].
pub struct SharedArray<T> {
    /// `None` for an empty array.
    memory: Option<SharedFd>,
    length: usize,
    /// Hangs up when the last handle of a chunk is gone.
    watch: Option<PacketSocket>,
    element: PhantomData<T>,
}

/// An exclusive part of a [`SharedArray`]. It travels as an argument of a process or task, and through a
/// pipe.
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
struct Parcel {
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

impl<T: Pod> SharedArray<T> {
    /// An array of `length` elements, which are zero.
    ///
    /// # Errors
    /// When the kernel refuses a descriptor or the memory, all of which is allocated here.
    pub fn zeroed(length: usize) -> Result<Self> {
        let size = length.checked_mul(size_of::<T>()).ok_or_else(|| too_large::<T>(length))?;
        let memory = NonZeroUsize::new(size).map(sealed::allocate).transpose()?;
        Ok(Self { memory: memory.map(SharedFd::from), length, watch: None, element: PhantomData })
    }

    /// An array of `length` elements, which `fill` writes in place; they are zero before.
    ///
    /// # Errors
    /// As [`zeroed`](Self::zeroed).
    pub fn build(length: usize, fill: impl FnOnce(&mut [T])) -> Result<Self> {
        let mut array = Self::zeroed(length)?;
        match array.chunks_mut(length.max(1))?.next() {
            Some(mut all) => fill(all.as_mut()),
            None => fill(&mut []),
        }
        Ok(array)
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Splits the array into exclusive chunks of `size` elements; the last one may have fewer.
    ///
    /// # Errors
    /// When chunks of an earlier call are not back ([`join`](Self::join) waits for them), when `size` is 0,
    /// and when the kernel refuses a descriptor or memory.
    pub fn chunks_mut(&mut self, size: usize) -> Result<impl Iterator<Item = ArrayChunk<T>> + use<T>> {
        if size == 0 {
            return Err(Error::invalid("the size of a chunk must be at least 1"));
        }
        let starts = (0..self.length).step_by(size);
        let (lender, length) = (self.lend(starts.len())?, self.length);
        Ok(starts.enumerate().filter_map(move |(word, first)| {
            lender.as_ref().map(|lender| lender.chunk(word, first, size.min(length - first)))
        }))
    }

    /// Splits the array into two exclusive chunks, before the element `middle`.
    ///
    /// # Errors
    /// As [`chunks_mut`](Self::chunks_mut); and when `middle` is beyond the end.
    pub fn split_at(&mut self, middle: usize) -> Result<[ArrayChunk<T>; 2]> {
        let rest = self.length.checked_sub(middle);
        let rest =
            rest.ok_or_else(|| Error::invalid(format!("element {middle} is beyond the end of the array")))?;
        let lender = self.lend(2)?.ok_or_else(|| Error::invalid("an empty array has no chunks"))?;
        Ok([lender.chunk(0, 0, middle), lender.chunk(1, middle, rest)])
    }

    /// Waits until all chunks are back. Blocks while any process holds one, or one is on its way.
    ///
    /// # Errors
    /// When the kernel refuses to wait.
    pub fn join(&self) -> Result<()> {
        self.wait(Deadline::Never).map(drop)
    }

    /// As [`join`](Self::join), but blocks for `time` at most; returns whether all chunks are back.
    ///
    /// # Errors
    /// As [`join`](Self::join).
    pub fn join_timeout(&self, time: Duration) -> Result<bool> {
        self.wait(Deadline::after(time))
    }

    /// Waits until all chunks are back, and returns the elements as a slice that any process can read and
    /// none can change. Copies nothing.
    ///
    /// # Errors
    /// When the kernel refuses a descriptor or memory; and after 10 s, when a process that was forked from
    /// the holder of a chunk still has it.
    pub fn into_shared(self) -> Result<SharedSlice<T>> {
        self.join()?;
        let Some(memory) = self.memory else { return SharedSlice::from_slice(&[]) };
        let length = NonZeroUsize::new(self.length * size_of::<T>());
        let length = length.ok_or_else(|| Error::internal("an array without bytes"))?;
        SharedSlice::from_sealed(Sealed::seal(memory.into_descriptor()?, length)?)
    }

    fn wait(&self, deadline: Deadline) -> Result<bool> {
        self.watch.as_ref().map_or(Ok(true), |watch| watch.wait_for_hang_up(deadline))
    }

    /// Prepares to hand out `chunks` chunks. `None` for an empty array.
    fn lend(&mut self, chunks: usize) -> Result<Option<Lender<T>>> {
        if !self.join_timeout(Duration::ZERO)? {
            return Err(Error::invalid("chunks of the array are not back yet; `join` waits for them"));
        }
        let Some(memory) = self.memory.clone() else { return Ok(None) };
        let words = chunks.checked_mul(size_of::<u64>()).and_then(NonZeroUsize::new);
        let ledger = SharedMemory::create(words.ok_or_else(|| too_large::<T>(chunks))?)?;
        let (watch, lease) = PacketSocket::pair()?;
        self.watch = Some(watch);
        Ok(Some(Lender { memory, ledger, lease, element: PhantomData }))
    }
}

fn too_large<T>(length: usize) -> Error {
    let operation = format!("find memory for {length} elements of {} bytes", size_of::<T>());
    Error::os(&operation, Errno::ENOMEM)
}

/// Makes the chunks of one call. It has a lease itself, so that chunks which it has not made yet are not
/// back.
#[derive(Clone)]
struct Lender<T> {
    memory: SharedFd,
    ledger: SharedMemory,
    lease: PacketSocket,
    element: PhantomData<fn() -> T>,
}

impl<T: Pod> Lender<T> {
    fn chunk(&self, word: usize, first: usize, length: usize) -> ArrayChunk<T> {
        let Self { memory, ledger, lease, .. } = self.clone();
        let (element, number) = (size_of::<T>(), Number::default());
        let parcel = Parcel { element, first, length, memory, ledger, word, number, lease };
        ArrayChunk { range: None, parcel, element: PhantomData }
    }
}

impl<T: Pod> ArrayChunk<T> {
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
            self.number.set(number.wrapping_add(1));
            self.ledger.word64(self.word * size_of::<u64>()).store(number.wrapping_add(1), Release);
        }
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
        Ok(Self { range: None, parcel, element: PhantomData })
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

impl<T> fmt::Debug for SharedArray<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedArray").field("len", &self.length).finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for ArrayChunk<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Parcel { first, length, .. } = &self.parcel;
        write!(f, "ArrayChunk({first}..{})", first + length)
    }
}
