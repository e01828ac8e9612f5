//! Sends segments to a worker, for items that name them.

use super::PoolSide;
use crate::error::Result;
use crate::ipc::packet::{Message, Sent};
use crate::ipc::ring::just_before_overflow;
use crate::ipc::wire::{Segments, SharedFd};
use crate::pool::worker_rings::known_segments::KnownSegments;
use crate::pool::worker_rings::{MEMORY, MemoryName, MessageHeader, SEGMENTS_LOST};
use crate::sys::atomic::Relaxed;
use crate::sys::failpoint::{self, Failpoint};
use crate::sys::poll::Deadline;

/// The segments that a pool has sent to a worker.
#[derive(Debug)]
pub(super) struct SentSegments {
    /// Those that the worker keeps.
    known: KnownSegments<()>,
    /// How many the worker had lost when this list began.
    lost: u32,
    /// Some were sent, and no item behind them.
    has_unread: bool,
}

impl Default for SentSegments {
    fn default() -> Self {
        Self { known: KnownSegments::default(), lost: just_before_overflow(4), has_unread: false }
    }
}

impl PoolSide {
    /// Whether the worker lacks some of these segments.
    #[inline]
    pub(crate) fn lacks(&self, segments: &Segments) -> bool {
        // First, since the worker writes near the word of lost segments.
        !segments.is_empty() && self.lacks_some(segments)
    }

    fn lacks_some(&self, segments: &Segments) -> bool {
        self.sent_segments.has_unread || self.has_lost_segments() || self.first_unknown(segments).is_some()
    }

    /// Sends the worker those of these segments that it does not know, in front of a header that names them. Returns
    /// whether there was room.
    pub(crate) fn send_segments(&mut self, segments: &Segments) -> Result<Sent> {
        if self.has_lost_segments() {
            self.sent_segments.lost = self.rings.0.word32(SEGMENTS_LOST).load(Relaxed);
            self.sent_segments.known = KnownSegments::default();
        }
        // One of them may take another's place. There is room for all of them, so this ends.
        while let Some((fd, name)) = self.first_unknown(segments) {
            let prefix = MessageHeader { number: 0, kind: MEMORY }.bytes();
            let message = Message::new(name.bytes(), vec![fd.clone()])?;
            let sent = self.link.send_with_prefix(&prefix, &message, Deadline::now())?;
            if sent != Sent::Done {
                return Ok(sent);
            }
            self.sent_segments.known.add(name, ());
            self.sent_segments.has_unread = true;
            failpoint::hit(Failpoint::MemorySent);
        }
        Ok(Sent::Done)
    }

    /// To be called when an item was submitted behind what was sent: the worker reads it then.
    pub(crate) fn expect_segments_read(&mut self) {
        self.sent_segments.has_unread = false;
    }

    fn first_unknown<'a>(&self, segments: &'a Segments) -> Option<(&'a SharedFd, MemoryName)> {
        let mut named = segments.iter().filter_map(|fd| {
            let (id, size) = fd.memory()?;
            Some((fd, MemoryName { id, size }))
        });
        named.find(|(_, name)| self.sent_segments.known.get(name.id).is_none())
    }

    fn has_lost_segments(&self) -> bool {
        self.rings.0.word32(SEGMENTS_LOST).load(Relaxed) != self.sent_segments.lost
    }
}
