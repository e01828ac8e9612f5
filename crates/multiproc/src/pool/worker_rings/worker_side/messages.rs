//! What the pool sends the worker beside its rings: out-of-line items, and the segments that items name.

use std::os::fd::OwnedFd;

use nix::errno::Errno;

use super::WorkerSide;
use crate::error::{Error, Result};
use crate::ipc::packet::{self, Content, OnShortage};
use crate::ipc::wire::{SegmentId, Segments, SharedFd};
use crate::pool::worker_rings::{
    MAX_LINK_PACKETS, MEMORY, MemoryName, MessageHeader, PREFIX, ReceivedMessage, SEGMENTS_LOST,
};
use crate::sys::atomic::Relaxed;
use crate::sys::failpoint::{self, Failpoint};

impl WorkerSide {
    /// Receives the out-of-line item at the cursor: its bytes and its descriptors.
    pub(crate) fn receive(&mut self) -> Result<(Content, Vec<OwnedFd>)> {
        let number = self.read(|bytes| {
            let number = bytes.first_chunk().copied().map(u32::from_ne_bytes);
            number.ok_or_else(|| Error::decode("an item", "its message has no number"))
        })?;
        let ReceivedMessage { packet, mut descriptors, .. } = self.message(number)?;
        let content = Content::of(packet, PREFIX, &mut descriptors)?;
        if !descriptors.is_empty() {
            self.wakeup_page.notify(); // the pool must close them, so that they do not keep a queue open
        }
        Ok((content, descriptors))
    }

    /// Takes the segments that a header names, for the items after it. All were sent before it.
    pub(crate) fn take_segments(&mut self, ids: &[SegmentId]) -> Result<()> {
        self.named = Segments::NONE; // closes those of the header before
        if ids.is_empty() {
            return Ok(());
        }
        self.named = ids.iter().map(|&id| self.memory(id)).collect::<Result<_>>()?;
        Ok(())
    }

    /// Those that the next items name.
    #[inline]
    pub(crate) fn segments(&self) -> Segments {
        self.named.clone()
    }

    /// The message of an item. Discards those before it, which no frame refers to any more.
    fn message(&mut self, number: u32) -> Result<ReceivedMessage> {
        for _ in 0..MAX_LINK_PACKETS {
            match self.next_message()? {
                Next::Item(message) if message.header.number == number => return Ok(message),
                Next::Lost(lost, error) if lost == number => return Err(error),
                _ => {}
            }
        }
        Err(Error::decode("an item", "other messages are in its place"))
    }

    fn memory(&mut self, id: SegmentId) -> Result<SharedFd> {
        for _ in 0..MAX_LINK_PACKETS {
            if let Some(Some(memory)) = self.segments.get(id) {
                return Ok(memory.clone());
            }
            // One that was lost may have been sent again. Behind that is the item's own message.
            if self.segments.get(id).is_some() && !self.is_memory_next() {
                return Err(Error::os("receive shared memory", Errno::EMFILE));
            }
            self.next_message()?;
        }
        Err(Error::decode("shared memory", "other messages are in its place"))
    }

    fn is_memory_next(&self) -> bool {
        let packet = self.link.next_packet_start();
        packet.is_some_and(|packet| MessageHeader::of(packet::prefix(&packet)).kind == MEMORY)
    }

    /// Receives the next message.
    fn next_message(&mut self) -> Result<Next> {
        let message = match ReceivedMessage::next(&self.link, OnShortage::Leave) {
            Ok(message) => message,
            Err(error) if error.is_shortage_of_descriptors() => return self.lose_message(error),
            Err(error) => return Err(error),
        };
        if message.header.kind != MEMORY {
            return Ok(Next::Item(message));
        }
        let (name, memory) = (MemoryName::in_packet(&message.packet), message.descriptors.into_iter().next());
        let (Some(name), Some(memory)) = (name, memory) else {
            return Err(Error::decode("shared memory", "its name or its descriptor is missing"));
        };
        let memory = SharedFd::of_named_memory(memory, name.size);
        self.segments.add(name, Some(memory));
        failpoint::hit(Failpoint::MemoryReceived);
        Ok(Next::Memory)
    }

    /// Discards the next message, for whose descriptors there is no room. The pool sends a memory again when it learns
    /// that it was lost.
    #[cold]
    fn lose_message(&mut self, error: Error) -> Result<Next> {
        let Some(packet) = self.link.next_packet_start() else { return Err(error) };
        self.link.discard();
        let header = MessageHeader::of(packet::prefix(&packet));
        if header.kind != MEMORY {
            return Ok(Next::Lost(header.number, error));
        }
        let name = MemoryName::in_packet(&packet).ok_or(error)?;
        self.segments.add(name, None);
        self.rings.0.word32(SEGMENTS_LOST).fetch_add(1, Relaxed);
        Ok(Next::Memory)
    }
}

enum Next {
    /// A memory has arrived, or is known to be lost.
    Memory,
    Item(ReceivedMessage),
    /// An item with this number is lost.
    Lost(u32, Error),
}
