//! Sends memories to a worker, for items that name them.

use super::PoolSide;
use crate::error::Result;
use crate::ipc::packet::{Message, Sent};
use crate::ipc::wire::{Memories, SharedFd};
use crate::pool::worker_rings::known_memories::KnownMemories;
use crate::pool::worker_rings::{MEMORIES_LOST, MEMORY, MemoryName, MessageHeader};
use crate::sys::atomic::Relaxed;
use crate::sys::failpoint::{self, Failpoint};
use crate::sys::poll::Deadline;

impl PoolSide {
    /// Whether the worker lacks some of these memories.
    #[inline]
    pub(crate) fn lacks(&self, memories: &Memories) -> bool {
        let is_unsettled = self.has_unread_memories || self.has_lost_memories();
        !memories.is_empty() && (is_unsettled || self.first_unknown(memories).is_some())
    }

    /// Sends the worker those of these memories that it does not know, in front of a header that names them. Returns
    /// whether there was room.
    pub(crate) fn send_memories(&mut self, memories: &Memories) -> Result<Sent> {
        if self.has_lost_memories() {
            self.lost_memories = self.rings.0.word32(MEMORIES_LOST).load(Relaxed);
            *self.memories = KnownMemories::default();
        }
        // One of them may take another's place. There is room for all of them, so this ends.
        while let Some((fd, name)) = self.first_unknown(memories) {
            let prefix = MessageHeader { number: 0, kind: MEMORY }.bytes();
            let message = Message::new(name.bytes(), vec![fd.clone()])?;
            let sent = self.link.send_with_prefix(&prefix, &message, Deadline::now())?;
            if sent != Sent::Done {
                return Ok(sent);
            }
            self.memories.add(name, ());
            self.has_unread_memories = true;
            failpoint::hit(Failpoint::MemorySent);
        }
        Ok(Sent::Done)
    }

    /// To be called when an item was submitted behind what was sent: the worker reads it then.
    pub(crate) fn expect_memories_read(&mut self) {
        self.has_unread_memories = false;
    }

    fn first_unknown<'a>(&self, memories: &'a Memories) -> Option<(&'a SharedFd, MemoryName)> {
        let mut named = memories.iter().filter_map(|fd| {
            let (id, size) = fd.memory()?;
            Some((fd, MemoryName { id, size }))
        });
        named.find(|(_, name)| self.memories.get(name.id).is_none())
    }

    fn has_lost_memories(&self) -> bool {
        self.rings.0.word32(MEMORIES_LOST).load(Relaxed) != self.lost_memories
    }
}
