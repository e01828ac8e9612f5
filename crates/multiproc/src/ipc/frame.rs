//! Frames one behind the other: as they lie in a ring, and on their way into it and out of it.
//!
//! A frame is a head of eight bytes, which says how long it is and what, its bytes, and as many more as make it a
//! multiple of eight.

use std::ops::Deref;

/// What stands in front of a frame's bytes: their number, and what they are.
pub(crate) const HEAD: u32 = 8;
pub(crate) const FRAME_HEAD: usize = HEAD as usize;
/// No frame: what is left of the ring is empty, and the next frame is at its start.
pub(crate) const SKIP: u32 = u32::MAX;

/// Frames that are read one after the other.
#[derive(Debug, Default)]
pub(crate) struct Frames<B = Vec<u8>> {
    bytes: B,
    /// Where the bytes begin that lay at a ring's start; before that, it may have a rest without frames.
    seam: usize,
    passed: usize,
}

impl<B: Deref<Target = [u8]>> Frames<B> {
    pub(crate) fn frame_size(bytes: B) -> Self {
        Self { seam: bytes.len(), bytes, passed: 0 }
    }

    /// Frames that lay in a ring, those from the byte `seam` on at its start.
    pub(crate) fn split(bytes: B, seam: usize) -> Self {
        Self { seam: seam.min(bytes.len()), bytes, passed: 0 }
    }

    /// The bytes of the frames that were read.
    pub(crate) fn consumed(&self) -> usize {
        self.passed
    }

    /// Goes back to where [`Frames::passed`] was so many bytes.
    pub(crate) fn back_to(&mut self, passed: usize) {
        self.passed = passed.min(self.passed);
    }

    /// What the next frame is, and its bytes.
    #[inline]
    pub(crate) fn next(&mut self) -> Option<(u32, &[u8])> {
        if self.passed < self.seam {
            let before = &self.bytes[self.passed..self.seam];
            match split_frame(before) {
                Some((kind, frame, rest)) if kind != SKIP => {
                    self.passed += before.len() - rest.len();
                    return Some((kind, frame));
                }
                _ => self.passed = self.seam,
            }
        }
        let after = &self.bytes[self.passed..];
        let (kind, frame, rest) = split_frame(after)?;
        self.passed += after.len() - rest.len();
        Some((kind, frame))
    }

    /// Gives the bytes of up to `most` frames, as long as they are of this kind and length and are taken; says how many
    /// these were.
    #[inline]
    pub(crate) fn next_like(
        &mut self,
        kind: u32,
        length: usize,
        most: u32,
        mut give: impl FnMut(&[u8]) -> bool,
    ) -> u32 {
        let end = if self.passed < self.seam { self.seam } else { self.bytes.len() };
        let span = footprint(narrow(length)) as usize;
        let expected = head(narrow(length), kind);
        let mut count = 0;
        for frame in self.bytes[self.passed..end].chunks_exact(span).take(most as usize) {
            if frame[..FRAME_HEAD] != expected || !give(&frame[FRAME_HEAD..FRAME_HEAD + length]) {
                break;
            }
            count += 1;
        }
        self.passed += count as usize * span;
        count
    }
}

/// Adds a frame to a vector of frames.
#[inline]
pub(crate) fn add_frame(frames: &mut Vec<u8>, kind: u32, bytes: &[u8]) {
    if let Ok(bytes) = <[u8; 8]>::try_from(bytes) {
        let mut frame = [0; 16]; // the frequent case, in one piece
        frame[..8].copy_from_slice(&head(8, kind));
        frame[8..].copy_from_slice(&bytes);
        return frames.extend_from_slice(&frame);
    }
    let start = begin_frame(frames);
    frames.extend_from_slice(bytes);
    end_frame(frames, start, kind);
}

/// Begins a frame in a vector of frames; its bytes follow, and [`end_frame`].
#[inline]
pub(crate) fn begin_frame(frames: &mut Vec<u8>) -> usize {
    let start = frames.len();
    frames.extend_from_slice(&[0; FRAME_HEAD]);
    start
}

/// Ends the frame that begins at `start`. One too long for a ring gets a length that no ring has room for.
#[inline]
pub(crate) fn end_frame(frames: &mut Vec<u8>, start: usize, kind: u32) {
    let length = frames.len() - start - FRAME_HEAD;
    let head = head(u32::try_from(length).unwrap_or(u32::MAX), kind);
    if let Some(place) = frames[start..].first_chunk_mut() {
        *place = head;
    }
    frames.resize(frames.len().next_multiple_of(8), 0);
}

/// The first of some frames, and what is behind it.
#[inline]
pub(crate) fn split_frame(frames: &[u8]) -> Option<(u32, &[u8], &[u8])> {
    let (head, rest) = frames.split_first_chunk()?;
    let (length, kind) = split_u64(u64::from_ne_bytes(*head));
    let length = length as usize;
    let frame = rest.get(..length)?;
    Some((kind, frame, rest.get(length.next_multiple_of(8)..)?))
}

/// How many bytes a frame takes up.
#[inline]
pub(crate) const fn footprint(length: u32) -> u32 {
    HEAD + length.next_multiple_of(8)
}

#[inline]
pub(crate) fn head(length: u32, kind: u32) -> [u8; FRAME_HEAD] {
    (u64::from(kind) << 32 | u64::from(length)).to_ne_bytes()
}

/// The length of something in a ring, which is below 4 GiB.
#[inline]
#[allow(clippy::cast_possible_truncation)]
pub(crate) const fn narrow(length: usize) -> u32 {
    length as u32
}

/// The low one and the high one.
#[inline]
#[allow(clippy::cast_possible_truncation)] // that is the purpose
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
