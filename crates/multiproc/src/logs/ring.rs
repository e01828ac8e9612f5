//! The ring of log records: many processes write, one reads.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::delivery::Delivery;
use crate::error::Result;
use crate::ipc::event_count::EventCount;
use crate::ipc::ring::{Position, Ring};
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

#[derive(Clone, Serialize, Deserialize)]
pub(super) struct LogRing {
    memory: SharedMemory,
    namespace: u64,
}

/// The reader's side, in one thread.
pub(super) struct LogReader {
    delivery: Arc<Delivery>,
    /// The end of what was read. The word in shared memory, which a faulty process may overwrite, is for the
    /// writers.
    head: Position,
    /// The number of lost records that were passed on.
    lost: u32,
}

/// The number of records and of lost ones since the start. Both wrap around.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    records: u32,
    lost: u32,
}

impl LogRing {
    pub(super) fn create() -> Result<Self> {
        let ring = Self { memory: SharedMemory::create(MEMORY)?, namespace: namespace() };
        for word in [TAIL, HEAD] {
            Position::START.store_release(ring.memory.word64(word));
        }
        Ok(ring)
    }

    /// Writes a record; counts it as lost if there is no room. The reader sees it even if this process is
    /// killed right behind this call.
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
        let records = Position::load(self.memory.word64(TAIL)).frames;
        Counts { records, lost: self.memory.word32(LOST).load(Relaxed) }
    }

    pub(super) fn event(&self) -> EventCount<'_> {
        EventCount(self.memory.word32(EVENT))
    }
}

impl LogReader {
    pub(super) fn new(delivery: Arc<Delivery>) -> Self {
        Self { delivery, head: Position::START, lost: 0 }
    }

    /// Passes each record that was written before this call to `take`, and then the number of lost ones to
    /// `take_lost`. Returns whether there was anything.
    pub(super) fn read(&mut self, mut take: impl FnMut(&[u8]), take_lost: impl FnOnce(u32)) -> bool {
        self.delivery.begin_pass();
        let tail = Position::load(self.delivery.ring.memory.word64(TAIL));
        let has_records = tail != self.head;
        if !has_records {
            self.publish_head(); // in case a process has overwritten it: writers would see no room
        }
        while tail.frames_since(self.head) > 0 {
            if let Some(record) = self.next_before(tail) {
                take(&record);
            }
            self.delivery.advance(self.counts());
        }
        let lost = self.delivery.ring.counts().lost.wrapping_sub(self.lost);
        if lost > 0 {
            take_lost(lost);
            self.lost = self.lost.wrapping_add(lost);
            self.delivery.advance(self.counts());
        }
        self.delivery.end_pass();
        has_records || lost > 0
    }

    /// Takes the next record. `None` if another process has overwritten the ring: its records are lost.
    fn next_before(&mut self, tail: Position) -> Option<Vec<u8>> {
        let (memory, mut next) = (&self.delivery.ring.memory, self.head);
        let frame = RING
            .can_hold(self.head, tail)
            .then(|| RING.take_before(memory, &mut next, tail.bytes, |_, bytes| bytes.to_vec()))
            .flatten();
        self.head = if frame.is_some() { next } else { tail };
        self.publish_head(); // before the logger runs, which may be slow
        frame
    }

    fn publish_head(&self) {
        self.head.store_release(self.delivery.ring.memory.word64(HEAD));
    }

    /// What was passed on.
    fn counts(&self) -> Counts {
        Counts { records: self.head.frames, lost: self.lost }
    }

    /// Blocks until there is something to read, for `time` at most.
    pub(super) fn wait(&self, time: Duration) {
        let event = self.delivery.ring.event();
        let ticket = event.prepare_wait();
        if self.delivery.ring.counts() == self.counts() {
            event.wait(ticket, Some(time));
        }
    }
}
