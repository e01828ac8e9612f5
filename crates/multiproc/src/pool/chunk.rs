//! Chunks: consecutive items of a call, encoded for dispatch.

use std::sync::Arc;

use super::call::{Call, TaskHeader};
use super::result_batch::ResultBatch;
use crate::codec::raw;
use crate::error::{Error, Result};
use crate::ipc::frame::{FRAME_HEADER, Frames, add_frame, as_u32, begin_frame, end_frame, split_frame};
use crate::ipc::packet::{MAX_INLINE, Message};
use crate::ipc::ring::array::MAX_ARRAY;
use crate::ipc::wire::{self, SegmentList, Segments, SharedFd, Transferable};
use crate::pool::worker_rings::VALUE;

/// Consecutive items of one call.
pub(crate) struct Chunk {
    pub(crate) call: Arc<Call>,
    /// The input index of its first item.
    pub(crate) first: u64,
    pub(crate) count: u32,
    /// The deaths of workers that ran them before.
    pub(crate) deaths: Vec<Error>,
    /// Its [sort key](Call::sort_key), once it is submitted.
    pub(crate) sort_key: i64,
    /// What its items name.
    pub(crate) segments: Segments,
    pub(crate) body: Body,
}

pub(crate) enum Body {
    /// A frame for each item, ready for the ring, from byte `start` on.
    Frames { bytes: Vec<u8>, start: usize },
    /// Values of `size` bytes for arrays in the ring, from byte `start` on.
    Values { bytes: Vec<u8>, start: usize, size: u32 },
    /// One out-of-line item: it is large or holds descriptors.
    OutOfLine(Box<Message>),
}

/// The maximum bytes of a chunk, so that several fit into a ring.
pub(crate) const MAX_CHUNK_BYTES: usize = 64 * 1024;

impl Chunk {
    pub(super) fn new(call: &Arc<Call>, first: u64, count: u32, segments: Segments, body: Body) -> Self {
        Self { call: Arc::clone(call), first, count, deaths: Vec::new(), sort_key: 0, segments, body }
    }

    /// All items of an input, and their number. Chunks are as large as can be: the scheduler dispatches parts of them.
    pub(crate) fn all_of<T: Transferable>(
        call: &Arc<Call>,
        mut input: impl Iterator<Item = T>,
    ) -> Result<(Vec<Self>, u64)> {
        let (mut chunks, mut count, mut bytes) = (Vec::new(), 0, 0);
        loop {
            let mut builder = ChunkBuilder::new(bytes);
            let left = input.size_hint().1.and_then(|left| u32::try_from(left).ok());
            let filled = builder.fill(&mut input, left.unwrap_or(u32::MAX).max(1));
            let first = count;
            count += u64::from(builder.count());
            bytes = builder.bytes();
            chunks.extend(builder.pack(call, first));
            match filled {
                Filled::Full => {}
                Filled::InputEnded => return Ok((chunks, count)),
                Filled::Failed(error) => return Err(error.with_index(Some(count))),
            }
        }
    }

    /// The header for its items.
    pub(crate) fn header(&self) -> TaskHeader {
        TaskHeader { first: self.call.header.first.at(self.first), ..self.call.header }
    }

    /// The bytes of each item, if they are values of arrays, else 0.
    #[inline]
    pub(crate) fn value_size(&self) -> u32 {
        if let Body::Values { size, .. } = self.body { size } else { 0 }
    }

    /// Fails every item with `error`.
    pub(crate) fn fail(&self, error: &Error) {
        let error = error.clone().with_attempts(&self.deaths);
        self.call.deliver(ResultBatch::Lost { first: self.first, count: self.count, error });
    }

    /// Whether it keeps more open than memory.
    pub(crate) fn holds_descriptors(&self) -> bool {
        matches!(&self.body, Body::OutOfLine(message) if message.holds_descriptors())
    }

    /// Drops what holds descriptors. The chunk is withdrawn, so nothing else is done with it.
    pub(crate) fn close_descriptors(&mut self) {
        if self.holds_descriptors() {
            self.body = Body::Frames { bytes: Vec::new(), start: 0 };
        }
    }

    /// The bytes of its first frame in a ring, at most.
    pub(crate) fn first_frame_len(&self) -> usize {
        match &self.body {
            Body::Frames { bytes, start } => {
                let first = bytes.get(*start..).and_then(split_frame);
                first.map_or(0, |(_, frame, _)| frame.len())
            }
            Body::Values { bytes, start, .. } => bytes.len().saturating_sub(*start).min(MAX_ARRAY as usize),
            Body::OutOfLine(_) => size_of::<u32>(), // the number of its message
        }
    }

    /// The frames, or the values, of up to `most` items, and their number.
    pub(crate) fn front(&self, most: u32) -> (&[u8], u32) {
        let (bytes, start) = match &self.body {
            Body::Frames { bytes, start } => (bytes, start),
            Body::Values { bytes, start, size } => {
                let (count, length) = (most.min(self.count), (most.min(self.count) * size) as usize);
                return (bytes.get(*start..start + length).unwrap_or_default(), count);
            }
            Body::OutOfLine(_) => return (&[], 0),
        };
        let frames = bytes.get(*start..).unwrap_or_default();
        if most >= self.count {
            return (frames, self.count);
        }
        let mut front = Frames::new(frames);
        for _ in 0..most {
            front.next();
        }
        (&frames[..front.consumed()], most)
    }

    /// Drops the first `count` items, which have `length` bytes.
    pub(crate) fn advance(&mut self, count: u32, length: usize) {
        self.first += u64::from(count);
        self.count -= count;
        if let Body::Frames { start, .. } | Body::Values { start, .. } = &mut self.body {
            *start += length;
        }
    }
}

/// Builds a chunk.
pub(crate) struct ChunkBuilder {
    frames: Vec<u8>,
    /// The end of the last whole frame. An item that panicked while it was encoded may have left bytes after
    /// it.
    end: usize,
    /// The number of whole frames.
    count: u32,
    /// The size in bytes of each item, if all are values for arrays, else 0. `frames` then holds only values.
    size: u32,
    segments: SegmentList,
    /// The last item has added the last memory for which there was room, and is not the only item.
    has_filled_segments: bool,
    /// The last item, if it is out of line.
    out_of_line: Option<Box<Message>>,
    /// Whether that may name segments.
    out_of_line_names: bool,
}

/// How [`ChunkBuilder::fill`] ended.
pub(crate) enum Filled {
    /// The chunk has as many items as it should, or can hold.
    Full,
    InputEnded,
    /// The last item of the input cannot be encoded.
    Failed(Error),
}

impl ChunkBuilder {
    /// With a capacity of `bytes`.
    pub(crate) fn new(bytes: usize) -> Self {
        let (frames, segments) = (Vec::with_capacity(bytes), SegmentList::default());
        Self {
            frames,
            end: 0,
            count: 0,
            size: 0,
            segments,
            has_filled_segments: false,
            out_of_line: None,
            out_of_line_names: false,
        }
    }

    /// The bytes so far.
    pub(crate) fn bytes(&self) -> usize {
        self.frames.len()
    }

    /// The bytes so far, also of an item that is out of line.
    pub(crate) fn encoded_bytes(&self) -> usize {
        self.frames.len() + self.out_of_line.as_ref().map_or(0, |message| message.length())
    }

    #[inline]
    pub(crate) fn count(&self) -> u32 {
        self.count_in_line() + u32::from(self.out_of_line.is_some())
    }

    #[inline]
    fn count_in_line(&self) -> u32 {
        as_u32(self.frames.len()).checked_div(self.size).unwrap_or(self.count)
    }

    /// Adds the next items of the input while there are fewer than `count`, it has more, and they fit; stops
    /// after one that cannot be encoded, and returns how that went. If the input panics, the items before stay.
    #[inline]
    pub(crate) fn fill<T: Transferable>(
        &mut self,
        input: &mut impl Iterator<Item = T>,
        count: u32,
    ) -> Filled {
        if let Some(size) = raw::fixed_size::<T>().filter(|&size| size > 0) {
            return self.fill_with_values(input, count, size);
        }
        while self.count() < count && !self.is_full() {
            let Some(item) = input.next() else { return Filled::InputEnded };
            if let Err(error) = self.add(&item) {
                return Filled::Failed(error);
            }
        }
        Filled::Full
    }

    /// Encoding a raw value takes a nanosecond, so no clock is read for it.
    fn fill_with_values<T: Transferable>(
        &mut self,
        input: &mut impl Iterator<Item = T>,
        count: u32,
        size: usize,
    ) -> Filled {
        self.size = as_u32(size);
        let fit = MAX_CHUNK_BYTES.saturating_sub(self.frames.len()).div_ceil(size);
        let count = fit.min(count.saturating_sub(self.count_in_line()) as usize);
        self.frames.reserve(count * size);
        for _ in 0..count {
            let Some(item) = input.next() else { return Filled::InputEnded };
            self.frames.extend_from_slice(raw::as_bytes(&item).unwrap_or_default());
        }
        Filled::Full
    }

    /// Adds an item; adds nothing on an error.
    #[inline]
    pub(crate) fn add<T: Transferable>(&mut self, item: &T) -> Result<()> {
        match raw::as_bytes(item) {
            Some(bytes) if raw::fixed_size::<T>().is_some_and(|size| size > 0) => {
                self.frames.extend_from_slice(bytes);
                self.size = as_u32(bytes.len());
                Ok(())
            }
            Some(bytes) if bytes.len() <= MAX_INLINE => {
                add_frame(&mut self.frames, VALUE, bytes);
                self.end = self.frames.len();
                self.count += 1;
                Ok(())
            }
            Some(bytes) => {
                self.out_of_line = Some(Box::new(Message::copy(bytes, Vec::new())?));
                Ok(())
            }
            None => {
                self.add_encoded(|out, segments| wire::encode_naming(item, out, segments, "the arguments"))
            }
        }
    }

    fn add_encoded(
        &mut self,
        encode: impl FnOnce(&mut Vec<u8>, &mut SegmentList) -> Result<Vec<SharedFd>>,
    ) -> Result<()> {
        let start = begin_frame(&mut self.frames);
        let was_full = self.segments.is_full();
        match encode(&mut self.frames, &mut self.segments) {
            Ok(descriptors) if descriptors.is_empty() && self.frames.len() - start <= MAX_INLINE => {
                self.has_filled_segments = self.count > 0 && !was_full && self.segments.is_full();
                end_frame(&mut self.frames, start, VALUE);
                self.end = self.frames.len();
                self.count += 1;
                Ok(())
            }
            encoded => {
                let bytes = self.frames.get(start + FRAME_HEADER..).unwrap_or_default();
                self.out_of_line_names = wire::has_attachments(bytes);
                let message = encoded.and_then(|descriptors| Message::copy(bytes, descriptors));
                self.frames.truncate(start);
                self.frames.shrink_to(MAX_CHUNK_BYTES); // the items before it may wait for long
                self.out_of_line = Some(Box::new(message?));
                Ok(())
            }
        }
    }

    /// Whether it should take no more items.
    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        self.frames.len() >= MAX_CHUNK_BYTES || self.out_of_line.is_some() || self.has_filled_segments
    }

    /// The chunks; `first` is the input index of the first item. There are two if the last item is out of
    /// line.
    #[inline]
    pub(crate) fn pack(mut self, call: &Arc<Call>, first: u64) -> impl Iterator<Item = Chunk> {
        let count = self.count_in_line();
        if self.size == 0 {
            self.frames.truncate(self.end);
        }
        let body = match self.size {
            0 => Body::Frames { bytes: self.frames, start: 0 },
            size => Body::Values { bytes: self.frames, start: 0, size },
        };
        let segments = Segments::from(self.segments);
        let of_last = if self.out_of_line_names { segments.clone() } else { Segments::NONE };
        let in_line = (count > 0).then(|| Chunk::new(call, first, count, segments, body));
        let last = self.out_of_line.map(move |message| {
            Chunk::new(call, first + u64::from(count), 1, of_last, Body::OutOfLine(message))
        });
        in_line.into_iter().chain(last)
    }
}
