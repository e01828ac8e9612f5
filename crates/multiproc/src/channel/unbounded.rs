//! An unbounded channel: its ring is 2 GiB of address space, and has memory only for the messages in it.
//!
//! Senders have the kernel allocate memory ahead of what they write, so that a lack of memory is an error and
//! no signal. Receivers give back what they have read. Two more positions, counted as those of the ring, say
//! how far that is: memory is *allocated* up to one, and *released* up to the other. Senders may write where
//! memory was released, not where messages were merely taken: so a receiver that is killed between the two
//! leaves the release to the next one.

use super::{AREAS, ChannelEnd, Layout};
use crate::error::Result;
use crate::ipc::ring::Position;
use crate::ipc::wire::SharedMemory;
use crate::sys::atomic::{Acquire, AtomicU32, Relaxed, Release};
use crate::sys::failpoint::{self, Failpoint};
use crate::sys::memfd;

/// The size of the ring, the largest possible, and in a model a few messages.
const SIZE: u32 = if cfg!(loom) { 128 } else { 1 << 31 };
/// Memory is allocated and released in steps of this many bytes.
const STEP: u32 = if cfg!(loom) { 32 } else { 4 * 1024 * 1024 };

/// Written by receivers, under their lock.
const RELEASED: usize = AREAS + 64;
/// Written by senders, under theirs.
const ALLOCATED: usize = AREAS + 72;

impl Layout {
    /// An unbounded channel from the byte `start` on.
    pub(crate) const fn sparse(start: usize) -> Self {
        Self::new(start, SIZE, u32::MAX)
    }

    pub(crate) fn is_sparse(self) -> bool {
        self.size == SIZE
    }
}

/// Initialises the two positions.
pub(super) fn create(layout: Layout, memory: &SharedMemory) {
    if layout.is_sparse() {
        for position in [RELEASED, ALLOCATED] {
            memory.word32(layout.start + position).store(step(Position::START.bytes), Relaxed);
        }
    }
}

impl ChannelEnd {
    /// Up to where senders may write, where receivers are at `head`.
    #[inline]
    pub(super) fn taken(&self, head: Position) -> u32 {
        if self.layout.is_sparse() { self.word(RELEASED).load(Acquire) } else { head.bytes }
    }

    /// Whether there is memory for a message of `length` bytes after `tail`.
    #[inline]
    pub(super) fn is_allocated(&self, tail: Position, length: usize) -> bool {
        !self.layout.is_sparse() || self.ahead(tail) >= self.ring.reach(tail.bytes, length)
    }

    /// Allocates memory for a message of `length` bytes after `tail`, if the ring has room for it.
    pub(super) fn allocate(&self, tail: Position, length: usize) -> Result<()> {
        let ahead = self.ahead(tail); // once: another process may overwrite it meanwhile
        let reach = self.ring.reach(tail.bytes, length);
        let free = SIZE.saturating_sub(tail.bytes.wrapping_sub(self.word(RELEASED).load(Acquire)));
        if !self.layout.is_sparse() || ahead >= reach || reach > free {
            return Ok(());
        }
        let allocated = tail.bytes.wrapping_add(ahead);
        let end = tail.bytes.wrapping_add(reach.saturating_add(STEP).min(free));
        for (offset, length) in self.ring.ranges(allocated, end) {
            memfd::allocate_range(self.memory(), offset, length)?;
        }
        failpoint::hit(Failpoint::MemoryAllocated);
        self.word(ALLOCATED).store(end, Relaxed);
        Ok(())
    }

    /// Gives back the memory of messages that end before `head`, which is published.
    #[inline]
    pub(super) fn release(&self, head: Position) {
        if self.layout.is_sparse() && self.word(RELEASED).load(Relaxed) != step(head.bytes) {
            self.release_slow(step(head.bytes));
        }
    }

    #[cold]
    fn release_slow(&self, end: u32) {
        let released = self.word(RELEASED);
        for (offset, length) in self.ring.ranges(released.load(Relaxed), end) {
            memfd::release(self.memory(), offset, length);
        }
        failpoint::hit(Failpoint::MemoryReleased);
        released.store(end, Release);
    }

    /// The allocated bytes after `tail`.
    fn ahead(&self, tail: Position) -> u32 {
        let ahead = self.word(ALLOCATED).load(Relaxed).wrapping_sub(tail.bytes);
        if ahead <= SIZE { ahead } else { 0 }
    }

    fn word(&self, offset: usize) -> &AtomicU32 {
        self.memory().word32(self.layout.start + offset)
    }
}

fn step(position: u32) -> u32 {
    position & !(STEP - 1)
}

#[cfg(test)]
#[cfg(not(loom))] // a model has no files
mod tests {
    use std::num::NonZeroUsize;

    use nix::sys::stat::fstat;

    use super::*;
    use crate::channel::receiver::BATCH_BYTES;
    use crate::channel::{Message, PLAIN, ReceiveOutcome, ReceiverCore, SenderCore, sockets};
    use crate::ipc::frame::encode_header;
    use crate::ipc::ring::Memory as _;
    use crate::sys::poll::Deadline;
    use crate::sys::socket::Sent;

    const LENGTH: usize = 1 << 20;

    fn channel() -> (SenderCore, ReceiverCore) {
        let layout = Layout::sparse(0);
        let memory = SharedMemory::create(NonZeroUsize::new(layout.end()).unwrap()).unwrap();
        let (from, to) = sockets().unwrap();
        layout.create(&memory, from, to).unwrap()
    }

    fn send(sender: &SenderCore, number: u8) {
        let bytes = vec![number; LENGTH];
        let sent = sender.send([Message::without_fds(&bytes)], Deadline::now(), &mut 0).unwrap();
        assert_eq!(sent, Sent::Done);
    }

    fn receive(receiver: &ReceiverCore, number: u8) {
        let received = receiver.receive(1, Deadline::now(), |bytes| assert!(bytes == vec![number; LENGTH]));
        assert!(matches!(received.unwrap(), ReceiveOutcome::PassedToClosure));
    }

    /// Whether the file has the memory of what is in the ring and ahead of it, and no more than the head of the
    /// channel besides.
    fn has_no_other_memory(end: &ChannelEnd) -> bool {
        let blocks = u32::try_from(fstat(end.memory()).unwrap().st_blocks).unwrap();
        let [allocated, released] = [ALLOCATED, RELEASED].map(|position| end.word(position).load(Relaxed));
        blocks * 512 <= allocated.wrapping_sub(released) + 64 * 1024
    }

    #[test]
    fn a_large_message_has_no_memory_beyond_its_own() {
        let (sender, receiver) = channel();
        let bytes = vec![7; 64 << 20];
        let sent = sender.send([Message::without_fds(&bytes)], Deadline::now(), &mut 0).unwrap();
        assert_eq!(sent, Sent::Done);
        let memory = || fstat(receiver.end().memory()).unwrap().st_blocks * 512;
        assert!(memory() <= (64 << 20) + i64::from(2 * STEP), "{}", memory());
        receiver.receive(1, Deadline::now(), |received| assert!(received == bytes)).unwrap();
        assert!(memory() <= i64::from(3 * STEP), "{}", memory());
    }

    /// Another process may have overwritten the length, and the memory of 1 GiB would have to be found to read it.
    #[test]
    fn a_message_that_was_not_written_is_an_error_and_takes_no_memory() {
        let (sender, receiver) = channel();
        let end = receiver.end();
        send(&sender, 0); // beyond the end of the ring
        receive(&receiver, 0);
        let (tail, length) = (end.endpoint.position(), 1 << 30);
        let header = end.ring.ranges(tail.bytes, tail.bytes + 8)[0].0;
        end.memory().write(header, &encode_header(length, PLAIN));
        sender.end().endpoint.publish(tail.after(length));
        let received = receiver.receive(1, Deadline::now(), |_| panic!("it was not sent"));
        assert!(received.unwrap_err().is_codec());
        assert!(has_no_other_memory(end));
        send(&sender, 1);
        receive(&receiver, 1);
    }

    /// What was not written reads as empty messages, of which another process can announce millions.
    #[test]
    fn a_batch_of_messages_that_were_not_written_is_bounded() {
        let (sender, receiver) = channel();
        let end = receiver.end();
        let mut tail = end.endpoint.position();
        (tail.frames, tail.bytes) = (tail.frames.wrapping_add(1 << 27), tail.bytes.wrapping_add(1 << 30));
        sender.end().endpoint.publish(tail);
        let mut count = 0;
        receiver.receive(u32::MAX, Deadline::now(), |_| count += 1).unwrap();
        assert_eq!(count, BATCH_BYTES / 8);
        let blocks = fstat(end.memory()).unwrap().st_blocks;
        assert!(blocks * 512 <= i64::from(4 * BATCH_BYTES), "{blocks}");
    }

    #[test]
    fn the_next_receiver_gives_back_what_a_killed_one_has_taken() {
        let (sender, receiver) = channel();
        let end = receiver.end();
        (0..16).for_each(|number| send(&sender, number));
        let before = end.word(RELEASED).load(Relaxed);
        (0..13).for_each(|number| receive(&receiver, number));
        assert!(has_no_other_memory(end));
        // As if it had been killed before it gave any back, and so before it said so.
        let after = end.word(RELEASED).swap(before, Relaxed);
        assert!(after.wrapping_sub(before) >= 3 * STEP);
        for (offset, length) in end.ring.ranges(before, after) {
            memfd::allocate_range(end.memory(), offset, length).unwrap();
        }
        receive(&receiver, 13);
        assert_eq!(end.word(RELEASED).load(Relaxed), after);
        assert!(has_no_other_memory(end));
        receive(&receiver, 14);
    }
}
