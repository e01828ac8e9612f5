//! How bytes reach a child or a worker: the one interface that starting and the pool send and receive through.
//!
//! Today a link is a socket that keeps packets, and a message too large for a packet is spilled in anonymous memory
//! whose descriptor travels in its stead. What is above knows neither.

use std::cell::Cell;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::error::{Error, Result};
use crate::ipc::wire::SharedFd;
use crate::sys::mapping::{self, SharedMapping};
use crate::sys::poll::{Deadline, PollFlags, ready};
use crate::sys::sealed::{self, Sealed};
use crate::sys::socket::{self, MAX_DESCRIPTORS};

pub(crate) use crate::sys::socket::{OnShortage, Sent};

/// Messages up to this size (bytes) travel inside a packet. Small enough that the default buffer of a socket takes
/// several; large enough that copying, not the system call, is what a larger one costs.
pub(crate) const INLINE: usize = 32 * 1024;

/// One end of a connection between processes. Clones share the end; it closes with the last of them, in whatever
/// process that is.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct PacketSocket(SharedFd);

/// A message ready to be sent, and to be sent again if it must.
#[derive(Debug)]
pub(crate) struct Message {
    body: Payload,
    descriptors: Vec<SharedFd>,
    had_descriptors: bool,
}

#[derive(Debug)]
enum Payload {
    /// Small, or one that waits until it is [parked](Message::spill).
    Inline(Vec<u8>),
    Parked(SpilledMemory),
}

/// A message's bytes in anonymous memory.
#[derive(Debug)]
struct SpilledMemory {
    memory: SharedFd,
    length: u64,
    /// Of one that was spilled ahead of need.
    _permit: Option<MappingPermit>,
}

/// To hold something scarce while waiting: it saves a copy, but only so many messages of this process may. The others wait
/// in the heap.
#[derive(Debug)]
pub(crate) struct MappingPermit(&'static AtomicUsize);

/// How many there are of each kind.
const PERMITS: usize = 64;
/// Those for a descriptor, of a message that was spilled ahead of need; and those for a mapping.
static SPILLED_AHEAD: AtomicUsize = AtomicUsize::new(PERMITS);
static MAPPED: AtomicUsize = AtomicUsize::new(PERMITS);

impl MappingPermit {
    fn take(left: &'static AtomicUsize) -> Option<Self> {
        left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).ok().map(|_| Self(left))
    }
}

impl Drop for MappingPermit {
    fn drop(&mut self) {
        self.0.fetch_add(1, Relaxed);
    }
}

impl SpilledMemory {
    fn now(bytes: &[u8]) -> Result<Self> {
        Ok(Self { memory: mapping::memfd_write(bytes)?.into(), length: bytes.len() as u64, _permit: None })
    }

    /// Ahead of need, if that is allowed and the system has a descriptor for it.
    fn ahead(bytes: &[u8]) -> Result<Option<Self>> {
        let Some(permit) = MappingPermit::take(&SPILLED_AHEAD) else { return Ok(None) };
        match Self::now(bytes) {
            Ok(spilled) => Ok(Some(Self { _permit: Some(permit), ..spilled })),
            Err(error) if error.is_shortage_of_descriptors() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// What came.
#[derive(Debug)]
pub(crate) enum Incoming {
    Message(Vec<u8>, Vec<OwnedFd>),
    /// The deadline came first.
    TimedOut,
    /// The other end is gone, and everything it had sent has been received.
    Disconnected,
}

/// The first byte of a packet: are the rest the message, or the length of what the last descriptor holds?
const IN_PACKET: u8 = 0;
const IN_MEMORY: u8 = 1;

impl Message {
    /// Large bytes are spilled, here and now if that can be, so that sending needs no time.
    pub(crate) fn new(bytes: Vec<u8>, descriptors: Vec<SharedFd>) -> Result<Self> {
        if descriptors.len() >= MAX_DESCRIPTORS {
            return Err(Error::invalid(format!(
                "a message holds {} descriptors; at most {} can travel at once",
                descriptors.len(),
                MAX_DESCRIPTORS - 1
            )));
        }
        let spilled = if bytes.len() > INLINE { SpilledMemory::ahead(&bytes)? } else { None };
        let body = spilled.map_or(Payload::Inline(bytes), Payload::Parked);
        Ok(Self { body, had_descriptors: !descriptors.is_empty(), descriptors })
    }

    /// As [`Message::new`], of large bytes that are borrowed, and without descriptors.
    pub(crate) fn large(bytes: &[u8]) -> Result<Self> {
        let body = match SpilledMemory::ahead(bytes)? {
            Some(spilled) => Payload::Parked(spilled),
            None => Payload::Inline(mapping::copy(bytes)?),
        };
        Ok(Self { body, descriptors: Vec::new(), had_descriptors: false })
    }

    /// A message that is spilled here and now, whatever its size; one that is worth to be mapped is sealed, so that it can
    /// be read in place.
    pub(crate) fn spilled(bytes: &[u8]) -> Result<Self> {
        let memory =
            if bytes.len() < WORTH_MAPPING { mapping::memfd_write(bytes)? } else { sealed::store(bytes)? };
        let spilled = SpilledMemory { memory: memory.into(), length: bytes.len() as u64, _permit: None };
        Ok(Self { body: Payload::Parked(spilled), descriptors: Vec::new(), had_descriptors: false })
    }

    /// Parks large bytes that have waited until now, when they are about to be sent.
    pub(crate) fn spill(&mut self) -> Result<()> {
        if let Payload::Inline(bytes) = &self.body
            && bytes.len() > INLINE
        {
            self.body = Payload::Parked(SpilledMemory::now(bytes)?);
        }
        Ok(())
    }

    /// It has been received, and what came is not looked at any more.
    pub(crate) fn recycle(self) {
        if let Payload::Parked(SpilledMemory { memory, length, .. }) = self.body
            && let (Some(memory), Ok(length)) = (memory.try_into_inner(), usize::try_from(length))
        {
            mapping::recycle(memory, length);
        }
    }

    /// Lets go of the descriptors: it will not be sent again.
    pub(crate) fn drop_descriptors(&mut self) {
        self.descriptors.clear();
    }

    /// Whether it has, or had, descriptors of its own.
    pub(crate) fn had_descriptors(&self) -> bool {
        self.had_descriptors
    }

    /// A message that is known to be small, and has no descriptors.
    pub(crate) fn inline(bytes: Vec<u8>) -> Self {
        debug_assert!(bytes.len() <= INLINE, "a message of {} bytes is not small", bytes.len());
        Self { body: Payload::Inline(bytes), descriptors: Vec::new(), had_descriptors: false }
    }

    /// Is there room for two descriptors more?
    pub(crate) fn can_take_more(&self) -> bool {
        self.descriptors.len() + 2 < MAX_DESCRIPTORS
    }
}

impl PacketSocket {
    pub(crate) fn pair() -> Result<(Self, Self)> {
        let (a, b) = socket::pair()?;
        Ok((Self(a.into()), Self(b.into())))
    }

    pub(crate) fn from_socket(socket: OwnedFd) -> Self {
        Self(socket.into())
    }

    /// The descriptor itself.
    pub(crate) fn into_descriptor(self) -> Result<OwnedFd> {
        self.0.into_descriptor()
    }

    /// Whether somebody surely holds the other end, and nothing has come from there.
    pub(crate) fn is_held(&self) -> bool {
        socket::is_held(self.as_fd())
    }

    /// Whether nobody holds the other end any more, whatever has come from there.
    pub(crate) fn is_hung_up(&self) -> bool {
        ready(self.as_fd(), PollFlags::empty(), Deadline::now()).unwrap_or(false)
    }

    /// Blocks until no process holds the other end, or until the deadline; returns whether that is so.
    pub(crate) fn wait_for_hang_up(&self, deadline: Deadline) -> Result<bool> {
        ready(self.as_fd(), PollFlags::empty(), deadline)
    }

    /// The descriptor, for who has to hold it.
    pub(crate) fn handle(&self) -> SharedFd {
        self.0.clone()
    }

    /// Sends a message whole or not at all; blocks while there is no room for it, until the deadline.
    pub(crate) fn send(&self, message: &Message, deadline: Deadline) -> Result<Sent> {
        self.send_with_prefix(&[], message, deadline)
    }

    /// As [`PacketSocket::send`], with some bytes more in front of the message.
    pub(crate) fn send_with_prefix(
        &self,
        prefix: &[u8],
        message: &Message,
        deadline: Deadline,
    ) -> Result<Sent> {
        self.send_all(prefix, message, &[], deadline)
    }

    /// As [`PacketSocket::send`], with some descriptors more in front of the message's own.
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
        let parked_now;
        let own = message.descriptors.iter().map(AsFd::as_fd);
        let mut descriptors: Vec<_> = before.iter().copied().chain(own).collect();
        let SpilledMemory { memory, length, .. } = match &message.body {
            Payload::Inline(bytes) if bytes.len() <= INLINE => {
                let parts = [&[IN_PACKET], prefix, bytes];
                return socket::send(self.as_fd(), &parts, &descriptors, deadline);
            }
            Payload::Inline(bytes) => {
                parked_now = SpilledMemory::now(bytes)?;
                &parked_now
            }
            Payload::Parked(spilled) => spilled,
        };
        descriptors.push(memory.as_fd());
        let parts: [&[u8]; 3] = [&[IN_MEMORY], &length.to_le_bytes(), prefix];
        socket::send(self.as_fd(), &parts, &descriptors, deadline)
    }

    /// Receives the next message; blocks while there is none, until the deadline.
    pub(crate) fn receive(&self, deadline: Deadline) -> Result<Incoming> {
        self.receive_or(OnShortage::Lose, deadline)
    }

    /// As [`PacketSocket::receive`], but says what becomes of a message whose descriptors find no room.
    pub(crate) fn receive_or(&self, on_shortage: OnShortage, deadline: Deadline) -> Result<Incoming> {
        self.receive_with(on_shortage, deadline, |packet, descriptors| {
            unpack(packet, descriptors).map(|(bytes, descriptors)| Incoming::Message(bytes, descriptors))
        })
    }

    /// As [`PacketSocket::receive`], but leaves the message as it came.
    pub(crate) fn receive_packet(&self, deadline: Deadline) -> Result<Incoming> {
        self.receive_packet_or(OnShortage::Lose, deadline)
    }

    /// As [`PacketSocket::receive_or`], but leaves the message as it came.
    pub(crate) fn receive_packet_or(&self, on_shortage: OnShortage, deadline: Deadline) -> Result<Incoming> {
        self.receive_with(on_shortage, deadline, |packet, descriptors| {
            Ok(Incoming::Message(packet.to_vec(), descriptors))
        })
    }

    fn receive_with(
        &self,
        on_shortage: OnShortage,
        deadline: Deadline,
        unpack: impl FnOnce(&[u8], Vec<OwnedFd>) -> Result<Incoming>,
    ) -> Result<Incoming> {
        let mut buffer = BUFFER.try_with(Cell::take).unwrap_or_default(); // a thread at its end has none any more
        let received = socket::receive(self.as_fd(), &mut buffer, INLINE + 256, deadline, on_shortage);
        let incoming = received.and_then(|received| match received {
            socket::Received::Packet(descriptors) => unpack(&buffer, descriptors),
            socket::Received::TimedOut => Ok(Incoming::TimedOut),
            socket::Received::Disconnected => Ok(Incoming::Disconnected),
        });
        let _ = BUFFER.try_with(|kept| kept.set(buffer));
        incoming
    }
}

/// The packet as which these bytes would arrive.
pub(crate) fn packet(bytes: &[u8]) -> Vec<u8> {
    [&[IN_PACKET], bytes].concat()
}

/// Does this packet hold its message? Or does it have to be fetched?
pub(crate) fn is_whole(packet: &[u8]) -> bool {
    packet.first() == Some(&IN_PACKET)
}

/// What a message with this packet was prefixed with, and whatever follows that.
pub(crate) fn prefix(packet: &[u8]) -> &[u8] {
    match packet {
        [IN_PACKET, rest @ ..] | [IN_MEMORY, _, _, _, _, _, _, _, _, rest @ ..] => rest,
        _ => &[],
    }
}

/// A message's bytes, where they are: in the packet, from a place on, or spilled.
#[derive(Debug)]
pub(crate) enum Content {
    Here(Vec<u8>, usize),
    Parked(SharedMapping),
    Sealed { memory: Sealed, _permit: MappingPermit },
}

/// From this size on (bytes), to map and unmap memory costs clearly less than to copy it.
const WORTH_MAPPING: usize = 64 * 1024;

impl Content {
    /// Of a packet whose prefix is so long; takes the descriptor of what is spilled off the others. What is spilled is
    /// mapped.
    pub(crate) fn of(packet: Vec<u8>, prefix: usize, descriptors: &mut Vec<OwnedFd>) -> Result<Self> {
        if is_whole(&packet) {
            return Ok(Self::Here(packet, 1 + prefix));
        }
        let (memory, length) = announced(&packet, descriptors)?;
        mapping::map(&memory, length).map(Self::Parked)
    }

    /// As [`Content::of`], for what its sender must not be able to change any more, and may wait for long. What is spilled
    /// is copied, unless it is large and sealed, and few others are mapped: mappings are scarce.
    pub(crate) fn to_keep(packet: Vec<u8>, prefix: usize, descriptors: &mut Vec<OwnedFd>) -> Result<Self> {
        if is_whole(&packet) {
            return Ok(Self::Here(packet, 1 + prefix));
        }
        let (memory, length) = announced(&packet, descriptors)?;
        if length >= WORTH_MAPPING
            && let Some(length) = NonZeroUsize::new(length)
            && let Some(permit) = MappingPermit::take(&MAPPED)
            && let Ok(memory) = Sealed::open(memory.as_fd(), length)
        {
            return Ok(Self::Sealed { memory, _permit: permit });
        }
        mapping::read(&memory, length, &[]).map(|bytes| Self::Here(bytes, 0))
    }

    pub(crate) fn with_bytes<R>(&self, look: impl FnOnce(&[u8]) -> R) -> R {
        match self {
            Self::Here(bytes, start) => look(bytes.get(*start..).unwrap_or_default()),
            Self::Parked(memory) => memory.with_bytes(0, memory.size().get(), look),
            Self::Sealed { memory, .. } => look(memory.bytes()),
        }
    }
}

/// The memory that a packet announces, and how long what it holds is.
fn announced(packet: &[u8], descriptors: &mut Vec<OwnedFd>) -> Result<(OwnedFd, usize)> {
    let length = packet.get(1..).and_then(<[u8]>::first_chunk).copied().map(u64::from_le_bytes);
    let (Some(length), Some(memory)) = (length, descriptors.pop()) else {
        return Err(Error::decode("a packet", "what it announces did not come with it"));
    };
    Ok((memory, usize::try_from(length).unwrap_or(usize::MAX)))
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

thread_local! {
    /// Packets are received here and copied out at their size, which is mostly small.
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// The message that such a packet stands for, and its descriptors.
pub(crate) fn unpack(packet: &[u8], mut descriptors: Vec<OwnedFd>) -> Result<(Vec<u8>, Vec<OwnedFd>)> {
    let bytes = match packet {
        [IN_PACKET, bytes @ ..] => bytes.to_vec(),
        [IN_MEMORY, rest @ ..] => {
            let (length, prefix) =
                rest.split_first_chunk().ok_or_else(|| Error::decode("a packet", "it is too short"))?;
            let memory = descriptors
                .pop()
                .ok_or_else(|| Error::decode("a packet", "its memory did not come with it"))?;
            let length = usize::try_from(u64::from_le_bytes(*length))
                .map_err(|_| Error::decode("a packet", "invalid length"))?;
            mapping::read(&memory, length, prefix)?
        }
        [kind, ..] => return Err(Error::decode("a packet", format!("unknown kind {kind}"))),
        [] => return Err(Error::decode("a packet", "it is empty")),
    };
    Ok((bytes, descriptors))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{any_bytes, any_word, cases, descriptors};

    proptest! {
        #![proptest_config(cases(300))]

        #[test]
        fn any_packet_is_a_message_or_an_error(
            mark in 0..3_u8,
            length in any_word(),
            bytes in any_bytes(40),
            choice in vec(any::<u8>(), 0..4),
            front in 0..60_usize,
        ) {
            let spilled = [&[mark][..], &length.to_le_bytes(), &bytes].concat();
            for packet in [&spilled, &bytes] {
                prop_assert!(prefix(packet).len() <= packet.len());
                if let Ok((message, _)) = unpack(packet, descriptors(&choice)) {
                    prop_assert!(message.len() <= packet.len() + 5000);
                }
                if let Ok(content) = Content::of(packet.clone(), front, &mut descriptors(&choice)) {
                    prop_assert!(content.with_bytes(<[u8]>::len) <= packet.len().max(5000));
                }
                if let Ok(content) = Content::to_keep(packet.clone(), front, &mut descriptors(&choice)) {
                    prop_assert!(content.with_bytes(<[u8]>::len) <= packet.len().max(5000));
                }
            }
        }
    }

    /// Without taking up the memory: most of it is a hole.
    #[test]
    fn messages_beyond_four_gigabytes_are_whole() {
        for size in [1 << 31, (1 << 32) - 1, 1 << 32, (1 << 32) + 5_u64] {
            let file = File::from(mapping::memfd_write(b"begin").unwrap());
            file.write_all_at(b"end", size - 3).unwrap();
            let packet = [&[IN_MEMORY][..], &size.to_le_bytes()].concat();
            let content = Content::of(packet, 0, &mut vec![file.into()]).unwrap();
            content.with_bytes(|bytes| {
                assert_eq!(bytes.len() as u64, size);
                assert!(bytes.starts_with(b"begin") && bytes.ends_with(b"\0end"));
            });
        }
    }

    /// Mapped is only what nobody can change any more, and only so much at a time.
    #[test]
    fn what_is_kept_is_private_or_sealed() {
        let bytes = vec![7; WORTH_MAPPING];
        let keep = |memory: OwnedFd| {
            let packet = [&[IN_MEMORY][..], &(WORTH_MAPPING as u64).to_le_bytes()].concat();
            let content = Content::to_keep(packet, 0, &mut vec![memory]).unwrap();
            content.with_bytes(|kept| assert!(kept == bytes));
            content
        };
        let content = keep(mapping::memfd_write_exactly(&bytes).unwrap());
        assert!(matches!(content, Content::Here(..)), "it could still be written to");
        let many: Vec<_> = (0..PERMITS + 3).map(|_| keep(sealed::store(&bytes).unwrap())).collect();
        let is_mapped = |content: &&Content| matches!(content, Content::Sealed { .. });
        assert!((1..=PERMITS).contains(&many.iter().filter(is_mapped).count()));
    }

    fn received(link: &PacketSocket) -> Vec<u8> {
        match link.receive(Deadline::now()).unwrap() {
            Incoming::Message(bytes, _) => bytes,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn messages_of_every_size_arrive_whole() {
        let (a, b) = PacketSocket::pair().unwrap();
        for size in [0, 1, INLINE - 1, INLINE, INLINE + 1, 20_000_000] {
            let bytes: Vec<u8> = (0..=250).cycle().take(size).collect();
            let message = Message::new(bytes.clone(), Vec::new()).unwrap();
            assert_eq!(a.send_with_prefix(b"pre", &message, Deadline::now()).unwrap(), Sent::Done);
            assert!(received(&b) == [b"pre", &bytes[..]].concat(), "{size} bytes");
        }
    }

    #[test]
    fn an_end_that_is_gone_is_told_apart_from_an_empty_message() {
        let (a, b) = PacketSocket::pair().unwrap();
        assert!(matches!(b.receive(Deadline::now()).unwrap(), Incoming::TimedOut));
        let empty = Message::new(Vec::new(), Vec::new()).unwrap();
        a.send(&empty, Deadline::now()).unwrap();
        drop(a);
        assert!(received(&b).is_empty());
        assert!(matches!(b.receive(Deadline::now()).unwrap(), Incoming::Disconnected));
        assert_eq!(b.send(&empty, Deadline::now()).unwrap(), Sent::Disconnected);
    }

    #[test]
    fn any_bytes_are_an_error_and_not_a_panic() {
        for packet in
            [&[][..], &[7], &[IN_MEMORY], &[IN_MEMORY, 1, 2, 3], &[IN_MEMORY, 1, 0, 0, 0, 0, 0, 0, 0]]
        {
            assert!(unpack(packet, Vec::new()).is_err(), "{packet:?}");
        }
        let memory = mapping::memfd_write(b"abc").unwrap();
        let announced_too_much = [&[IN_MEMORY][..], &4_u64.to_le_bytes()].concat();
        assert!(unpack(&announced_too_much, vec![memory]).is_err());
    }
}
