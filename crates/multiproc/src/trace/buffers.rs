//! Buffers in shared memory, one for each process, so that the events of a process outlive it.
//!
//! A process appends its events to its own buffer. A thread of the first process takes them to the file from
//! time to time, and when a buffer is half full. The lock of a buffer is robust: a dead holder does not keep
//! it.

use std::num::NonZeroUsize;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::ipc::event_count::EventCount;
use crate::ipc::wire::SharedMemory;
use crate::sys::atomic::{AcqRel, Acquire, AtomicU32, AtomicU64, Relaxed, Release};
use crate::sys::mutex::{Mutex, MutexGuard};
use crate::sys::poll::Deadline;
use crate::sys::thread_id::namespace;

/// The most processes that are traced at a time. Memory of buffers that are not used is not allocated.
const BUFFERS: usize = 512;
/// The bytes of a buffer: its words, and the lines.
const SIZE: usize = 128 * 1024;
const WORDS: usize = 1024;
const LINES: usize = SIZE - WORDS;

/// In front of the buffers: the process that each is of, whether that has ended, and two events.
const OWNERS: usize = 0;
const ENDED: usize = 4 * BUFFERS;
const HALF_FULL: usize = 8 * BUFFERS;
const ROOM: usize = HALF_FULL + 4;
const START: usize = 2 * 4096;
const MEMORY: NonZeroUsize = NonZeroUsize::new(START + BUFFERS * SIZE).unwrap();

/// The offsets of a buffer's words: its lock, the length of its lines, and what the process is doing.
const LOCK: usize = 0;
const LENGTH: usize = 8;
const LABEL_LENGTH: usize = 12;
const KIND: usize = 16;
/// The process has waited for room in vain: the first process is stopped. It does not wait until there is
/// some again.
const IS_STUCK: usize = 20;
const BEGUN: usize = 24;
const INDEX: usize = 32;
const RUN: [usize; 4] = [40, 48, 56, 64];
const LABEL: usize = 128;

/// How long to wait for room, and for another thread that is stopped with the lock. Then events are lost. On a
/// busy machine the first process may not run for some time.
const PATIENCE: Duration = Duration::from_secs(2);

/// The buffers of a trace.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Buffers {
    memory: SharedMemory,
    namespace: u64,
}

/// A run of short items that is not in the lines yet: when it began and ended, the index of its first item,
/// and how many there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) begin: u64,
    pub(super) end: u64,
    pub(super) index: u64,
    pub(super) count: u64,
}

/// What a process was doing when it died.
pub(super) struct Unfinished {
    /// A number from [`Buffer::set_label`].
    pub(super) kind: u32,
    pub(super) label: String,
    /// Since when; 0 if nothing.
    pub(super) begun: u64,
    pub(super) index: u64,
    pub(super) run: Run,
}

impl Buffers {
    pub(super) fn create() -> Result<Self> {
        Ok(Self { memory: SharedMemory::create(MEMORY)?, namespace: namespace() })
    }

    /// Takes a free buffer; `None` if there is none.
    pub(super) fn claim(&self, pid: u32) -> Option<Buffer> {
        let is_free = |&number: &usize| self.owner(number).compare_exchange(0, pid, AcqRel, Relaxed).is_ok();
        (0..BUFFERS).find(is_free).map(|number| self.buffer(number))
    }

    /// Takes the lines of all processes, and frees the buffers of those that have ended. Leaves out a process
    /// that holds its lock beyond the deadline.
    pub(super) fn take_all(&self, deadline: Deadline) -> Vec<u8> {
        let mut lines = Vec::new();
        for number in (0..BUFFERS).filter(|&number| self.owner(number).load(Relaxed) != 0) {
            let buffer = self.buffer(number);
            let Some(guard) = buffer.lock(deadline) else { continue };
            let has_ended = self.ended(number).load(Acquire) != 0;
            buffer.take(&mut lines);
            drop(guard);
            if has_ended {
                buffer.clear();
                self.ended(number).store(0, Relaxed);
                self.owner(number).store(0, Release);
            }
        }
        self.room().notify_all();
        lines
    }

    /// Blocks until a buffer is half full, for `time` at most.
    pub(super) fn wait(&self, time: Duration) {
        let ticket = self.half_full().prepare_wait();
        self.half_full().wait(ticket, Some(time));
    }

    /// Has the buffer of a process that has ended be freed, once its lines are taken. Returns what the process
    /// was doing.
    pub(super) fn release(&self, pid: u32) -> Option<Unfinished> {
        let is_of = |&number: &usize| {
            self.owner(number).load(Relaxed) == pid && self.ended(number).load(Relaxed) == 0
        };
        let number = (0..BUFFERS).find(is_of)?;
        let unfinished = self.buffer(number).unfinished();
        self.ended(number).store(1, Release);
        Some(unfinished)
    }

    fn owner(&self, number: usize) -> &AtomicU32 {
        self.memory.word32(OWNERS + 4 * number)
    }

    fn ended(&self, number: usize) -> &AtomicU32 {
        self.memory.word32(ENDED + 4 * number)
    }

    fn half_full(&self) -> EventCount<'_> {
        EventCount(self.memory.word32(HALF_FULL))
    }

    fn room(&self) -> EventCount<'_> {
        EventCount(self.memory.word32(ROOM))
    }

    fn buffer(&self, number: usize) -> Buffer {
        Buffer { all: self.clone(), start: START + number * SIZE }
    }
}

/// The buffer of one process.
pub(super) struct Buffer {
    all: Buffers,
    start: usize,
}

impl Buffer {
    pub(super) fn all(&self) -> &Buffers {
        &self.all
    }

    /// Appends a line. Waits if there is no room for it, which there is soon.
    pub(super) fn put(&self, line: &str) {
        if self.try_put(line) {
            return;
        }
        let deadline = Deadline::after(PATIENCE);
        while self.word32(IS_STUCK).load(Relaxed) == 0 {
            let ticket = self.all.room().prepare_wait();
            self.all.half_full().notify_all();
            if self.try_put(line) {
                return;
            }
            if deadline.is_over() {
                self.word32(IS_STUCK).store(1, Relaxed);
            }
            self.all.room().wait(ticket, deadline.left());
        }
    }

    fn try_put(&self, line: &str) -> bool {
        let is_stuck = self.word32(IS_STUCK).load(Relaxed) != 0;
        let deadline = if is_stuck { Deadline::now() } else { Deadline::after(PATIENCE) };
        let Some(guard) = self.lock(deadline) else { return false };
        let length = self.length();
        let next = length + line.len();
        if next > LINES {
            return false;
        }
        self.all.memory.write(self.start + WORDS + length, line.as_bytes());
        self.word32(LENGTH).store(u32::try_from(next).unwrap_or(0), Release);
        drop(guard);
        if length < LINES / 2 && next >= LINES / 2 {
            self.word32(IS_STUCK).store(0, Relaxed);
            self.all.half_full().notify_all();
        }
        true
    }

    /// Says what the process begins to do next, for its parent, should it die.
    pub(super) fn set_label(&self, kind: u32, label: &str) {
        let label = super::event::cut(label);
        self.all.memory.write(self.start + LABEL, label.as_bytes());
        self.word32(LABEL_LENGTH).store(u32::try_from(label.len()).unwrap_or(0), Relaxed);
        self.word32(KIND).store(kind, Relaxed);
    }

    pub(super) fn begin(&self, now: u64, index: u64) {
        self.word(INDEX).store(index, Relaxed);
        self.word(BEGUN).store(now, Release);
    }

    pub(super) fn end(&self) {
        self.word(BEGUN).store(0, Relaxed);
    }

    pub(super) fn set_run(&self, run: Run) {
        for (word, value) in RUN.into_iter().zip([run.begin, run.end, run.index, run.count]) {
            self.word(word).store(value, Relaxed);
        }
    }

    fn unfinished(&self) -> Unfinished {
        let word = |offset| self.word(offset).load(Acquire);
        let length = self.word32(LABEL_LENGTH).load(Relaxed) as usize;
        let mut label = vec![0; length.min(WORDS - LABEL)];
        self.all.memory.load_bytes(self.start + LABEL, &mut label);
        let [begin, end, index, count] = RUN.map(word);
        Unfinished {
            kind: self.word32(KIND).load(Relaxed),
            label: String::from_utf8_lossy(&label).into_owned(),
            begun: word(BEGUN),
            index: word(INDEX),
            run: Run { begin, end, index, count },
        }
    }

    fn take(&self, lines: &mut Vec<u8>) {
        let start = lines.len();
        lines.resize(start + self.length(), 0);
        self.all.memory.load_bytes(self.start + WORDS, &mut lines[start..]);
        self.word32(LENGTH).store(0, Relaxed);
    }

    /// As a new process needs it.
    fn clear(&self) {
        (LENGTH..LABEL).step_by(8).for_each(|offset| self.word(offset).store(0, Relaxed));
    }

    /// The length of the lines, whatever another process has written there.
    fn length(&self) -> usize {
        (self.word32(LENGTH).load(Acquire) as usize).min(LINES)
    }

    fn lock(&self, deadline: Deadline) -> Option<MutexGuard<'_>> {
        let mutex = self.mutex();
        mutex.try_lock().or_else(|| mutex.lock(deadline).ok().flatten())
    }

    fn mutex(&self) -> Mutex<'_> {
        Mutex::at(&self.all.memory, self.start + LOCK, self.all.namespace)
    }

    fn word(&self, offset: usize) -> &AtomicU64 {
        self.all.memory.word64(self.start + offset)
    }

    fn word32(&self, offset: usize) -> &AtomicU32 {
        self.all.memory.word32(self.start + offset)
    }
}

#[cfg(test)]
impl Buffer {
    /// Overwrites all words but the lock.
    pub(super) fn overwrite(&self, value: u64) {
        (LENGTH..LABEL).step_by(8).for_each(|offset| self.word(offset).store(value, Relaxed));
    }
}
