//! Length-prefixed frames, as they lie in a ring and in the buffers that are copied to and from it.
//!
//! A frame is a header of 8 bytes (length and kind), its bytes, and padding to a multiple of 8. Its bytes are
//! one value or message; those of an *array* are many values of one size, which its kind tells.

use std::ops::{Deref, Range};

/// The size of a frame's header.
pub(crate) const HEADER_SIZE: u32 = 8;
pub(crate) const FRAME_HEADER: usize = HEADER_SIZE as usize;
/// The kind of a header without a frame: the next frame lies at the ring's first byte.
pub(crate) const SKIP: u32 = u32::MAX;

/// The kind of a frame with a value, and of each value of an array.
pub(crate) const VALUE: u32 = 1;
/// The kind of an array, without the size of its values.
const ARRAY: u32 = 1 << 31;

/// The kind of an array of values of `size` bytes, which are 1 to 255.
pub(crate) const fn array_kind(size: u32) -> u32 {
    ARRAY | size
}

/// The size of the values of an array, in bytes; `None` for other kinds of frames.
#[inline]
pub(crate) const fn array_size(kind: u32) -> Option<usize> {
    let size = kind ^ ARRAY;
    if 0 < size && size < 256 { Some(size as usize) } else { None }
}

/// A cursor over frames.
#[derive(Debug, Default)]
pub(crate) struct Frames<B = Vec<u8>> {
    bytes: B,
    /// The offset of the first byte that lay at the ring's start. The bytes before it may end without a
    /// frame.
    wrapped_at: usize,
    consumed: usize,
    /// The values of the array that was found last, and the bytes of each.
    array: Range<usize>,
    size: usize,
}

impl<B: Deref<Target = [u8]>> Frames<B> {
    pub(crate) fn new(bytes: B) -> Self {
        let length = bytes.len();
        Self::split(bytes, length)
    }

    /// Frames of a ring, of which those from the byte `wrapped_at` on lay at its start.
    pub(crate) fn split(bytes: B, wrapped_at: usize) -> Self {
        Self { wrapped_at: wrapped_at.min(bytes.len()), bytes, consumed: 0, array: 0..0, size: 0 }
    }

    /// The number of bytes that have been read.
    pub(crate) fn consumed(&self) -> usize {
        self.consumed
    }

    /// Goes back to where [`Frames::consumed`] was `consumed`.
    pub(crate) fn back_to(&mut self, consumed: usize) {
        self.consumed = consumed.min(self.consumed);
    }

    /// The kind and the bytes of the next frame, or of the next value of an array.
    #[inline]
    pub(crate) fn next(&mut self) -> Option<(u32, &[u8])> {
        if self.is_in_array() || self.enter_array() {
            return Some((VALUE, self.take_from_array(1)));
        }
        let (start, kind, length) = self.peek()?;
        if array_size(kind).is_some() {
            return None;
        }
        let first = start + FRAME_HEADER;
        self.consumed = first + length.next_multiple_of(8);
        Some((kind, &self.bytes[first..first + length]))
    }

    /// The next values of `length` bytes, `max` at most, that lie in one piece: the bytes of an array and 0, or
    /// of frames and the length of a header. Then [pass](Self::pass_values) those that were used.
    #[inline]
    pub(crate) fn peek_values(&mut self, length: usize, max: u32) -> (&[u8], usize) {
        if self.is_in_array() || self.enter_array() {
            let max = if self.size == length { max as usize } else { 0 };
            let end = self.array.end.min(self.consumed.saturating_add(max.saturating_mul(length)));
            return (&self.bytes[self.consumed..end], 0);
        }
        let end = if self.consumed < self.wrapped_at { self.wrapped_at } else { self.bytes.len() };
        let span = frame_size(as_u32(length)) as usize;
        let expected = encode_header(as_u32(length), VALUE);
        let rest = &self.bytes[self.consumed..end];
        let max = (rest.len() / span).min(max as usize);
        let is_other = |frame: &[u8]| frame[..FRAME_HEADER] != expected;
        let count = rest.chunks_exact(span).take(max).position(is_other).unwrap_or(max);
        (&rest[..count * span], FRAME_HEADER)
    }

    /// Passes `count` values of `length` bytes.
    #[inline]
    pub(crate) fn pass_values(&mut self, length: usize, count: usize) {
        if self.is_in_array() {
            self.take_from_array(count);
        } else {
            self.consumed += count * frame_size(as_u32(length)) as usize;
        }
    }

    /// The offset, the kind and the length of the next frame.
    #[inline]
    fn peek(&self) -> Option<(usize, u32, usize)> {
        if self.consumed < self.wrapped_at
            && let Some((kind, frame, _)) = split_frame(&self.bytes[self.consumed..self.wrapped_at])
            && kind != SKIP
        {
            return Some((self.consumed, kind, frame.len()));
        }
        let start = self.consumed.max(self.wrapped_at);
        let (kind, frame, _) = split_frame(&self.bytes[start..])?;
        Some((start, kind, frame.len()))
    }

    #[inline]
    fn is_in_array(&self) -> bool {
        self.array.contains(&self.consumed)
    }

    /// Enters the next frame if it is a valid array.
    #[inline]
    fn enter_array(&mut self) -> bool {
        let Some((start, kind, length)) = self.peek() else { return false };
        let Some(size) = array_size(kind).filter(|&size| length > 0 && length.is_multiple_of(size)) else {
            return false;
        };
        self.consumed = start + FRAME_HEADER;
        (self.array, self.size) = (self.consumed..self.consumed + length, size);
        true
    }

    /// The next `max` values of the array at the cursor, or all that are left.
    #[inline]
    fn take_from_array(&mut self, max: usize) -> &[u8] {
        let start = self.consumed;
        let end = self.array.end.min(start.saturating_add(max.saturating_mul(self.size)));
        self.consumed = if end == self.array.end { end.next_multiple_of(8) } else { end };
        &self.bytes[start..end]
    }
}

/// Appends a frame.
#[inline]
pub(crate) fn add_frame(frames: &mut Vec<u8>, kind: u32, bytes: &[u8]) {
    if let Ok(bytes) = <[u8; 8]>::try_from(bytes) {
        let mut frame = [0; 16]; // the frequent case, in one piece
        frame[..8].copy_from_slice(&encode_header(8, kind));
        frame[8..].copy_from_slice(&bytes);
        return frames.extend_from_slice(&frame);
    }
    let start = begin_frame(frames);
    frames.extend_from_slice(bytes);
    end_frame(frames, start, kind);
}

/// Appends the header of a frame and returns its offset. The caller appends the bytes, then calls
/// [`end_frame`].
#[inline]
pub(crate) fn begin_frame(frames: &mut Vec<u8>) -> usize {
    let start = frames.len();
    frames.extend_from_slice(&[0; FRAME_HEADER]);
    start
}

/// Completes the frame at `start`. A length beyond `u32` becomes `u32::MAX`, for which no ring has room.
#[inline]
pub(crate) fn end_frame(frames: &mut Vec<u8>, start: usize, kind: u32) {
    let length = frames.len() - start - FRAME_HEADER;
    let header = encode_header(u32::try_from(length).unwrap_or(u32::MAX), kind);
    if let Some(bytes) = frames[start..].first_chunk_mut() {
        *bytes = header;
    }
    frames.resize(frames.len().next_multiple_of(8), 0);
}

/// The first frame (kind and bytes) and the bytes after it.
#[inline]
pub(crate) fn split_frame(frames: &[u8]) -> Option<(u32, &[u8], &[u8])> {
    let (header, rest) = frames.split_first_chunk()?;
    let (length, kind) = split_u64(u64::from_ne_bytes(*header));
    let length = length as usize;
    let frame = rest.get(..length)?;
    Some((kind, frame, rest.get(length.next_multiple_of(8)..)?))
}

/// The bytes that a frame of this length occupies.
#[inline]
pub(crate) const fn frame_size(length: u32) -> u32 {
    HEADER_SIZE + length.next_multiple_of(8)
}

#[inline]
pub(crate) fn encode_header(length: u32, kind: u32) -> [u8; FRAME_HEADER] {
    (u64::from(kind) << 32 | u64::from(length)).to_ne_bytes()
}

/// A length inside a ring, which is below 4 GiB.
#[inline]
#[allow(clippy::cast_possible_truncation)]
pub(crate) const fn as_u32(length: usize) -> u32 {
    length as u32
}

/// The low and the high half.
#[inline]
#[allow(clippy::cast_possible_truncation)] // on purpose
pub(crate) fn split_u64(word: u64) -> (u32, u32) {
    (word as u32, (word >> 32) as u32)
}

#[cfg(test)]
pub(crate) fn all<B: Deref<Target = [u8]>>(mut frames: Frames<B>) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    while let Some((_, frame)) = frames.next() {
        all.push(frame.to_vec());
    }
    all
}
