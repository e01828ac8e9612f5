//! What the pool sends the worker beside its rings: out-of-line items, and the memories that items name.

use std::os::fd::OwnedFd;

use super::WorkerSide;
use crate::error::{Error, Result};
use crate::ipc::packet::{self, Content, OnShortage};
use crate::ipc::wire::{Memories, MemoryId, SharedFd};
use crate::pool::worker_rings::{
    MAX_LINK_PACKETS, MEMORY, MemoryName, MessageHeader, PREFIX, ReceivedMessage,
};
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

    /// Takes the memories that a header names, for the items after it. All were sent before it.
    pub(crate) fn take_memories(&mut self, ids: &[MemoryId]) -> Result<()> {
        self.named = Memories::NONE; // closes those of the header before
        self.named = ids.iter().map(|&id| self.memory(id)).collect::<Result<_>>()?;
        Ok(())
    }

    /// Those that the next items name.
    #[inline]
    pub(crate) fn memories(&self) -> Memories {
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

    fn memory(&mut self, id: MemoryId) -> Result<SharedFd> {
        for _ in 0..MAX_LINK_PACKETS {
            if let Some(memory) = self.memories.get(id) {
                return Ok(memory.clone());
            }
            self.next_message()?;
        }
        Err(Error::decode("shared memory", "other messages are in its place"))
    }

    /// Receives the next message. A memory for whose descriptor there is no room is an error, and can be received
    /// later: the pool counts on the memories that it has sent.
    fn next_message(&mut self) -> Result<Next> {
        let mut message = match ReceivedMessage::next(&self.link, OnShortage::Leave) {
            Ok(message) => message,
            Err(error) if error.is_shortage_of_descriptors() => {
                let Some(number) = self.discard_item() else { return Err(error) };
                return Ok(Next::Lost(number, error));
            }
            Err(error) => return Err(error),
        };
        if message.header.kind != MEMORY {
            return Ok(Next::Item(message));
        }
        let name = packet::prefix(&message.packet).get(PREFIX..).and_then(MemoryName::from_bytes);
        let (Some(MemoryName { id, size }), Some(memory)) = (name, message.descriptors.pop()) else {
            return Err(Error::decode("shared memory", "its name or its descriptor is missing"));
        };
        self.memories.add(id, size.get(), SharedFd::of_memory(memory, size));
        failpoint::hit(Failpoint::MemoryReceived);
        Ok(Next::Memory)
    }

    /// Discards the next message, unless it is a memory; returns its number.
    fn discard_item(&self) -> Option<u32> {
        let header = MessageHeader::of(&self.link.next_prefix()?);
        (header.kind != MEMORY).then(|| {
            self.link.discard();
            header.number
        })
    }
}

enum Next {
    /// A memory has arrived, and items may name it.
    Memory,
    Item(ReceivedMessage),
    /// An item with this number, for whose descriptors there is no room, is discarded.
    Lost(u32, Error),
}
