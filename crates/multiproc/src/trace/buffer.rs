//! A trace buffer: one process's events in shared memory.

use std::time::Duration;

use crate::impl_serde::impl_serde;
use crate::ipc::event_count::EventCount;
use crate::ipc::ring::just_before_overflow;
use crate::ipc::wire::SharedMemory;
use crate::sys::atomic::{Acquire, AtomicU32, AtomicU64, Relaxed, Release};
use crate::sys::mutex::{Mutex, MutexGuard};
use crate::sys::poll::Deadline;

/// In front of all buffers: a buffer is half full, and there is room again.
const HALF_FULL: usize = 0;
const ROOM: usize = 4;
pub(super) const EVENTS: usize = 8;

/// The bytes of a buffer: its words, and the lines.
pub(super) const SIZE: usize = 128 * 1024;
const WORDS: usize = 1024;
const LINES: usize = SIZE - WORDS;

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
/// How many lines were lost since the last ones were taken.
const LOST: usize = 72;
const LABEL: usize = 128;

/// How long to wait for room, and for another thread that is stopped with the lock. Then events are lost. On a
/// busy machine the first process may not run for some time.
const STUCK_LIMIT: Duration = Duration::from_secs(2);

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

/// The memory of all buffers, and the PID namespace of the process that has made it.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) memory: SharedMemory,
    pub(super) namespace: u64,
}

impl_serde!(struct Shared { memory, namespace });

impl Shared {
    /// Sets the counters of new memory.
    pub(super) fn begin(&self) {
        for event in [HALF_FULL, ROOM] {
            self.memory.word32(event).store(just_before_overflow(16), Relaxed);
        }
    }

    pub(super) fn half_full(&self) -> EventCount<'_> {
        EventCount(self.memory.word32(HALF_FULL))
    }

    pub(super) fn room(&self) -> EventCount<'_> {
        EventCount(self.memory.word32(ROOM))
    }
}

/// The buffer of one process.
pub(super) struct Buffer {
    all: Shared,
    start: usize,
}

impl Buffer {
    pub(super) fn at(all: Shared, start: usize) -> Self {
        Self { all, start }
    }

    /// Appends lines. Waits if there is no room for them, which there is soon. Not for a thread that holds a
    /// lock of the program or of this library.
    pub(super) fn put(&self, lines: &[u8]) {
        let is_stuck = || self.word32(IS_STUCK).load(Relaxed) != 0;
        let deadline = if is_stuck() { Deadline::now() } else { Deadline::after(STUCK_LIMIT) };
        let mut rest = &lines[self.append(lines, deadline)..];
        while !rest.is_empty() && !is_stuck() {
            let ticket = self.all.room().prepare_wait();
            self.all.half_full().notify_all();
            let taken = self.append(rest, deadline);
            rest = &rest[taken..];
            if deadline.is_over() {
                self.word32(IS_STUCK).store(1, Relaxed);
            } else if taken == 0 {
                self.all.room().wait(ticket, deadline.left());
            }
        }
        if !rest.is_empty() {
            self.count_lost(rest.split(|&byte| byte == b'\n').count() as u64 - 1);
        }
    }

    /// Appends the first of these lines, as many as there is room for; returns their length. Waits until the
    /// deadline for another thread that holds the buffer's lock.
    pub(super) fn append(&self, lines: &[u8], deadline: Deadline) -> usize {
        let Some(guard) = self.lock(deadline) else { return 0 };
        let length = self.length();
        let fitting = &lines[..lines.len().min(LINES - length)];
        let taken = fitting.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
        let next = length + taken;
        self.all.memory.write(self.start + WORDS + length, &lines[..taken]);
        self.word32(LENGTH).store(u32::try_from(next).unwrap_or(0), Release);
        drop(guard);
        if length < LINES / 2 && next >= LINES / 2 {
            self.word32(IS_STUCK).store(0, Relaxed);
            self.all.half_full().notify_all();
        }
        taken
    }

    pub(super) fn count_lost(&self, count: u64) {
        self.word(LOST).fetch_add(count, Relaxed);
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
        // The count is last, and first where there is none: a process that dies in between has no half of a run.
        let [begin, end, index, count] = RUN;
        if run.count == 0 {
            self.word(count).store(0, Release);
        }
        for (word, value) in [(begin, run.begin), (end, run.end), (index, run.index), (count, run.count)] {
            self.word(word).store(value, Release);
        }
    }

    pub(super) fn unfinished(&self) -> Unfinished {
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

    /// Returns how many lines there was no room for.
    pub(super) fn take(&self, lines: &mut Vec<u8>) -> u64 {
        let start = lines.len();
        lines.resize(start + self.length(), 0);
        self.all.memory.load_bytes(self.start + WORDS, &mut lines[start..]);
        self.word32(LENGTH).store(0, Relaxed);
        self.word(LOST).swap(0, Relaxed)
    }

    /// As a new process needs it.
    pub(super) fn clear(&self) {
        (LENGTH..LABEL).step_by(8).for_each(|offset| self.word(offset).store(0, Relaxed));
    }

    /// The length of the lines, whatever another process has written there.
    fn length(&self) -> usize {
        (self.word32(LENGTH).load(Acquire) as usize).min(LINES)
    }

    pub(super) fn lock(&self, deadline: Deadline) -> Option<MutexGuard<'_>> {
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
    pub(super) fn hold(&self) -> MutexGuard<'_> {
        self.lock(Deadline::Never).unwrap()
    }

    /// Overwrites all words but the lock.
    pub(super) fn overwrite(&self, value: u64) {
        (LENGTH..LABEL).step_by(8).for_each(|offset| self.word(offset).store(value, Relaxed));
    }
}
