//! The companions of frames: packets with what a ring cannot carry ([`channel`](crate::channel) says which).
//!
//! They are numbered in the order of their frames, and a number is used up even if its sender dies. So a packet in front
//! of the one that is looked for belongs to no frame, nor does one that is left when all frames are taken.

use std::os::fd::AsFd;

use super::{COMPANIONS, Lane, Side};
use crate::sys::atomic::{Acquire, Relaxed, Release};
use crate::sys::poll::Deadline;
use crate::sys::socket;

/// More packets than a socket's buffer holds, each of which takes up some hundred bytes there.
pub(crate) const MOST_IN_A_SOCKET: u32 = 64 * 1024;

impl Lane {
    /// The number of the next packet that belongs to a frame. It is used up even if its sender dies. To be called under
    /// the lock, when all frames that belong to earlier ones are published.
    pub(crate) fn next_companion(&self) -> u64 {
        let companions = self.word64(self.side, COMPANIONS);
        let number = companions.load(Relaxed).wrapping_add(1);
        companions.store(number, Release); // for `tidy`: and the frames before it
        number
    }

    /// The packet with this number has been received and thrown away, and all before it.
    pub(crate) fn companion_done(&self, number: u64) {
        self.word64(self.side, COMPANIONS).store(number, Relaxed);
    }

    /// Throws away the packets that belong to no frame: their senders were killed before they could publish it, or
    /// their receivers when they had just taken it. For a consumer who finds the ring empty.
    pub(super) fn tidy(&self) {
        if self.side == Side::Consumers
            && self.word64(Side::Consumers, COMPANIONS).load(Relaxed)
                != self.word64(Side::Producers, COMPANIONS).load(Relaxed)
        {
            self.throw_away();
        }
    }

    #[cold]
    fn throw_away(&self) {
        let sent = self.word64(Side::Producers, COMPANIONS);
        let last = sent.load(Acquire);
        if self.look() != self.mark() {
            return;
        }
        // What belongs to the packets before the last one was published before that had its number, and has been taken.
        // So it is with the last one, if nobody is just sending it.
        let sent_by_the_dead = match self.lock(Side::Producers).lock(Deadline::now()) {
            Ok(Some(_guard)) => self.look() == self.mark() && sent.load(Relaxed) == last,
            _ => false,
        };
        let end = if sent_by_the_dead { last.wrapping_add(1) } else { last };
        let socket = self.links.socket.as_fd();
        let waiting = || socket::waiting_packet(socket)?.first_chunk().copied().map(u64::from_ne_bytes);
        // A process that writes nonsense may send more of them without end.
        for _ in 0..MOST_IN_A_SOCKET {
            if waiting().is_none_or(|number| number >= end) {
                break;
            }
            socket::discard(socket);
        }
        if sent_by_the_dead {
            self.companion_done(last);
        }
    }
}
