//! The overflow of a trace buffer: lines for which it has no room at the moment, or whose lock another process has.
//!
//! A thread that holds a lock puts its lines here instead of waiting. A thread that holds none takes them to the
//! buffer or, in the first process, to the file.

use std::mem;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::buffer::Buffer;
use crate::sys::poll::Deadline;

/// The most bytes of lines here. More are lost, and counted.
const LIMIT: usize = 1024 * 1024;

#[derive(Default)]
pub(super) struct Overflow {
    lines: Mutex<Vec<u8>>,
    /// Changed under the lock. Without it, every item of a worker would take the lock.
    is_used: AtomicBool,
}

impl Overflow {
    /// Takes a line to the buffer if it has room and is free, after the lines that are here; else keeps it.
    pub(super) fn put(&self, buffer: &Buffer, line: &[u8]) {
        let mut lines = self.lock();
        if !lines.is_empty() {
            let moved = buffer.append(&lines, Deadline::now());
            lines.drain(..moved);
        }
        if lines.is_empty() && buffer.append(line, Deadline::now()) == line.len() {
            self.is_used.store(false, Relaxed);
        } else if lines.len() + line.len() <= LIMIT {
            lines.extend_from_slice(line);
            self.is_used.store(true, Relaxed);
        } else {
            buffer.count_lost(1);
        }
    }

    /// The lines that are here, if there are any. The caller takes them where they belong.
    pub(super) fn take(&self) -> Option<Vec<u8>> {
        if !self.is_used.load(Relaxed) {
            return None;
        }
        let mut lines = self.lock();
        self.is_used.store(false, Relaxed);
        Some(mem::take(&mut *lines))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
