//! Length-prefixed frames, as they lie in a ring and in the buffers that are copied to and from it.
//!
//! A frame is a header of 8 bytes (length and kind), its bytes, and padding to a multiple of 8.

use std::ops::Deref;

/// The size of a frame's header.
pub(crate) const HEADER_SIZE: u32 = 8;
pub(crate) const FRAME_HEADER: usize = HEADER_SIZE as usize;
/// The kind of a header without a frame: the next frame lies at the ring's first byte.
pub(crate) const SKIP: u32 = u32::MAX;

/// A cursor over frames.
#[derive(Debug, Default)]
pub(crate) struct Frames<B = Vec<u8>> {
    bytes: B,
    /// The offset of the first byte that lay at the ring's start. The bytes before it may end without a
    /// frame.
    wrapped_at: usize,
    consumed: usize,
}

impl<B: Deref<Target = [u8]>> Frames<B> {
    pub(crate) fn new(bytes: B) -> Self {
        Self { wrapped_at: bytes.len(), bytes, consumed: 0 }
    }

    /// Frames of a ring, of which those from the byte `wrapped_at` on lay at its start.
    pub(crate) fn split(bytes: B, wrapped_at: usize) -> Self {
        Self { wrapped_at: wrapped_at.min(bytes.len()), bytes, consumed: 0 }
    }

    /// The number of bytes that have been read.
    pub(crate) fn consumed(&self) -> usize {
        self.consumed
    }

    /// Goes back to where [`Frames::consumed`] was `consumed`.
    pub(crate) fn back_to(&mut self, consumed: usize) {
        self.consumed = consumed.min(self.consumed);
    }

    /// The kind and the bytes of the next frame.
    #[inline]
    pub(crate) fn next(&mut self) -> Option<(u32, &[u8])> {
        if self.consumed < self.wrapped_at {
            let before = &self.bytes[self.consumed..self.wrapped_at];
            match split_frame(before) {
                Some((kind, frame, rest)) if kind != SKIP => {
                    self.consumed += before.len() - rest.len();
                    return Some((kind, frame));
                }
                _ => self.consumed = self.wrapped_at,
            }
        }
        let after = &self.bytes[self.consumed..];
        let (kind, frame, rest) = split_frame(after)?;
        self.consumed += after.len() - rest.len();
        Some((kind, frame))
    }

    /// The next frames, `max` at most, while they have this kind and length and lie in one piece: their
    /// bytes, with their headers. They count as read.
    #[inline]
    pub(crate) fn next_if_same(&mut self, kind: u32, length: usize, max: u32) -> &[u8] {
        let end = if self.consumed < self.wrapped_at { self.wrapped_at } else { self.bytes.len() };
        let span = frame_size(as_u32(length)) as usize;
        let expected = encode_header(as_u32(length), kind);
        let rest = &self.bytes[self.consumed..end];
        let max = (rest.len() / span).min(max as usize);
        let is_other = |frame: &[u8]| frame[..FRAME_HEADER] != expected;
        let count = rest.chunks_exact(span).take(max).position(is_other).unwrap_or(max);
        self.consumed += count * span;
        &rest[..count * span]
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

/// The first frame (kind and bytes) and the bytes behind it.
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
