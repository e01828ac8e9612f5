//! Buffers in shared memory, one for each process, so that the events of a process outlive it.
//!
//! A process appends its events to its own buffer, and the buffer to the file when it is full. A thread of
//! the first process does so from time to time for all of them; and so does the parent of a process that has
//! ended. The lock of a buffer is robust: a dead holder does not keep it.

use std::num::NonZeroUsize;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::file;
use crate::error::Result;
use crate::ipc::wire::{SharedFd, SharedMemory};
use crate::sys::atomic::{AcqRel, Acquire, AtomicU32, AtomicU64, Relaxed, Release};
use crate::sys::mutex::{Mutex, MutexGuard};
use crate::sys::poll::Deadline;
use crate::sys::thread_id::namespace;

/// The most processes that are traced at a time. Memory of buffers that are not used is not allocated.
const BUFFERS: usize = 1024;
/// The bytes of a buffer: its words, and the lines.
const SIZE: usize = 64 * 1024;
const WORDS: usize = 1024;
const LINES: usize = SIZE - WORDS;
/// The buffers follow the ids of the processes that have them.
const START: usize = 4 * BUFFERS;
const MEMORY: NonZeroUsize = NonZeroUsize::new(START + BUFFERS * SIZE).unwrap();

/// The offsets of a buffer's words: its lock, the length of its lines, and what the process is doing.
const LOCK: usize = 0;
const LENGTH: usize = 8;
const LABEL_LENGTH: usize = 12;
const KIND: usize = 16;
const BEGUN: usize = 24;
const INDEX: usize = 32;
const RUN: [usize; 4] = [40, 48, 56, 64];
const LABEL: usize = 128;

/// How long to wait for another thread that is stopped with the lock, or writes to the file.
const LOCK_TIME: Duration = Duration::from_millis(20);

/// The file and the buffers of a trace.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Buffers {
    file: SharedFd,
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
    pub(super) fn create(file: SharedFd) -> Result<Self> {
        Ok(Self { file, memory: SharedMemory::create(MEMORY)?, namespace: namespace() })
    }

    /// Takes a free buffer; `None` if there is none.
    pub(super) fn claim(&self, pid: u32) -> Option<Buffer> {
        let is_free = |&number: &usize| self.owner(number).compare_exchange(0, pid, AcqRel, Relaxed).is_ok();
        let number = (0..BUFFERS).find(is_free)?;
        Some(self.buffer(number))
    }

    /// Writes the lines of all processes to the file, except those that are writing at the moment.
    pub(super) fn flush_all(&self, deadline: Deadline) {
        for number in (0..BUFFERS).filter(|&number| self.owner(number).load(Relaxed) != 0) {
            let buffer = self.buffer(number);
            let guard = buffer.lock(deadline);
            if guard.is_some() {
                buffer.flush();
            }
        }
    }

    /// Writes the lines of a process that has ended, and frees its buffer. Returns what it was doing.
    pub(super) fn release(&self, pid: u32) -> Option<Unfinished> {
        let number = (0..BUFFERS).find(|&number| self.owner(number).load(Relaxed) == pid)?;
        let buffer = self.buffer(number);
        let guard = buffer.lock(Deadline::after(LOCK_TIME));
        buffer.flush();
        let unfinished = buffer.unfinished();
        buffer.word(BEGUN).store(0, Relaxed);
        buffer.set_run(Run::default());
        drop(guard);
        self.owner(number).store(0, Release);
        Some(unfinished)
    }

    fn owner(&self, number: usize) -> &AtomicU32 {
        self.memory.word32(4 * number)
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

    /// Appends a line.
    pub(super) fn put(&self, line: &str) {
        let mutex = self.mutex();
        let Some(_guard) = mutex.try_lock().or_else(|| self.lock(Deadline::after(LOCK_TIME))) else { return };
        if self.length() + line.len() > LINES {
            self.flush();
        }
        let length = self.length();
        if let Some(next) = Some(length + line.len()).filter(|&next| next <= LINES) {
            self.all.memory.write(self.start + WORDS + length, line.as_bytes());
            self.word32(LENGTH).store(u32::try_from(next).unwrap_or(0), Release);
        }
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

    /// Writes the lines to the file, and empties the buffer: before that, so that the lines of a process that
    /// dies between the two are not there twice.
    fn flush(&self) {
        let mut lines = vec![0; self.length()];
        self.all.memory.load_bytes(self.start + WORDS, &mut lines);
        self.word32(LENGTH).store(0, Relaxed);
        let _ = file::append(&self.all.file, &lines); // a full disk is no reason to stop the program
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
