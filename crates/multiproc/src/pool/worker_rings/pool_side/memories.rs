//! Sends memories to a worker, for items that name them.

use super::PoolSide;
use crate::error::Result;
use crate::ipc::packet::{Message, Sent};
use crate::ipc::ring::just_before_overflow;
use crate::ipc::wire::{Memories, SharedFd};
use crate::pool::worker_rings::known_memories::KnownMemories;
use crate::pool::worker_rings::{MEMORIES_LOST, MEMORY, MemoryName, MessageHeader};
use crate::sys::atomic::Relaxed;
use crate::sys::failpoint::{self, Failpoint};
use crate::sys::poll::Deadline;

/// The memories that a pool has sent to a worker.
#[derive(Debug)]
pub(super) struct SentMemories {
    /// Those that the worker keeps.
    known: KnownMemories<()>,
    /// How many the worker had lost when this list began.
    lost: u32,
    /// Some were sent, and no item behind them.
    has_unread: bool,
}

impl Default for SentMemories {
    fn default() -> Self {
        Self { known: KnownMemories::default(), lost: just_before_overflow(4), has_unread: false }
    }
}

impl PoolSide {
    /// Whether the worker lacks some of these memories.
    #[inline]
    pub(crate) fn lacks(&self, memories: &Memories) -> bool {
        // First, since the worker writes near the word of lost memories.
        !memories.is_empty() && self.lacks_some(memories)
    }

    fn lacks_some(&self, memories: &Memories) -> bool {
        self.sent_memories.has_unread || self.has_lost_memories() || self.first_unknown(memories).is_some()
    }

    /// Sends the worker those of these memories that it does not know, in front of a header that names them. Returns
    /// whether there was room.
    pub(crate) fn send_memories(&mut self, memories: &Memories) -> Result<Sent> {
        if self.has_lost_memories() {
            self.sent_memories.lost = self.rings.0.word32(MEMORIES_LOST).load(Relaxed);
            self.sent_memories.known = KnownMemories::default();
        }
        // One of them may take another's place. There is room for all of them, so this ends.
        while let Some((fd, name)) = self.first_unknown(memories) {
            let prefix = MessageHeader { number: 0, kind: MEMORY }.bytes();
            let message = Message::new(name.bytes(), vec![fd.clone()])?;
            let sent = self.link.send_with_prefix(&prefix, &message, Deadline::now())?;
            if sent != Sent::Done {
                return Ok(sent);
            }
            self.sent_memories.known.add(name, ());
            self.sent_memories.has_unread = true;
            failpoint::hit(Failpoint::MemorySent);
        }
        Ok(Sent::Done)
    }

    /// To be called when an item was submitted behind what was sent: the worker reads it then.
    pub(crate) fn expect_memories_read(&mut self) {
        self.sent_memories.has_unread = false;
    }

    fn first_unknown<'a>(&self, memories: &'a Memories) -> Option<(&'a SharedFd, MemoryName)> {
        let mut named = memories.iter().filter_map(|fd| {
            let (id, size) = fd.memory()?;
            Some((fd, MemoryName { id, size }))
        });
        named.find(|(_, name)| self.sent_memories.known.get(name.id).is_none())
    }

    fn has_lost_memories(&self) -> bool {
        self.rings.0.word32(MEMORIES_LOST).load(Relaxed) != self.sent_memories.lost
    }
}
