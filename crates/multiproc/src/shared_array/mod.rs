//! `SharedArray`: plain data in shared memory that processes fill together, each its own exclusive chunk.
//!
//! Three things make a chunk exclusive and bring it back:
//!
//! - Each chunk has a generation number in shared memory: even = free, odd = taken. A handle takes the chunk
//!   by compare-and-exchange from its generation to the next; sending the chunk changes it to the one after.
//!   So at most one handle has it.
//! - A handle's bounds, generation and descriptors travel as one [attachment](crate::ipc::wire::attachment) of
//!   the message. A user's `Serialize` and `Deserialize` do not see them. So every handle is of a chunk that the
//!   array has made.
//! - Each handle, in a process or in transit, holds one end of a socket pair. When the last one is closed,
//!   the kernel reports a hang-up at the array's end. Only then the array makes other chunks.

mod chunk;
mod generation;

use std::fmt;
use std::marker::PhantomData;
use std::num::NonZeroUsize;
use std::time::Duration;

use bytemuck::Pod;
use nix::errno::Errno;

use crate::error::{Error, Result};
use crate::ipc::packet::PacketSocket;
use crate::ipc::wire::{SharedFd, SharedMemory};
use crate::shared_slice::SharedSlice;
use crate::sys::atomic::Relaxed;
use crate::sys::fork_detect::OriginalProcess;
use crate::sys::immutable::{self, ImmutableMemory};
use crate::sys::poll::Deadline;

pub use chunk::ArrayChunk;

use chunk::ChunkHandle;
use generation::Generation;

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
/// # Exclusive access
///
/// Safe code cannot have two references to an element at a time, in the same process or in two. That rests on:
///
/// - One atomic exchange in shared memory takes a chunk, however often it was encoded. Of all its handles one
///   has it. A forked copy of a process does not have the chunks that the process has taken, and can make none of
///   its arrays.
/// - No handle names a part of the array that the array has not made a chunk. Which part a chunk is does
///   not pass through a serializer: the library sends it beside the value, and a `Serialize` of yours sees only
///   an index. A receiver gets a whole chunk of the same message for an index, each once, or an error. Outside
///   of a message (`serde_json`, for example) encoding a chunk is an error.
/// - The array makes other chunks, or becomes a [`SharedSlice`], only when the kernel has closed the last
///   handle, wherever that was.
///
/// A chunk of a task that is killed is lost; its elements have the values that the task wrote so
/// far. A chunk is not sent a second time when a call [retries](crate::pool::CallOptions::retries).
///
/// Other processes have no reference, but they have the memory: one that writes where it has nothing to write
/// (by `unsafe` code, or a C library) can change elements of a chunk in another process, as it can change its
/// own heap. Every such element is a valid `T`. A [`SharedSlice`] is safe from that as well.
///
/// # Elements
///
/// As for a [`SharedSlice`]: an element of size zero, or one with an alignment above a page's 4096 bytes, does not
/// compile.
///
/// ```compile_fail
/// assert!(multiproc::SharedArray::<()>::zeroed(5).is_ok());
/// ```
pub struct SharedArray<T> {
    /// `None` for an empty array.
    memory: Option<SharedFd>,
    length: usize,
    /// Hangs up when the last handle of a chunk is gone.
    hangup_socket: Option<PacketSocket>,
    /// The process that makes chunks. Chunks of a forked copy of it would be of the same elements.
    maker: OriginalProcess,
    element: PhantomData<T>,
}

/// A program that any thread of a holder starts has copies of its descriptors until the kernel executes it. So
/// chunks that were dropped may not be back for a moment, longer on a busy machine.
const WAIT_FOR_CHUNKS: Duration = Duration::from_secs(1);

impl<T: Pod> SharedArray<T> {
    /// An array of `length` elements, which are zero.
    ///
    /// # Errors
    /// When the kernel refuses a descriptor or the memory, all of which is allocated here.
    pub fn zeroed(length: usize) -> Result<Self> {
        const { SharedSlice::<T>::CHECKED };
        let size = length.checked_mul(size_of::<T>()).ok_or_else(|| too_large::<T>(length))?;
        let memory = NonZeroUsize::new(size).map(immutable::create_allocated).transpose()?;
        Ok(Self {
            memory: memory.map(SharedFd::from),
            length,
            hangup_socket: None,
            maker: OriginalProcess::current(),
            element: PhantomData,
        })
    }

    /// An array of `length` elements, which `fill` writes in place; they are zero before.
    ///
    /// # Errors
    /// As [`zeroed`](Self::zeroed).
    pub fn build(length: usize, fill: impl FnOnce(&mut [T])) -> Result<Self> {
        let mut array = Self::zeroed(length)?;
        match array.chunks_mut(length.max(1))?.next() {
            Some(mut all) => fill(all.take()?),
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
    /// When chunks of an earlier call are not back after a second ([`join`](Self::join) waits longer for them), when
    /// `size` is 0, when the kernel refuses a descriptor or memory, and in a forked copy of the process that made the
    /// array.
    pub fn chunks_mut(&mut self, size: usize) -> Result<impl Iterator<Item = ArrayChunk<T>> + use<T>> {
        if size == 0 {
            return Err(Error::invalid("the size of a chunk must be at least 1"));
        }
        let starts = (0..self.length).step_by(size);
        let (count, length) = (starts.len(), self.length);
        let mut source = self.begin_chunks(count)?;
        Ok(starts.enumerate().filter_map(move |(word, first)| {
            let chunk = source.as_ref().map(|source| source.chunk(word, first, size.min(length - first)));
            if word + 1 == count {
                source = None; // otherwise the array would be in use for as long as this iterator lives
            }
            chunk
        }))
    }

    /// Splits the array into two exclusive chunks, before the element `middle`.
    ///
    /// # Errors
    /// As [`chunks_mut`](Self::chunks_mut); and when the array is empty, or `middle` is beyond its end.
    pub fn split_at(&mut self, middle: usize) -> Result<[ArrayChunk<T>; 2]> {
        let rest = self.length.checked_sub(middle);
        let rest =
            rest.ok_or_else(|| Error::invalid(format!("element {middle} is beyond the end of the array")))?;
        let source = self.begin_chunks(2)?.ok_or_else(|| Error::invalid("an empty array cannot be split"))?;
        Ok([source.chunk(0, 0, middle), source.chunk(1, middle, rest)])
    }

    /// Waits until all chunks are back. Blocks while any process holds one, or one is on its way.
    ///
    /// # Errors
    /// When the kernel refuses to wait.
    pub fn join(&self) -> Result<()> {
        self.wait(Deadline::Never).map(drop)
    }

    /// As [`join`](Self::join), but blocks for `time` at most; returns whether all chunks are back. While a holder
    /// starts a program, it may take a moment until they are, after they were dropped.
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
    /// When the kernel refuses a descriptor or memory; after 10 s, when a process that was forked from the holder
    /// of a chunk still has it; and in a forked copy of the process that made the array.
    pub fn into_shared(self) -> Result<SharedSlice<T>> {
        self.check_not_forked()?;
        self.join()?;
        let Some(memory) = self.memory else { return SharedSlice::from_slice(&[]) };
        let length = NonZeroUsize::new(self.length * size_of::<T>());
        let length = length.ok_or_else(|| Error::internal("an array without bytes"))?;
        SharedSlice::from_sealed(ImmutableMemory::seal(memory.into_descriptor()?, length)?)
    }

    fn check_not_forked(&self) -> Result<()> {
        if self.maker.is_current() {
            return Ok(());
        }
        Err(Error::invalid("only the process that made an array can use it; this is a forked copy"))
    }

    fn wait(&self, deadline: Deadline) -> Result<bool> {
        self.hangup_socket.as_ref().map_or(Ok(true), |hangup_socket| hangup_socket.wait_for_hang_up(deadline))
    }

    /// Prepares to hand out `chunks` chunks. `None` for an empty array.
    fn begin_chunks(&mut self, chunks: usize) -> Result<Option<ChunkSource<T>>> {
        self.check_not_forked()?;
        if !self.join_timeout(WAIT_FOR_CHUNKS)? {
            return Err(Error::invalid("chunks of the array are not back yet; `join` waits for them"));
        }
        let Some(memory) = self.memory.clone() else { return Ok(None) };
        let words = chunks.checked_mul(size_of::<u64>()).and_then(NonZeroUsize::new);
        let generations = SharedMemory::create(words.ok_or_else(|| too_large::<T>(chunks))?)?;
        if Generation::START != 0 {
            generations.allocate()?;
            let words = (0..chunks).map(|chunk| generations.word64(chunk * size_of::<u64>()));
            words.for_each(|word| word.store(Generation::START, Relaxed));
        }
        let (hangup_socket, liveness_socket) = PacketSocket::pair()?;
        self.hangup_socket = Some(hangup_socket);
        Ok(Some(ChunkSource { memory, generations, liveness_socket, element: PhantomData }))
    }
}

fn too_large<T>(length: usize) -> Error {
    let operation = format!("find memory for {length} elements of {} bytes", size_of::<T>());
    Error::os(&operation, Errno::ENOMEM)
}

/// Makes the chunks of one call. It has the liveness socket itself, so that chunks which it has not made yet
/// are not back.
#[derive(Clone)]
struct ChunkSource<T> {
    memory: SharedFd,
    generations: SharedMemory,
    liveness_socket: PacketSocket,
    element: PhantomData<fn() -> T>,
}

impl<T: Pod> ChunkSource<T> {
    fn chunk(&self, word: usize, first: usize, length: usize) -> ArrayChunk<T> {
        let Self { memory, generations, liveness_socket, .. } = self.clone();
        ArrayChunk::new(ChunkHandle::new::<T>(
            memory,
            generations,
            liveness_socket,
            word,
            first..first + length,
        ))
    }
}

impl<T> fmt::Debug for SharedArray<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedArray").field("len", &self.length).finish_non_exhaustive()
    }
}
