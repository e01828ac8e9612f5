//! A message to send: its bytes, inline or spilled to a memfd, and its descriptors.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::{MAX_INLINE, WORTH_MAPPING};
use crate::error::{Error, Result};
use crate::ipc::memfd_cache::{self, Spill};
use crate::ipc::wire::SharedFd;
use crate::sys::immutable;
use crate::sys::mapping::SharedMapping;
use crate::sys::memfd;
use crate::sys::socket::MAX_DESCRIPTORS;

/// A message that can be sent, more than once if necessary.
#[derive(Debug)]
pub(crate) struct Message {
    pub(super) payload: Payload,
    pub(super) descriptors: Vec<SharedFd>,
    /// It was made with descriptors that are not memory: what other processes wait to see closed.
    had_ends: bool,
}

#[derive(Debug)]
pub(super) enum Payload {
    /// Small, or large and to be spilled when it is sent.
    Inline(Vec<u8>),
    Memfd(SpilledMemory),
}

/// The bytes of a message in anonymous memory.
#[derive(Debug)]
pub(super) struct SpilledMemory {
    pub(super) memory: SharedFd,
    pub(super) length: u64,
    /// Kept for the next payload that is written there.
    mapping: Option<SharedMapping>,
    /// Held by memory that was spilled before the message is sent.
    _permit: Option<SpillPermit>,
}

/// The right to hold a scarce descriptor or mapping while a message waits. Messages beyond the limit wait in
/// the heap instead, at the cost of one copy.
#[derive(Debug)]
pub(crate) struct SpillPermit(&'static AtomicUsize);

/// The number of permits of each kind.
pub(super) const PERMITS: usize = 64;
static SPILLED_AHEAD: AtomicUsize = AtomicUsize::new(PERMITS);
static MAPPED: AtomicUsize = AtomicUsize::new(PERMITS);

impl Message {
    /// Spills large bytes at once, if a permit is left, so that sending is fast.
    pub(crate) fn new(bytes: Vec<u8>, descriptors: Vec<SharedFd>) -> Result<Self> {
        check_count(&descriptors)?;
        let spilled = SpilledMemory::ahead(&bytes)?;
        Ok(Self::of(spilled.map_or(Payload::Inline(bytes), Payload::Memfd), descriptors))
    }

    /// As [`Message::new`], of borrowed bytes: it copies large ones only once.
    pub(crate) fn copy(bytes: &[u8], descriptors: Vec<SharedFd>) -> Result<Self> {
        check_count(&descriptors)?;
        if let Some(spilled) = SpilledMemory::ahead(bytes)? {
            return Ok(Self::of(Payload::Memfd(spilled), descriptors));
        }
        let mut copy = memfd::try_with_capacity(bytes.len())?;
        copy.extend_from_slice(bytes);
        Ok(Self::of(Payload::Inline(copy), descriptors))
    }

    /// A message that is spilled at once, whatever its size. If it is worth mapping, its memory is sealed, so
    /// the receiver can read it in place.
    pub(crate) fn spilled(bytes: &[u8]) -> Result<Self> {
        let spill = if bytes.len() < WORTH_MAPPING {
            memfd_cache::write(bytes)?
        } else {
            Spill { fd: immutable::store(bytes)?, mapping: None }
        };
        let spilled = SpilledMemory::new(spill, bytes.len());
        Ok(Self::without_descriptors(Payload::Memfd(spilled)))
    }

    /// A small message.
    pub(crate) fn inline(bytes: Vec<u8>) -> Self {
        debug_assert!(bytes.len() <= MAX_INLINE, "a message of {} bytes is not small", bytes.len());
        Self::without_descriptors(Payload::Inline(bytes))
    }

    fn without_descriptors(payload: Payload) -> Self {
        Self::of(payload, Vec::new())
    }

    fn of(payload: Payload, descriptors: Vec<SharedFd>) -> Self {
        let had_ends = descriptors.iter().any(|fd| fd.memory().is_none());
        Self { payload, descriptors, had_ends }
    }

    /// Spills large bytes that are still inline. Called when the message is about to be sent.
    pub(crate) fn spill(&mut self) -> Result<()> {
        if let Payload::Inline(bytes) = &self.payload
            && bytes.len() > MAX_INLINE
        {
            self.payload = Payload::Memfd(SpilledMemory::now(bytes)?);
        }
        Ok(())
    }

    /// The bytes and the descriptors, as a receiver in this process would have them.
    pub(crate) fn into_parts(self) -> Result<(Vec<u8>, Vec<OwnedFd>)> {
        let bytes = match self.payload {
            Payload::Inline(bytes) => bytes,
            Payload::Memfd(SpilledMemory { memory, length, .. }) => {
                memfd::read(&memory.into_descriptor()?, usize::try_from(length).unwrap_or(usize::MAX), &[])?
            }
        };
        let descriptors =
            self.descriptors.into_iter().map(SharedFd::into_descriptor).collect::<Result<_>>()?;
        Ok((bytes, descriptors))
    }

    /// The number of bytes.
    pub(crate) fn length(&self) -> usize {
        match &self.payload {
            Payload::Inline(bytes) => bytes.len(),
            Payload::Memfd(memory) => usize::try_from(memory.length).unwrap_or(usize::MAX),
        }
    }

    /// Recycles the memory of a message that was received and whose receiver has finished reading it.
    pub(crate) fn recycle(self) {
        if let Payload::Memfd(SpilledMemory { memory, length, mapping, .. }) = self.payload
            && let (Some(fd), Ok(length)) = (memory.try_into_inner(), usize::try_from(length))
        {
            memfd_cache::recycle(Spill { fd, mapping }, length);
        }
    }

    /// Closes the descriptors that are not memory, of a message that was received.
    pub(crate) fn close_ends(&mut self) {
        self.descriptors.retain(|fd| fd.memory().is_some());
    }

    /// Whether it can be sent again once it was received.
    pub(crate) fn is_repeatable(&self) -> bool {
        !self.had_ends
    }

    /// Whether it has or had descriptors.
    pub(crate) fn holds_descriptors(&self) -> bool {
        self.had_ends || !self.descriptors.is_empty()
    }

    /// Whether there is room for two more descriptors.
    pub(crate) fn has_room_for_stdio(&self) -> bool {
        self.descriptors.len() + 2 < MAX_DESCRIPTORS
    }
}

fn check_count(descriptors: &[SharedFd]) -> Result<()> {
    if descriptors.len() < MAX_DESCRIPTORS {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "a message holds {} descriptors; at most {} can travel at once",
        descriptors.len(),
        MAX_DESCRIPTORS - 1
    )))
}

impl SpilledMemory {
    pub(super) fn now(bytes: &[u8]) -> Result<Self> {
        Ok(Self::new(memfd_cache::write(bytes)?, bytes.len()))
    }

    fn new(Spill { fd, mapping }: Spill, length: usize) -> Self {
        Self { memory: fd.into(), length: length as u64, mapping, _permit: None }
    }

    /// Spills large bytes before the message is sent. `None` if they are small, or without a permit or a free
    /// descriptor.
    fn ahead(bytes: &[u8]) -> Result<Option<Self>> {
        if bytes.len() <= MAX_INLINE {
            return Ok(None);
        }
        let Some(permit) = SpillPermit::take(&SPILLED_AHEAD) else { return Ok(None) };
        match Self::now(bytes) {
            Ok(spilled) => Ok(Some(Self { _permit: Some(permit), ..spilled })),
            Err(error) if error.is_shortage_of_descriptors() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl SpillPermit {
    fn take(left: &'static AtomicUsize) -> Option<Self> {
        left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).ok().map(|_| Self(left))
    }

    pub(super) fn for_mapping() -> Option<Self> {
        Self::take(&MAPPED)
    }
}

impl Drop for SpillPermit {
    fn drop(&mut self) {
        self.0.fetch_add(1, Relaxed);
    }
}
