//! Buffers in shared memory, one for each process, so that the events of a process outlive it.
//!
//! A process appends its events to its own buffer. A thread of the first process takes them to the file from
//! time to time, and when a buffer is half full. The lock of a buffer is robust: a dead holder does not keep
//! it.

use std::num::NonZeroUsize;
use std::time::Duration;

use super::buffer::{Buffer, EVENTS, SIZE, Shared, Unfinished};
use super::event::Event;
use crate::error::Result;
use crate::impl_serde::impl_serde;
use crate::ipc::wire::SharedMemory;
use crate::sys::atomic::{AcqRel, Acquire, AtomicU32, AtomicU64, Relaxed, Release};
use crate::sys::clock;
use crate::sys::poll::Deadline;
use crate::sys::thread_id::{ThreadId, namespace};

/// The most processes that are traced at a time. Memory of buffers that are not used is not allocated.
const BUFFERS: usize = 512;

/// Behind the events and in front of the buffers: the process that each is of, and its parent (0 if that is not
/// known), each as a [`ThreadId`]; and whether the process has ended.
const OWNERS: usize = EVENTS;
const PARENTS: usize = OWNERS + 8 * BUFFERS;
const ENDED: usize = PARENTS + 8 * BUFFERS;
const START: usize = 3 * 4096;
const MEMORY: NonZeroUsize = NonZeroUsize::new(START + BUFFERS * SIZE).unwrap();

/// The buffers of a trace.
#[derive(Clone)]
pub(super) struct Buffers(Shared);

impl_serde!(newtype Buffers);

impl Buffers {
    pub(super) fn create() -> Result<Self> {
        let shared = Shared { memory: SharedMemory::create(MEMORY)?, namespace: namespace() };
        shared.begin();
        Ok(Self(shared))
    }

    /// Takes a free buffer for this process; `None` if there is none.
    pub(super) fn claim(&self, process: ThreadId, parent: Option<ThreadId>) -> Option<Buffer> {
        let owner = process.bits();
        let is_free =
            |&number: &usize| self.owner(number).compare_exchange(0, owner, AcqRel, Relaxed).is_ok();
        let number = (0..BUFFERS).find(is_free)?;
        // Those of another namespace mean nothing to the first process.
        let parent = parent.filter(|_| self.0.namespace == namespace()).map_or(0, ThreadId::bits);
        self.parent(number).store(parent, Release);
        Some(self.buffer(number))
    }

    /// Takes the lines of all processes, and frees the buffers of those that have ended. Leaves out a process
    /// that holds its lock beyond the deadline.
    pub(super) fn take_all(&self, deadline: Deadline) -> Vec<u8> {
        let mut lines = Vec::new();
        for number in (0..BUFFERS).filter(|&number| self.owner(number).load(Relaxed) != 0) {
            let buffer = self.buffer(number);
            let Some(guard) = buffer.lock(deadline) else { continue };
            let has_ended = self.ended(number).load(Acquire) != 0;
            let lost = buffer.take(&mut lines);
            drop(guard);
            if lost > 0 {
                let pid = self.process(number).number();
                let event = Event::instant("trace", "lost", pid, clock::nanos()).count("count", lost);
                lines.extend_from_slice(event.end().as_bytes());
            }
            if has_ended {
                buffer.clear();
                self.ended(number).store(0, Relaxed);
                self.parent(number).store(0, Relaxed);
                self.owner(number).store(0, Release);
            }
        }
        self.0.room().notify_all();
        lines
    }

    /// Blocks until a buffer is half full, for `time` at most.
    pub(super) fn wait(&self, time: Duration) {
        let ticket = self.0.half_full().prepare_wait();
        self.0.half_full().wait(ticket, Some(time));
    }

    /// Marks the buffer of a process that has ended as free once its lines are taken. Returns what the process
    /// was doing.
    pub(super) fn release(&self, pid: u32) -> Option<Unfinished> {
        self.unreleased().find(|&number| self.process(number).number() == pid).map(|at| self.release_at(at))
    }

    /// Releases the buffers of processes that have ended after their parents, which release the others.
    pub(super) fn release_orphans(&self) -> Vec<(u32, Unfinished)> {
        let is_orphan = |&number: &usize| {
            let parent = self.parent(number).load(Acquire);
            parent != 0 && ThreadId::from_bits(parent).has_ended() && self.process(number).has_ended()
        };
        let orphans = self.unreleased().filter(is_orphan);
        orphans.map(|number| (self.process(number).number(), self.release_at(number))).collect()
    }

    fn unreleased(&self) -> impl Iterator<Item = usize> {
        (0..BUFFERS)
            .filter(|&number| self.owner(number).load(Relaxed) != 0 && self.ended(number).load(Relaxed) == 0)
    }

    fn release_at(&self, number: usize) -> Unfinished {
        let unfinished = self.buffer(number).unfinished();
        self.ended(number).store(1, Release);
        unfinished
    }

    fn process(&self, number: usize) -> ThreadId {
        ThreadId::from_bits(self.owner(number).load(Relaxed))
    }

    fn owner(&self, number: usize) -> &AtomicU64 {
        self.0.memory.word64(OWNERS + 8 * number)
    }

    fn parent(&self, number: usize) -> &AtomicU64 {
        self.0.memory.word64(PARENTS + 8 * number)
    }

    fn ended(&self, number: usize) -> &AtomicU32 {
        self.0.memory.word32(ENDED + 4 * number)
    }

    fn buffer(&self, number: usize) -> Buffer {
        Buffer::at(self.0.clone(), START + number * SIZE)
    }
}

#[cfg(test)]
impl Buffers {
    pub(super) fn buffer_of(&self, pid: u32) -> Option<Buffer> {
        let number = self.unreleased().find(|&number| self.process(number).number() == pid)?;
        Some(self.buffer(number))
    }
}
