//! A batch: messages that are sent together, or were received together, as one run of frames.
//!
//! Only its last message can have descriptors: such a message completes the batch.

use std::ops::Range;

use crate::channel::Message;
use crate::codec::raw;
use crate::error::Result;
use crate::ipc::frame::{FRAME_HEADER, Frames, add_frame, begin_frame, end_frame};
use crate::ipc::wire::{self, SharedFd, Transferable};

/// Messages, encoded as frames, so that they are copied into a ring at once.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    frames: Vec<u8>,
    count: u32,
    /// The bytes of the last message in `frames`. Only the last message can be too long for a frame.
    last: Range<usize>,
    /// The descriptors of the last message.
    descriptors: Vec<SharedFd>,
}

/// The kind of a frame that is a message and nothing else.
pub(crate) const PLAIN: u32 = 0;

/// A batch of this many messages, or of this many bytes, is complete.
const MAX_ITEMS: u32 = 1024;
const MAX_BYTES: usize = 64 * 1024;

impl Batch {
    /// Adds an item. After an error the batch is as before.
    #[inline]
    pub(crate) fn push<T: Transferable>(&mut self, item: &T) -> Result<()> {
        match raw::as_bytes(item) {
            Some(bytes) => self.add(bytes),
            None => self.encode(item)?,
        }
        Ok(())
    }

    /// Adds a message.
    #[inline]
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        let start = self.frames.len() + FRAME_HEADER;
        add_frame(&mut self.frames, PLAIN, bytes);
        self.last = start..start + bytes.len();
        self.count += 1;
    }

    fn encode<T: Transferable>(&mut self, item: &T) -> Result<()> {
        let frame = begin_frame(&mut self.frames);
        match wire::encode_with_descriptors(item, &mut self.frames, "an item") {
            Ok(descriptors) => self.descriptors = descriptors,
            Err(error) => {
                self.frames.truncate(frame);
                return Err(error);
            }
        }
        self.last = frame + FRAME_HEADER..self.frames.len();
        end_frame(&mut self.frames, frame, PLAIN);
        self.count += 1;
        Ok(())
    }

    /// Whether the batch must be sent before more is added.
    #[inline]
    pub(crate) fn is_complete(&self) -> bool {
        self.count >= MAX_ITEMS || self.frames.len() >= MAX_BYTES || !self.descriptors.is_empty()
    }

    /// The frames of all messages but the last, their number, and the last message.
    pub(crate) fn split_last(&self) -> Option<(&[u8], u32, Message<'_>)> {
        let before = self.count.checked_sub(1)?;
        let last = Message { bytes: &self.frames[self.last.clone()], descriptors: &self.descriptors };
        Some((&self.frames[..self.last.start - FRAME_HEADER], before, last))
    }

    pub(crate) fn clear(&mut self) {
        self.frames.clear();
        self.count = 0;
        self.descriptors.clear();
    }

    /// Maps the messages, in the order in which they were [added](Self::add).
    pub(crate) fn map<R>(&self, mut convert: impl FnMut(&[u8]) -> R) -> Vec<R> {
        let mut frames = Frames::new(&self.frames[..]);
        std::iter::from_fn(|| frames.next().map(|(_, bytes)| convert(bytes))).collect()
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    #[test]
    fn the_last_message_is_split_off() {
        let mut batch = Batch::default();
        assert!(batch.split_last().is_none());
        for text in ["one", "two", "three"] {
            batch.push(&Some(text.to_owned())).unwrap();
        }
        let (before, count, last) = batch.split_last().unwrap();
        assert_eq!((crate::ipc::frame::all(Frames::new(before)).len(), count), (2, 2));
        let mut alone = Vec::new();
        wire::encode(&Some("three".to_owned()), &mut alone, "an item").unwrap();
        assert_eq!(last.bytes, alone);
        assert_eq!(batch.map(<[u8]>::len).len(), 3);
        batch.clear();
        batch.push(&7_u64).unwrap();
        let (before, count, last) = batch.split_last().unwrap();
        assert_eq!((before, count, last.bytes), (&[][..], 0, &7_u64.to_ne_bytes()[..]));
    }

    #[test]
    fn a_batch_is_complete_by_items_or_by_bytes() {
        let mut batch = Batch::default();
        for _ in 0..MAX_ITEMS {
            assert!(!batch.is_complete());
            batch.push(&1_u64).unwrap();
        }
        assert!(batch.is_complete());
        batch.clear();
        batch.add(&vec![1; MAX_BYTES]);
        assert!(batch.is_complete());
    }
}
