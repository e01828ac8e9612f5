//! Items that go to a worker together.

use std::sync::Arc;

use super::call::{Call, Parcel};
use super::protocol::{Frames, HEAD, begin_frame, finish_frame};
use crate::error::{Error, Result};
use crate::link::{INLINE, Message};
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

impl Chunk {
    /// Gives every item the same error.
    pub(crate) fn lose(&self, error: &Error) {
        self.call.deliver(Parcel::Lost { first: self.first, count: self.count, error: error.clone() });
    }

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
        let start = begin_frame(&mut self.bytes);
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
    /// large that it goes alone; and then the system may refuse the memory for it, which is that item's error.
    pub(crate) fn pack(self, call: &Arc<Call>, first: u64) -> (Vec<Chunk>, Option<Error>) {
        let Self { bytes: mut last, descriptors, count } = self;
        let chunk =
            |first, count, message| Chunk { call: Arc::clone(call), first, count, attempts: 0, message };
        let mut chunks = Vec::new();
        let mut before = 0;
        if count > 1 && (last.len() > INLINE || !descriptors.is_empty()) {
            before = count - 1;
            let end: usize = Frames(&last).take(before as usize).map(|frame| HEAD + frame.len()).sum();
            let alone = last.split_off(end);
            chunks.push(chunk(first, before, Message::inline(std::mem::replace(&mut last, alone))));
        }
        match Message::new(last, descriptors) {
            Ok(message) => chunks.push(chunk(first + u64::from(before), count - before, message)),
            Err(error) => return (chunks, Some(error)),
        }
        (chunks, None)
    }
}
