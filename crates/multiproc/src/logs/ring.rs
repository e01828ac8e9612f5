//! The ring of log records: many processes write, one reads.

use std::num::NonZeroUsize;
use std::sync::Mutex as LocalMutex;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::lock;
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

/// The reader's side, in one process.
pub(super) struct LogReader {
    pub(super) ring: LogRing,
    /// The end of what was read. The word in shared memory, which a faulty process may overwrite, is for the
    /// writers.
    head: LocalMutex<Position>,
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

    fn event(&self) -> EventCount<'_> {
        EventCount(self.memory.word32(EVENT))
    }
}

impl LogReader {
    pub(super) fn new(ring: LogRing) -> Self {
        Self { ring, head: LocalMutex::new(Position::START) }
    }

    /// Passes each record that was written before this call to `take`, and then the number of lost ones to
    /// `take_lost`. Returns whether there was any record. One thread at a time does so.
    pub(super) fn read(&self, mut take: impl FnMut(&[u8]), take_lost: impl FnOnce(u32)) -> bool {
        let memory = &self.ring.memory;
        let mut head = lock(&self.head);
        let tail = Position::load(memory.word64(TAIL));
        let has_records = tail != *head;
        if !has_records {
            head.store_release(memory.word64(HEAD)); // in case a process has overwritten it: writers would see no room
        }
        while tail.frames_since(*head) > 0 {
            let mut next = *head;
            let frame = RING
                .can_hold(*head, tail)
                .then(|| RING.take_before(memory, &mut next, tail.bytes, |_, bytes| bytes.to_vec()));
            // Another process has overwritten the ring: its records are lost.
            *head = if matches!(frame, Some(Some(_))) { next } else { tail };
            head.store_release(memory.word64(HEAD)); // before the logger runs, which may be slow
            if let Some(Some(record)) = frame {
                take(&record);
            }
        }
        let lost = memory.word32(LOST).swap(0, Relaxed);
        if lost > 0 {
            take_lost(lost);
        }
        has_records
    }

    /// Blocks until there is a record, for `time` at most.
    pub(super) fn wait(&self, time: Duration) {
        let event = self.ring.event();
        let ticket = event.prepare_wait();
        let head = *lock(&self.head);
        if Position::load(self.ring.memory.word64(TAIL)) == head {
            event.wait(ticket, Some(time));
        }
    }
}
