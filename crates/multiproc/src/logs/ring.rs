//! The ring of log records: many processes write, one reads.

use std::num::NonZeroUsize;
use std::time::Duration;

use crate::error::Result;
use crate::impl_serde::impl_serde;
use crate::ipc::event_count::EventCount;
use crate::ipc::ring::{Position, Ring, just_before_overflow};
use crate::ipc::wire::SharedMemory;
use crate::sys::atomic::Relaxed;
use crate::sys::mutex::Mutex;
use crate::sys::poll::Deadline;
use crate::sys::thread_id::namespace;

/// The offsets of words. The writers' lock, their position and the number of lost records; the reader's
/// position.
const LOCK: usize = 0;
const LOST: usize = 8;
const EVENT: usize = 12;
const TAIL: usize = 16;
const HEAD: usize = 128;

const SIZE: u32 = 1024 * 1024;
const RING: Ring = Ring::new(256, SIZE);
const MEMORY: NonZeroUsize = NonZeroUsize::new(256 + SIZE as usize).unwrap();

/// How long a writer waits for another that is stopped with the lock. Copying a record takes less than a
/// microsecond.
const LOCK_TIME: Duration = Duration::from_millis(20);

#[derive(Clone)]
pub(super) struct LogRing {
    memory: SharedMemory,
    namespace: u64,
}

impl_serde!(struct LogRing { memory, namespace });

/// The number of records and of lost ones since the start. Both wrap around.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) records: u32,
    pub(super) lost: u32,
}

impl Counts {
    /// Those of a new ring.
    pub(super) const START: Self = Self { records: Position::START.frames, lost: just_before_overflow(4) };
}

impl LogRing {
    pub(super) fn create() -> Result<Self> {
        let ring = Self { memory: SharedMemory::create(MEMORY)?, namespace: namespace() };
        for word in [TAIL, HEAD] {
            Position::START.store_release(ring.memory.word64(word));
        }
        ring.memory.word32(LOST).store(Counts::START.lost, Relaxed);
        ring.memory.word32(EVENT).store(just_before_overflow(16), Relaxed);
        Ok(ring)
    }

    /// Writes a record; counts it as lost if there is no room. The reader sees it even if this process is
    /// killed right after this call.
    pub(super) fn put(&self, record: &[u8]) {
        let mutex = Mutex::at(&self.memory, LOCK, self.namespace);
        let guard = mutex.try_lock().or_else(|| mutex.lock(Deadline::after(LOCK_TIME)).ok().flatten());
        let is_put = guard.is_some_and(|_guard| {
            let mut tail = Position::load(self.memory.word64(TAIL));
            let taken = Position::load(self.memory.word64(HEAD)).bytes;
            let fits = RING.put(&self.memory, &mut tail, taken, 0, &[record]);
            if fits {
                tail.store_release(self.memory.word64(TAIL));
            }
            fits
        });
        if !is_put {
            self.memory.word32(LOST).fetch_add(1, Relaxed);
        }
        self.event().notify_all();
    }

    /// What was written until now.
    pub(super) fn counts(&self) -> Counts {
        Counts { records: self.tail().frames, lost: self.memory.word32(LOST).load(Relaxed) }
    }

    /// The end of what was written.
    pub(super) fn tail(&self) -> Position {
        Position::load(self.memory.word64(TAIL))
    }

    /// Gives the room before this position to the writers.
    pub(super) fn release(&self, head: Position) {
        head.store_release(self.memory.word64(HEAD));
    }

    /// The record at `head`, which goes on after it. `None` if another process has overwritten the ring.
    pub(super) fn take(&self, head: &mut Position, tail: Position) -> Option<Vec<u8>> {
        let is_in_ring = RING.can_hold(*head, tail);
        is_in_ring
            .then(|| RING.take_before(&self.memory, head, tail.bytes, |_, bytes| bytes.to_vec()))
            .flatten()
    }

    pub(super) fn event(&self) -> EventCount<'_> {
        EventCount(self.memory.word32(EVENT))
    }
}

#[cfg(test)]
impl LogRing {
    /// Moves the writers' position by this many bytes, as a faulty process may.
    pub(super) fn skip(&self, bytes: u32) {
        let tail = self.tail();
        let tail = Position { bytes: tail.bytes.wrapping_add(bytes), ..tail };
        tail.store_release(self.memory.word64(TAIL));
    }
}
