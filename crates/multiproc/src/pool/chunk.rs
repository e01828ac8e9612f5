//! Items that go to a worker together, results that come back together, and the frames that keep them apart.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::call::Call;
use crate::error::Result;
use crate::link::{INLINE, Message};
use crate::task::TaskId;
use crate::wire::Handle;

/// Consecutive items of one call.
pub(crate) struct Chunk {
    pub(crate) call: Arc<Call>,
    /// The place of its first item in the call's input.
    pub(crate) first: u64,
    pub(crate) count: u32,
    /// How often it went to a worker that died before it began with it.
    pub(crate) attempts: u32,
    /// A frame for each item.
    pub(crate) message: Message,
}

/// A chunk grows to this many bytes at most, so that it travels inside a packet and can be divided again.
const FULL: usize = INLINE / 2;

/// What stands in front of a chunk's frames on the way to a worker.
#[derive(Serialize, Deserialize)]
pub(crate) struct Order {
    /// Counts the chunks that this worker has got, from 1.
    pub(crate) serial: u32,
    pub(crate) count: u32,
    pub(crate) task: TaskId,
}

/// What a worker says.
#[derive(Serialize, Deserialize)]
pub(crate) enum Word {
    /// The initializer has run; send work.
    Ready,
    /// Results of items `first..first + count` of chunk `serial` follow, a frame each. At the `end` the worker is
    /// free again; it has spent `nanos` nanoseconds, and items that have no result by then it did not begin.
    Report { serial: u32, first: u32, count: u32, end: bool, nanos: u64 },
}

impl Chunk {
    /// Divides it: keeps the first `at` items, gives the others, if there are any.
    pub(crate) fn split_off(&mut self, at: u32) -> Option<Self> {
        if at >= self.count {
            return None;
        }
        let bytes = self.message.inline_mut()?; // a larger message is of one item
        let end: usize = Frames(bytes).take(at as usize).map(|frame| HEAD + frame.len()).sum();
        let message = Message::inline(bytes.split_off(end));
        let count = self.count - at;
        self.count = at;
        let first = self.first + u64::from(at);
        Some(Self { call: Arc::clone(&self.call), first, count, attempts: 0, message })
    }
}

/// A chunk in the making.
pub(crate) struct Packer {
    bytes: Vec<u8>,
    descriptors: Vec<Handle>,
    count: u32,
}

impl Packer {
    pub(crate) fn new() -> Self {
        Self { bytes: Vec::new(), descriptors: Vec::new(), count: 0 }
    }

    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// Adds an item that `encode` appends; on its error, nothing.
    pub(crate) fn add(&mut self, encode: impl FnOnce(&mut Vec<u8>) -> Result<Vec<Handle>>) -> Result<()> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; HEAD]);
        match encode(&mut self.bytes) {
            Ok(descriptors) => {
                finish_frame(&mut self.bytes, start);
                self.descriptors.extend(descriptors);
                self.count += 1;
                Ok(())
            }
            Err(error) => {
                self.bytes.truncate(start);
                Err(error)
            }
        }
    }

    /// Whether it should take no more: it is large, or has descriptors, which cannot be divided.
    pub(crate) fn is_full(&self) -> bool {
        self.bytes.len() >= FULL || !self.descriptors.is_empty()
    }

    /// The chunks, whose first item has that place in the call's input. More than one, where the last item is so
    /// large that it goes alone.
    pub(crate) fn pack(self, call: &Arc<Call>, first: u64) -> Result<Vec<Chunk>> {
        let Self { mut bytes, descriptors, count } = self;
        let chunk =
            |first, count, message| Chunk { call: Arc::clone(call), first, count, attempts: 0, message };
        let last_alone = count > 1 && (bytes.len() > INLINE || !descriptors.is_empty());
        if !last_alone {
            return Ok(vec![chunk(first, count, Message::new(bytes, descriptors)?)]);
        }
        let before = count - 1;
        let end: usize = Frames(&bytes).take(before as usize).map(|frame| HEAD + frame.len()).sum();
        let last = bytes.split_off(end);
        Ok(vec![
            chunk(first, before, Message::inline(bytes)),
            chunk(first + u64::from(before), 1, Message::new(last, descriptors)?),
        ])
    }
}

/// In front of each frame's bytes stands their number.
const HEAD: usize = 8;

/// Writes the number of a frame's bytes into the head that was left at `start`.
pub(crate) fn finish_frame(bytes: &mut [u8], start: usize) {
    let length = (bytes.len() - start - HEAD) as u64;
    bytes[start..start + HEAD].copy_from_slice(&length.to_le_bytes());
}

/// Begins a frame; [`finish_frame`] ends it.
pub(crate) fn begin_frame(bytes: &mut Vec<u8>) -> usize {
    bytes.extend_from_slice(&[0; HEAD]);
    bytes.len() - HEAD
}

/// The frames in some bytes, as far as they are whole.
pub(crate) struct Frames<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Frames<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_first_chunk()?;
        let (frame, rest) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*head)).ok()?)?;
        self.0 = rest;
        Some(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(parts: &[&[u8]]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for part in parts {
            let start = begin_frame(&mut bytes);
            bytes.extend_from_slice(part);
            finish_frame(&mut bytes, start);
        }
        bytes
    }

    #[test]
    fn frames_come_back_as_they_were() {
        let parts: [&[u8]; 3] = [b"one", b"", b"three"];
        assert_eq!(Frames(&framed(&parts)).collect::<Vec<_>>(), parts);
    }

    #[test]
    fn a_torn_frame_is_none() {
        let bytes = framed(&[b"one", b"three"]);
        for length in 0..bytes.len() {
            assert_eq!(Frames(&bytes[..length]).count(), usize::from(length >= 8 + 3));
        }
        assert_eq!(Frames(&[0xff; 40]).count(), 0);
    }
}
