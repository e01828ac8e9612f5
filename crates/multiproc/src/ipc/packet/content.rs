//! A received packet: its format, and where its message's bytes are.

use std::num::NonZeroUsize;
use std::os::fd::{AsFd, OwnedFd};

use super::WORTH_MAPPING;
use super::message::SpillPermit;
use crate::error::{Error, Result};
use crate::sys::immutable::ImmutableMemory;
use crate::sys::mapping::{self, SharedMapping};
use crate::sys::memfd;

/// The first byte of a packet. The message follows it.
pub(super) const IN_PACKET: u8 = 0;
/// The first byte of a packet. The last descriptor is memory with the message; its length (8 bytes) and the
/// prefix follow.
pub(super) const IN_MEMORY: u8 = 1;

/// The bytes of a received message, where they arrived.
#[derive(Debug)]
pub(crate) enum Content {
    /// The packet, and the offset of the message in it.
    Inline(Vec<u8>, usize),
    Mapped(SharedMapping),
    Immutable {
        memory: ImmutableMemory,
        _permit: SpillPermit,
    },
}

impl Content {
    /// The content of a packet with a prefix of this length. Maps spilled memory, whose descriptor it takes
    /// from `descriptors`.
    pub(crate) fn of(packet: Vec<u8>, prefix: usize, descriptors: &mut Vec<OwnedFd>) -> Result<Self> {
        if is_whole(&packet) {
            return Ok(Self::Inline(packet, 1 + prefix));
        }
        let (memory, length) = announced(&packet, descriptors)?;
        mapping::map(&memory, length).map(Self::Mapped)
    }

    /// As [`Content::of`], for content that may be kept for long and that the sender must not be able to
    /// change. Copies spilled memory, unless it is large and sealed and a permit for a mapping is left.
    pub(crate) fn to_keep(packet: Vec<u8>, prefix: usize, descriptors: &mut Vec<OwnedFd>) -> Result<Self> {
        if is_whole(&packet) {
            return Ok(Self::Inline(packet, 1 + prefix));
        }
        let (memory, length) = announced(&packet, descriptors)?;
        if length >= WORTH_MAPPING
            && let Some(length) = NonZeroUsize::new(length)
            && let Some(permit) = SpillPermit::for_mapping()
            && let Ok(memory) = ImmutableMemory::open(memory.as_fd(), length)
        {
            return Ok(Self::Immutable { memory, _permit: permit });
        }
        memfd::read(&memory, length, &[]).map(|bytes| Self::Inline(bytes, 0))
    }

    pub(crate) fn with_bytes<R>(&self, read: impl FnOnce(&[u8]) -> R) -> R {
        match self {
            Self::Inline(bytes, start) => read(bytes.get(*start..).unwrap_or_default()),
            Self::Mapped(memory) => memory.with_bytes(0, memory.size().get(), read),
            Self::Immutable { memory, .. } => read(memory.bytes()),
        }
    }
}

/// The packet as which these bytes would arrive.
pub(crate) fn packet(bytes: &[u8]) -> Vec<u8> {
    [&[IN_PACKET], bytes].concat()
}

/// Whether the packet itself holds the message.
fn is_whole(packet: &[u8]) -> bool {
    packet.first() == Some(&IN_PACKET)
}

/// The prefix with which the message was sent, and, in a packet that is [whole](is_whole), the message after
/// it.
pub(crate) fn prefix(packet: &[u8]) -> &[u8] {
    match packet {
        [IN_PACKET, rest @ ..] | [IN_MEMORY, _, _, _, _, _, _, _, _, rest @ ..] => rest,
        _ => &[],
    }
}

/// The prefix and the message of a packet in one vector, and the message's descriptors.
pub(crate) fn unpack(packet: &[u8], mut descriptors: Vec<OwnedFd>) -> Result<(Vec<u8>, Vec<OwnedFd>)> {
    let bytes = match packet {
        [IN_PACKET, bytes @ ..] => bytes.to_vec(),
        [IN_MEMORY, ..] => {
            let (memory, length) = announced(packet, &mut descriptors)?;
            memfd::read(&memory, length, prefix(packet))?
        }
        [kind, ..] => return Err(Error::decode("a packet", format!("unknown kind {kind}"))),
        [] => return Err(Error::decode("a packet", "it is empty")),
    };
    Ok((bytes, descriptors))
}

/// The spilled memory of a packet, and the length of its message.
pub(super) fn announced(packet: &[u8], descriptors: &mut Vec<OwnedFd>) -> Result<(OwnedFd, usize)> {
    let length = packet.get(1..).and_then(<[u8]>::first_chunk).copied().map(u64::from_le_bytes);
    let (Some(length), Some(memory)) = (length, descriptors.pop()) else {
        return Err(Error::decode("a packet", "its length or its memory is missing"));
    };
    Ok((memory, usize::try_from(length).unwrap_or(usize::MAX)))
}
