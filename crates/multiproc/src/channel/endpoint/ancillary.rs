//! The ancillary packets of frames, which carry what a ring cannot ([`channel`](crate::channel) describes
//! them).
//!
//! They are numbered in the order of their frames, and a number is used up even if its sender dies. So a
//! packet with a lower number than the expected one belongs to no frame, nor does a packet that is left when
//! all frames are taken.

use std::os::fd::AsFd;

use super::{ANCILLARY, Endpoint, Side};
use crate::sys::atomic::{Acquire, Relaxed, Release};
use crate::sys::poll::Deadline;
use crate::sys::socket;

/// More packets than a channel's socket holds: of its buffer, 4 MiB, each takes some hundred bytes.
pub(crate) const MAX_ANCILLARY_PACKETS: u32 = 64 * 1024;

/// The first packet that belongs to a frame in the ring.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NextPacket {
    Number(u64),
    None,
    Unknown,
}

impl Endpoint {
    /// The number of the next packet that belongs to a frame. To be called under the lock, when all frames of
    /// earlier packets are published.
    pub(crate) fn next_sequence(&self) -> u64 {
        let last = self.word64(self.side, ANCILLARY);
        let sequence = last.load(Relaxed).wrapping_add(1);
        last.store(sequence, Release); // `discard` acquires it, and the frames before it
        sequence
    }

    /// Notes that the packet with this number, and all before it, have been received and discarded.
    pub(crate) fn mark_consumed(&self, sequence: u64) {
        self.word64(self.side, ANCILLARY).store(sequence, Relaxed);
    }

    /// Discards the packets that belong to no frame: their senders were killed before they published it, or
    /// their receivers after they had taken it. For a consumer that finds the ring empty.
    pub(super) fn discard_orphans(&self) {
        if self.side == Side::Consumers
            && self.word64(Side::Consumers, ANCILLARY).load(Relaxed)
                != self.word64(Side::Producers, ANCILLARY).load(Relaxed)
        {
            let is_empty = || self.peer_position() == self.position();
            self.discard(|| if is_empty() { NextPacket::None } else { NextPacket::Unknown });
        }
    }

    /// As [`discard_orphans`](Self::discard_orphans), for a ring that may hold frames, of which `next` finds the
    /// first one with a packet.
    #[cold]
    pub(crate) fn discard(&self, next: impl Fn() -> NextPacket) {
        let sent = self.word64(Side::Producers, ANCILLARY);
        let last = sent.load(Acquire);
        // The frames of all packets before the last one were published before the last one got its number;
        // they are in the ring, or have been taken. The same holds for the last one, unless its sender is alive
        // and about to publish its frame.
        let last_is_orphan = || match self.mutex(Side::Producers).lock(Deadline::now()) {
            Ok(Some(_guard)) => next() == NextPacket::None && sent.load(Relaxed) == last,
            _ => false,
        };
        let end = match next() {
            NextPacket::Unknown => return,
            NextPacket::Number(number) => number,
            NextPacket::None if last_is_orphan() => last.wrapping_add(1),
            NextPacket::None => last,
        };
        let socket = self.fds.socket.as_fd();
        let first = || socket::waiting_packet(socket)?.first_chunk().copied().map(u64::from_ne_bytes);
        // Bounded, since a faulty process may send packets without end.
        for _ in 0..MAX_ANCILLARY_PACKETS {
            if first().is_none_or(|sequence| sequence >= end) {
                break;
            }
            socket::discard(socket);
        }
        if end == last.wrapping_add(1) {
            self.mark_consumed(last);
        }
    }
}
