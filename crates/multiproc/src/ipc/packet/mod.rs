//! Messages over a `SOCK_SEQPACKET` socket. A message too large for a packet is spilled to a memfd, whose
//! descriptor travels instead.

mod content;
mod message;
#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use self::content::{IN_MEMORY, IN_PACKET};
use self::message::{Payload, SpilledMemory};
use crate::error::Result;
use crate::impl_serde::impl_serde;
use crate::ipc::wire::SharedFd;
use crate::sys::poll::{Deadline, PollFlags, ready};
use crate::sys::socket;

pub(crate) use self::content::{Content, packet, prefix, unpack};
pub(crate) use self::message::Message;
pub(crate) use crate::sys::socket::{OnShortage, Sent};

/// The largest message (bytes) that travels inside a packet. A socket's default buffer takes several packets
/// of this size, and a larger message costs more for its copy than for the system calls of a memfd.
pub(crate) const MAX_INLINE: usize = 32 * 1024;

/// From this size on (bytes), mapping and unmapping costs less than copying.
const WORTH_MAPPING: usize = 64 * 1024;

/// One end of a connection between processes. Clones share the end; the last one closes it, in whatever
/// process it is.
#[derive(Clone, Debug)]
pub(crate) struct PacketSocket(SharedFd);

impl_serde!(newtype PacketSocket);

/// The outcome of receiving.
#[derive(Debug)]
pub(crate) enum Incoming {
    Message(Vec<u8>, Vec<OwnedFd>),
    TimedOut,
    /// The other end is closed, and everything that it has sent was received.
    Disconnected,
}

impl PacketSocket {
    pub(crate) fn pair() -> Result<(Self, Self)> {
        let (a, b) = socket::pair()?;
        Ok((Self(a.into()), Self(b.into())))
    }

    pub(crate) fn from_socket(socket: OwnedFd) -> Self {
        Self(socket.into())
    }

    pub(crate) fn into_descriptor(self) -> Result<OwnedFd> {
        self.0.into_descriptor()
    }

    /// Whether the other end is surely open and nothing has arrived from it.
    pub(crate) fn is_surely_connected(&self) -> bool {
        socket::is_surely_connected(self.as_fd())
    }

    /// Whether the other end is closed, even if messages from it are left.
    pub(crate) fn is_hung_up(&self) -> bool {
        ready(self.as_fd(), PollFlags::empty(), Deadline::now()).unwrap_or(false)
    }

    /// Blocks until no process holds the other end, or until the deadline; returns whether that is so.
    pub(crate) fn wait_for_hang_up(&self, deadline: Deadline) -> Result<bool> {
        ready(self.as_fd(), PollFlags::empty(), deadline)
    }

    pub(crate) fn handle(&self) -> SharedFd {
        self.0.clone()
    }

    /// Sends a message whole or not at all. Blocks until there is room for it, or until the deadline.
    pub(crate) fn send(&self, message: &Message, deadline: Deadline) -> Result<Sent> {
        self.send_all(&[], message, &[], deadline)
    }

    /// As [`PacketSocket::send`], with bytes before the message.
    pub(crate) fn send_with_prefix(
        &self,
        prefix: &[u8],
        message: &Message,
        deadline: Deadline,
    ) -> Result<Sent> {
        self.send_all(prefix, message, &[], deadline)
    }

    /// As [`PacketSocket::send`], with descriptors before the message's own.
    pub(crate) fn send_with_fds(
        &self,
        descriptors: &[BorrowedFd<'_>],
        message: &Message,
        deadline: Deadline,
    ) -> Result<Sent> {
        self.send_all(&[], message, descriptors, deadline)
    }

    fn send_all(
        &self,
        prefix: &[u8],
        message: &Message,
        before: &[BorrowedFd<'_>],
        deadline: Deadline,
    ) -> Result<Sent> {
        let spilled_now;
        let own = message.descriptors.iter().map(AsFd::as_fd);
        let mut descriptors: Vec<_> = before.iter().copied().chain(own).collect();
        let SpilledMemory { memory, length, .. } = match &message.payload {
            Payload::Inline(bytes) if bytes.len() <= MAX_INLINE => {
                let parts = [&[IN_PACKET], prefix, bytes];
                return socket::send(self.as_fd(), &parts, &descriptors, deadline);
            }
            Payload::Inline(bytes) => {
                spilled_now = SpilledMemory::now(bytes)?;
                &spilled_now
            }
            Payload::Memfd(spilled) => spilled,
        };
        descriptors.push(memory.as_fd());
        let parts: [&[u8]; 3] = [&[IN_MEMORY], &length.to_le_bytes(), prefix];
        socket::send(self.as_fd(), &parts, &descriptors, deadline)
    }

    /// Receives the next message. Blocks until there is one, or until the deadline.
    pub(crate) fn receive(&self, deadline: Deadline) -> Result<Incoming> {
        self.receive_or(OnShortage::Lose, deadline)
    }

    /// As [`PacketSocket::receive`]. `on_shortage` decides about a message for whose descriptors there is no
    /// room.
    pub(crate) fn receive_or(&self, on_shortage: OnShortage, deadline: Deadline) -> Result<Incoming> {
        self.receive_with(on_shortage, deadline, |packet, descriptors| {
            unpack(packet, descriptors).map(|(bytes, descriptors)| Incoming::Message(bytes, descriptors))
        })
    }

    /// As [`PacketSocket::receive`], but returns the packet, not the message.
    pub(crate) fn receive_packet(&self, deadline: Deadline) -> Result<Incoming> {
        self.receive_packet_or(OnShortage::Lose, deadline)
    }

    /// As [`PacketSocket::receive_or`], but returns the packet, not the message.
    pub(crate) fn receive_packet_or(&self, on_shortage: OnShortage, deadline: Deadline) -> Result<Incoming> {
        self.receive_with(on_shortage, deadline, |packet, descriptors| {
            Ok(Incoming::Message(packet.to_vec(), descriptors))
        })
    }

    /// The beginning of the next packet, up to 64 bytes. The packet stays.
    pub(crate) fn next_packet_start(&self) -> Option<Vec<u8>> {
        socket::waiting_packet(self.as_fd())
    }

    /// Discards the next packet, if there is one.
    pub(crate) fn discard(&self) {
        socket::discard(self.as_fd());
    }

    fn receive_with(
        &self,
        on_shortage: OnShortage,
        deadline: Deadline,
        unpack: impl FnOnce(&[u8], Vec<OwnedFd>) -> Result<Incoming>,
    ) -> Result<Incoming> {
        let mut buffer = BUFFER.try_with(Cell::take).unwrap_or_default(); // a thread that ends has none
        let received = socket::receive(self.as_fd(), &mut buffer, MAX_INLINE + 256, deadline, on_shortage);
        let incoming = received.and_then(|received| match received {
            socket::Received::Packet(descriptors) => unpack(&buffer, descriptors),
            socket::Received::TimedOut => Ok(Incoming::TimedOut),
            socket::Received::Disconnected => Ok(Incoming::Disconnected),
        });
        let _ = BUFFER.try_with(|kept| kept.set(buffer));
        incoming
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

thread_local! {
    /// Receives packets, which are then copied out at their size.
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}
