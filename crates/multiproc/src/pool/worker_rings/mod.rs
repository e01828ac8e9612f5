//! The shared memory of a pool and one worker: a submission ring for items and a completion ring for results,
//! as in `io_uring`.
//!
//! Three words make the state of a dead worker exact. One store or one exchange changes each of them, so each
//! is valid at every instruction:
//!
//! - *claims* holds the number of submitted and of claimed items. The worker claims items and the pool revokes
//!   items by compare-and-exchange on this word, so no item is both. Of several claimed items ([a
//!   run](claim_word)) the worker begins one when it has completed the one before. An item that it has begun
//!   never runs again; any other item may go to another worker.
//! - *completed* is the end of the worker's results. It moves with each item, and the pool does not read it
//!   in normal operation.
//! - *visible* is the part that the pool polls. It moves once in a while, since each poll costs a transfer of
//!   its cache line between the CPUs.
//!
//! When a worker has died, its results up to *completed* are valid, the next item has failed if it is
//! claimed, and all others can run elsewhere.

// See `ring`.
#![allow(clippy::inline_always)]

pub(crate) mod claim_word;
mod known_segments;
mod pool_side;
mod result_words;
pub(crate) mod wakeups;
mod worker_side;

use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;

use crate::error::{Cause, Error, Result};
use crate::impl_serde::impl_serde;
use crate::ipc::event_count::EventCount;
use crate::ipc::packet::{self, Incoming, OnShortage, PacketSocket};
use crate::ipc::ring::array::MAX_ARRAY;
use crate::ipc::ring::{Position, Ring, just_before_overflow};
use crate::ipc::wire::{SegmentId, SharedMemory};
use crate::pool::worker_rings::wakeups::PoolWakeups;
use crate::sys::atomic::{AtomicU32, AtomicU64, Relaxed};
use crate::sys::poll::Deadline;

pub(crate) use self::pool_side::{OneResult, PoolSide};
pub(crate) use self::result_words::Scope;
pub(crate) use self::worker_side::WorkerSide;

#[derive(Clone, Debug)]
pub(crate) struct WorkerRings(SharedMemory);

impl_serde!(newtype WorkerRings, <Self as TryFrom<SharedMemory>>::try_from);

/// The kinds of frames: an item or a result, of which an [array](crate::ipc::ring::array) holds many;
pub(crate) use crate::ipc::frame::VALUE;
/// an error instead of a result;
pub(crate) const ERROR: u32 = 2;
/// a reference to an out-of-line item or result, which is a message on the packet socket;
pub(crate) const OUT_OF_LINE: u32 = 3;
/// the header of the following items, which is no item.
pub(crate) const TASK_HEADER: u32 = 4;
/// The kind of a message that is no item either: a memory that items will name.
const MEMORY: u32 = 5;

const PREFIX: usize = size_of::<u64>();

const RING: u32 = 1024 * 1024;
/// The worker learns from the header of an array whether it was shortened, even when all its items are completed.
const SUBMISSIONS: Ring = Ring::new(4096, RING).restarting_early().keeping_last(MAX_ARRAY);
const COMPLETIONS: Ring = Ring::new(4096 + RING as usize, RING).restarting_early();
const SIZE: NonZeroUsize = NonZeroUsize::new(4096 + 2 * RING as usize).unwrap();

/// The offsets of words. Words with different writers have different cache lines.
const CLAIMS: usize = 0;
const COMPLETED: usize = 128;
const VISIBLE: usize = 256;
/// The worker's total time for all visible results, in nanoseconds.
const RUN_TIME: usize = 264;
/// Its total time without items, before the running item.
const IDLE: usize = 296;
/// The number of its results that are errors.
const FAILED: usize = 304;
/// The number of out-of-line results, at least.
const OUT_OF_LINE_COUNT: usize = 280;
/// The number of segments that it has lost for lack of a descriptor.
const SEGMENTS_LOST: usize = 312;
/// Items between two clock reads of the worker. At 1, all its results are visible. Above, some may not be. A flush
/// stores 2.
const ITEMS_PER_CLOCK_READ: usize = 272;
/// The worker is ready: its initializer has returned.
const READY: usize = 276;
/// When the worker began the running item, in nanoseconds of the monotonic clock, if it is timed; else 0.
const ITEM_STARTED_AT: usize = 288;
/// The end of the results that the pool has taken, in bytes.
const RESULTS_TAKEN: usize = 384;
const CLOSED: usize = 388;
/// What the pool requests of the worker. Any change: leave the run of claimed items, and read the clock, so
/// that results become visible. While it is odd: claim items singly.
const REQUESTS: usize = 392;
/// Event counts: for items or the closing of the rings; and for room for results.
const ITEMS_EVENT: usize = 396;
const ROOM_EVENT: usize = 400;
/// The running item should end. The pool resets it before it submits another.
const CANCELLED: usize = 404;
/// The counts of a [histogram](crate::pool::Histogram) of the times of its items.
const RUN_TIMES: usize = 512;

impl WorkerRings {
    pub(crate) fn create() -> Result<Self> {
        let rings = Self(SharedMemory::create(SIZE)?);
        let claims = u64::from(Position::START.frames);
        rings.claim_word().store(claims << 32 | claims, Relaxed);
        for word in [COMPLETED, VISIBLE] {
            Position::START.store_release(rings.0.word64(word));
        }
        rings.taken().store(Position::START.bytes, Relaxed);
        for event in [ITEMS_EVENT, ROOM_EVENT] {
            rings.0.word32(event).store(just_before_overflow(16), Relaxed);
        }
        for count in [OUT_OF_LINE_COUNT, SEGMENTS_LOST] {
            rings.0.word32(count).store(just_before_overflow(4), Relaxed);
        }
        rings.requests().store(just_before_overflow(16), Relaxed);
        Ok(rings)
    }

    #[inline]
    fn claim_word(&self) -> &AtomicU64 {
        self.0.word64(CLAIMS)
    }

    fn items_event(&self) -> EventCount<'_> {
        EventCount(self.0.word32(ITEMS_EVENT))
    }

    fn room_event(&self) -> EventCount<'_> {
        EventCount(self.0.word32(ROOM_EVENT))
    }

    #[inline]
    fn requests(&self) -> &AtomicU32 {
        self.0.word32(REQUESTS)
    }

    /// Whether the running item should end.
    #[inline]
    pub(crate) fn is_cancelled(&self) -> bool {
        self.0.word32(CANCELLED).load(Relaxed) != 0
    }

    fn taken(&self) -> &AtomicU32 {
        self.0.word32(RESULTS_TAKEN)
    }
}

/// The page that a pool shares with all of its workers: the wake-ups for its callers and its thread.
#[derive(Clone, Debug)]
pub(crate) struct WakeupPage(SharedMemory);

impl_serde!(newtype WakeupPage, <Self as TryFrom<SharedMemory>>::try_from);

const WAKEUP_PAGE: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

impl WakeupPage {
    pub(crate) fn create() -> Result<Self> {
        let wakeup_page = Self(SharedMemory::create(WAKEUP_PAGE)?);
        for event in [0, 4] {
            wakeup_page.0.word32(event).store(just_before_overflow(16), Relaxed);
        }
        Ok(wakeup_page)
    }

    pub(crate) fn notify_callers(&self) {
        self.callers().notify_all();
    }

    /// Wakes the callers; without callers, the pool's thread.
    pub(crate) fn notify(&self) {
        self.wakeups().notify();
    }

    pub(crate) fn wakeups(&self) -> PoolWakeups<'_> {
        PoolWakeups { callers: self.callers(), thread: self.thread(), waiting: self.0.word32(8) }
    }

    /// For callers, which drive the pool while they wait.
    pub(crate) fn callers(&self) -> EventCount<'_> {
        EventCount(self.0.word32(0))
    }

    pub(crate) fn thread(&self) -> EventCount<'_> {
        EventCount(self.0.word32(4))
    }
}

/// Received memory is valid only if it has the right size.
fn of_size(memory: SharedMemory, size: NonZeroUsize) -> Result<SharedMemory> {
    let found = memory.size();
    if found == size {
        return Ok(memory);
    }
    Err(Error::decode("shared memory", format!("{found} bytes instead of {size}")))
}

impl TryFrom<SharedMemory> for WorkerRings {
    type Error = Error;

    fn try_from(memory: SharedMemory) -> Result<Self> {
        of_size(memory, SIZE).map(Self)
    }
}

impl TryFrom<SharedMemory> for WakeupPage {
    type Error = Error;

    fn try_from(memory: SharedMemory) -> Result<Self> {
        of_size(memory, WAKEUP_PAGE).map(Self)
    }
}

/// The header of an out-of-line message: its number, by which a frame refers to it, and its kind.
struct MessageHeader {
    number: u32,
    kind: u32,
}

impl MessageHeader {
    fn bytes(&self) -> [u8; PREFIX] {
        (u64::from(self.number) << 32 | u64::from(self.kind)).to_le_bytes()
    }

    /// The header that a packet's prefix begins with.
    #[allow(clippy::cast_possible_truncation)] // taking halves is the purpose
    fn of(prefix: &[u8]) -> Self {
        let header = prefix.first_chunk().copied().map_or(u64::MAX, u64::from_le_bytes);
        Self { number: (header >> 32) as u32, kind: header as u32 }
    }
}

/// An out-of-line message, received.
struct ReceivedMessage {
    header: MessageHeader,
    packet: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

impl ReceivedMessage {
    /// Receives the message of that number, which must have been sent, and discards those before it, which no
    /// frame refers to any more. Does not block.
    fn numbered(link: &PacketSocket, number: u32, on_shortage: OnShortage) -> Result<Self> {
        for _ in 0..MAX_LINK_PACKETS {
            let message = Self::next(link, on_shortage)?;
            if message.header.number == number {
                return Ok(message);
            }
        }
        Err(Error::decode("a message", "other messages are in its place"))
    }

    /// Receives the next message, which must have been sent. Does not block.
    fn next(link: &PacketSocket, on_shortage: OnShortage) -> Result<Self> {
        match link.receive_packet_or(on_shortage, Deadline::now())? {
            Incoming::Message(packet, descriptors) => {
                let header = MessageHeader::of(packet::prefix(&packet));
                Ok(Self { header, packet, descriptors })
            }
            _ => Err(Error::new(Cause::SocketClosed)),
        }
    }
}

/// The message of a memory: how items name it, and its size in bytes.
struct MemoryName {
    id: SegmentId,
    size: NonZeroUsize,
}

impl MemoryName {
    fn bytes(&self) -> Vec<u8> {
        [self.id.to_le_bytes(), (self.size.get() as u64).to_le_bytes()].concat()
    }

    fn in_packet(packet: &[u8]) -> Option<Self> {
        let ([id, size], []) = packet::prefix(packet).get(PREFIX..)?.as_chunks() else { return None };
        let size = usize::try_from(u64::from_le_bytes(*size)).ok().and_then(NonZeroUsize::new)?;
        Some(Self { id: u64::from_le_bytes(*id), size })
    }
}

/// More packets than a worker's socket holds, whose buffer has the default size.
const MAX_LINK_PACKETS: u32 = 4096;

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests;
