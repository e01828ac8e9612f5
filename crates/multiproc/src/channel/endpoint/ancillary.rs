//! The ancillary packets of frames: packets with what a ring cannot carry ([`channel`](crate::channel) says which).
//!
//! They are numbered in the order of their frames, and a number is used up even if its sender dies. So a packet in front
//! of the one that is looked for belongs to no frame, nor does one that is left when all frames are taken.

use std::os::fd::AsFd;

use super::{ANCILLARY, Endpoint, Side};
use crate::sys::atomic::{Acquire, Relaxed, Release};
use crate::sys::poll::Deadline;
use crate::sys::socket;

/// More packets than a socket's buffer holds, each of which takes up some hundred bytes there.
pub(crate) const SOCKET_LIMIT: u32 = 64 * 1024;

impl Endpoint {
    /// The number of the next packet that belongs to a frame. It is used up even if its sender dies. To be called under
    /// the lock, when all frames that belong to earlier ones are published.
    pub(crate) fn next_sequence(&self) -> u64 {
        let ancillary = self.word64(self.side, ANCILLARY);
        let number = ancillary.load(Relaxed).wrapping_add(1);
        ancillary.store(number, Release); // for `tidy`: and the frames before it
        number
    }

    /// The packet with this number has been received and thrown away, and all before it.
    pub(crate) fn mark_consumed(&self, number: u64) {
        self.word64(self.side, ANCILLARY).store(number, Relaxed);
    }

    /// Throws away the packets that belong to no frame: their senders were killed before they could publish it, or
    /// their receivers when they had just taken it. For a consumer who finds the ring empty.
    pub(super) fn discard_orphans(&self) {
        if self.side == Side::Consumers
            && self.word64(Side::Consumers, ANCILLARY).load(Relaxed)
                != self.word64(Side::Producers, ANCILLARY).load(Relaxed)
        {
            self.discard();
        }
    }

    #[cold]
    fn discard(&self) {
        let sent = self.word64(Side::Producers, ANCILLARY);
        let last = sent.load(Acquire);
        if self.peer_position() != self.position() {
            return;
        }
        // What belongs to the packets before the last one was published before that had its number, and has been taken.
        // So it is with the last one, if nobody is just sending it.
        let sent_by_the_dead = match self.mutex(Side::Producers).lock(Deadline::now()) {
            Ok(Some(_guard)) => self.peer_position() == self.position() && sent.load(Relaxed) == last,
            _ => false,
        };
        let end = if sent_by_the_dead { last.wrapping_add(1) } else { last };
        let socket = self.links.socket.as_fd();
        let waiting = || socket::waiting_packet(socket)?.first_chunk().copied().map(u64::from_ne_bytes);
        // A process that writes nonsense may send more of them without end.
        for _ in 0..SOCKET_LIMIT {
            if waiting().is_none_or(|number| number >= end) {
                break;
            }
            socket::discard(socket);
        }
        if sent_by_the_dead {
            self.mark_consumed(last);
        }
    }
}
