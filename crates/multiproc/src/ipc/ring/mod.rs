//! A single-producer single-consumer (SPSC) ring buffer of frames in shared memory.
//!
//! Where there are several writers or readers, a lock admits one at a time. Each side stores its [`Position`]
//! where the other can load it. A frame is written first and made visible afterwards with one store, so a
//! process killed at any instruction leaves a whole frame or none. The writer overwrites a frame only after
//! the reader has stored a position past it.
//!
//! A frame lies in one piece: a rest of the ring that is too short for the next frame is skipped.

// Inlined, a frame whose length is a constant compiles to two moves; otherwise to calls of `memcpy`.
#![allow(clippy::inline_always)]

pub(crate) mod array;

use crate::ipc::frame::{
    Frames, HEADER_SIZE, SKIP, as_u32, encode_header, frame_size, split_frame, split_u64,
};
use crate::sys::atomic::{Acquire, AtomicU64, Release};
use crate::sys::failpoint::{self, Failpoint};
use crate::sys::memfd::WORTH_CHECKING;

/// Memory that several processes may map.
pub(crate) trait Memory {
    /// Copies bytes to an offset that no process reads at the same time.
    fn write(&self, offset: usize, bytes: &[u8]);
    /// Calls `read` with bytes that no process writes at the same time.
    fn read<R>(&self, offset: usize, length: usize, read: impl FnOnce(&[u8]) -> R) -> R;
    /// Loads and stores the word at an offset, a multiple of 8, which another process may store or load at the
    /// same time.
    fn load_word(&self, offset: usize) -> u64 {
        self.read(offset, 8, |bytes| bytes.first_chunk().copied().map_or(0, u64::from_ne_bytes))
    }
    fn store_word(&self, offset: usize, word: u64) {
        self.write(offset, &word.to_ne_bytes());
    }
    /// Prefetches the cache line at an offset.
    fn prefetch(&self, _offset: usize) {}
    /// Whether there is as much memory as `length` bytes take.
    fn has_memory(&self, _length: usize) -> bool {
        true
    }
}

/// A range of shared memory used as a ring. The positions are kept elsewhere.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ring {
    start: usize,
    size: u32,
    /// An empty ring restarts at its first byte once the positions are this many bytes past it.
    restart_after: u32,
    /// The bytes before the reader's position that are not overwritten.
    kept: u32,
}

/// A count of frames and of bytes that a side has written or read. Both counts wrap around; together they
/// fill one word, so one store makes them visible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) frames: u32,
    pub(crate) bytes: u32,
}

/// The kind of a frame, and where its bytes are in the memory.
pub(crate) struct Frame {
    pub(crate) kind: u32,
    pub(crate) offset: usize,
    pub(crate) length: usize,
}

/// The bytes that a mostly empty ring uses which [restarts early](Ring::restarting_early): few enough to stay
/// in the CPU's cache.
const CACHE_WINDOW: u32 = 16 * 1024;

impl Ring {
    /// A ring of `size` bytes, a power of two, at the offset `start`, a multiple of 8.
    ///
    /// The writer restarts at the first byte when the ring is empty and it stands in the second half, so a
    /// mostly empty ring uses half of its memory. The bytes that it skips count as occupied until the reader
    /// has passed them, so half of the ring has room for frames even if the reader never reads.
    pub(crate) const fn new(start: usize, size: u32) -> Self {
        assert!(size.is_power_of_two() && size >= 2 * HEADER_SIZE && start.is_multiple_of(8));
        Self { start, size, restart_after: size / 2, kept: 0 }
    }

    /// The same ring, but it already restarts after [`CACHE_WINDOW`] bytes: for a reader that surely goes on
    /// reading.
    pub(crate) const fn restarting_early(self) -> Self {
        let half = self.restart_after;
        Self { restart_after: if half < CACHE_WINDOW { half } else { CACHE_WINDOW }, ..self }
    }

    /// The same ring, but the frame before the reader's position stays, of up to `length` bytes.
    pub(crate) const fn keeping_last(self, length: u32) -> Self {
        Self { kept: frame_size(length), ..self }
    }

    /// The same ring, but it never restarts before its end.
    pub(crate) const fn without_restart(self) -> Self {
        Self { restart_after: u32::MAX, ..self }
    }

    /// The bytes after `tail` up to the end of a frame of `length` bytes. If it does not fit in front of the end of the
    /// ring's memory, it begins behind that. `u32::MAX` if it fits nowhere.
    pub(crate) fn reach(&self, tail: u32, length: usize) -> u32 {
        if length > self.largest() {
            return u32::MAX;
        }
        let (frame, to_end) = (frame_size(as_u32(length)), self.size - self.within(tail));
        if frame <= to_end { frame } else { to_end + frame }
    }

    /// The ranges of memory between two positions in bytes: up to the end of the ring's memory, and the rest.
    pub(crate) fn ranges(&self, from: u32, to: u32) -> [(usize, usize); 2] {
        let length = to.wrapping_sub(from).min(self.size);
        let to_end = length.min(self.size - self.within(from));
        [(self.offset(from), to_end as usize), (self.start, (length - to_end) as usize)]
    }

    /// The length of the largest frame that always fits into an empty ring.
    pub(crate) const fn largest(&self) -> usize {
        (self.size / 2 - HEADER_SIZE) as usize
    }

    /// Writes a frame at `tail` and advances `tail`; the caller stores it. Returns `false` without room.
    /// `taken` is the reader's position in bytes.
    #[inline(always)]
    pub(crate) fn put(
        &self,
        memory: &impl Memory,
        tail: &mut Position,
        taken: u32,
        kind: u32,
        parts: &[&[u8]],
    ) -> bool {
        self.put_in_room(memory, tail, taken, kind, parts, 0)
    }

    /// As [`put`](Self::put), but only if a frame of `next` bytes fits after it, too.
    ///
    /// An empty ring has room for both. Without this, the first frame may restart an empty ring, and what it skips then
    /// counts as occupied: the second might not fit, and would not fit later either.
    pub(crate) fn put_before(
        &self,
        memory: &impl Memory,
        tail: &mut Position,
        taken: u32,
        kind: u32,
        bytes: &[u8],
        next: usize,
    ) -> bool {
        next <= self.largest()
            && self.put_in_room(memory, tail, taken, kind, &[bytes], frame_size(as_u32(next)))
    }

    /// Writes a frame where `reserve` more bytes fit after it.
    #[inline(always)]
    fn put_in_room(
        &self,
        memory: &impl Memory,
        tail: &mut Position,
        taken: u32,
        kind: u32,
        parts: &[&[u8]],
        reserve: u32,
    ) -> bool {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        if length > self.largest() {
            return false;
        }
        let length = as_u32(length);
        let Some(start) = self.find_slot(tail.bytes, taken, frame_size(length) + reserve) else {
            return false;
        };
        if start != tail.bytes {
            memory.write(self.offset(tail.bytes), &encode_header(0, SKIP));
        }
        let mut offset = self.offset(start);
        memory.write(offset, &encode_header(length, kind));
        failpoint::hit(Failpoint::MidFrame);
        offset += HEADER_SIZE as usize;
        for part in parts {
            memory.write(offset, part);
            offset += part.len();
        }
        *tail = Position { bytes: start, ..*tail }.after(length);
        true
    }

    /// Writes as many of these [`frames`](crate::ipc::frame) at `tail` as fit. Returns the others.
    pub(crate) fn put_frames<'a>(
        &self,
        memory: &impl Memory,
        tail: &mut Position,
        taken: u32,
        mut frames: &'a [u8],
        count: u32,
    ) -> &'a [u8] {
        let length = u32::try_from(frames.len()).unwrap_or(u32::MAX);
        if length <= self.size - tail.bytes % self.size && length <= self.free(tail.bytes, taken) {
            memory.write(self.offset(tail.bytes), frames);
            *tail =
                Position { frames: tail.frames.wrapping_add(count), bytes: tail.bytes.wrapping_add(length) };
            return &[];
        }
        while let Some((kind, frame, rest)) = split_frame(frames) {
            if !self.put(memory, tail, taken, kind, &[frame]) {
                break;
            }
            frames = rest;
        }
        frames
    }

    /// Copies all frames between two positions.
    pub(crate) fn copy_frames(&self, memory: &impl Memory, mut head: Position, tail: Position) -> Frames {
        if head.bytes != tail.bytes && self.read_header(memory, head.bytes).1 == SKIP {
            head.bytes = self.next_start(head.bytes);
        }
        let length = tail.bytes.wrapping_sub(head.bytes).min(self.size) as usize;
        let to_end = (self.size - head.bytes % self.size) as usize;
        let mut bytes = Vec::with_capacity(length);
        memory.read(self.offset(head.bytes), length.min(to_end), |piece| bytes.extend_from_slice(piece));
        memory.read(self.start, length.saturating_sub(to_end), |piece| bytes.extend_from_slice(piece));
        Frames::split(bytes, to_end)
    }

    /// Whether the positions are consistent: the ring can hold as many frames and bytes between them.
    #[inline]
    pub(crate) fn can_hold(&self, head: Position, tail: Position) -> bool {
        let bytes = tail.bytes.wrapping_sub(head.bytes);
        self.can_hold_values(head, tail) && tail.frames_since(head) <= bytes / HEADER_SIZE
    }

    /// As [`can_hold`](Self::can_hold), where each value of an array counts as a frame.
    #[inline]
    pub(crate) fn can_hold_values(&self, head: Position, tail: Position) -> bool {
        let (frames, bytes) = (tail.frames_since(head), tail.bytes.wrapping_sub(head.bytes));
        bytes <= self.size && frames <= bytes && (frames > 0 || bytes == 0)
    }

    /// Calls `read` with the visible frame at `head` and advances `head`; the caller stores that.
    ///
    /// Returns `None` if there is no valid frame, or it reaches beyond the byte `end`: another process has overwritten
    /// the ring.
    #[inline(always)]
    pub(crate) fn take_before<R>(
        &self,
        memory: &impl Memory,
        head: &mut Position,
        end: u32,
        read: impl FnOnce(u32, &[u8]) -> R,
    ) -> Option<R> {
        let Frame { kind, offset, length } = self.skip(memory, head, end)?;
        Some(memory.read(offset, length, |bytes| read(kind, bytes)))
    }

    /// Advances `head` past the visible frame there, and returns where its bytes are; `None` as for
    /// [`take_before`](Self::take_before).
    #[inline(always)]
    pub(crate) fn skip(&self, memory: &impl Memory, head: &mut Position, end: u32) -> Option<Frame> {
        let mut start = head.bytes;
        let (mut length, mut kind) = self.read_header(memory, start);
        if kind == SKIP {
            start = self.next_start(start);
            (length, kind) = self.read_header(memory, start);
        }
        let offset = self.offset(start);
        if length > self.size - HEADER_SIZE
            || offset - self.start > (self.size - HEADER_SIZE - length) as usize
        {
            return None;
        }
        let next = Position { bytes: start, ..*head }.after(length);
        if next.bytes.wrapping_sub(head.bytes) > end.wrapping_sub(head.bytes) {
            return None;
        }
        let (offset, length) = (offset + HEADER_SIZE as usize, length as usize);
        if length >= WORTH_CHECKING && !memory.has_memory(length) {
            return None;
        }
        *head = next;
        Some(Frame { kind, offset, length })
    }

    /// Prefetches the frame at `head`. Called while the reader waits, so that the frame's first cache line
    /// travels together with the writer's position.
    #[inline(always)]
    pub(crate) fn prefetch(&self, memory: &impl Memory, head: Position) {
        memory.prefetch(self.offset(head.bytes));
    }

    /// The kind of the visible frame at `head`.
    #[inline(always)]
    pub(crate) fn kind(&self, memory: &impl Memory, head: Position) -> u32 {
        match self.read_header(memory, head.bytes).1 {
            SKIP => self.read_header(memory, self.next_start(head.bytes)).1,
            kind => kind,
        }
    }

    /// The position of `length` bytes in one piece, if there is room: at `tail`, or at the ring's start.
    #[inline(always)]
    fn find_slot(&self, tail: u32, taken: u32, length: u32) -> Option<u32> {
        let free = self.free(tail, taken);
        let to_end = self.size - self.within(tail);
        let restart = tail == taken && self.size - to_end >= self.kept + self.restart_after.max(length);
        if length <= to_end && !restart {
            (length <= free).then_some(tail)
        } else {
            (free >= to_end && length <= free - to_end).then(|| self.next_start(tail))
        }
    }

    /// The number of free bytes; 0 if `taken` is invalid.
    #[inline(always)]
    fn free(&self, tail: u32, taken: u32) -> u32 {
        self.size.saturating_sub(tail.wrapping_sub(taken)).saturating_sub(self.kept)
    }

    fn next_start(&self, position: u32) -> u32 {
        position.wrapping_add(self.size - self.within(position))
    }

    #[inline]
    fn within(&self, position: u32) -> u32 {
        position & (self.size - 1)
    }

    #[inline(always)]
    fn offset(&self, position: u32) -> usize {
        self.start + self.within(position) as usize
    }

    #[inline(always)]
    fn read_header(&self, memory: &impl Memory, position: u32) -> (u32, u32) {
        memory.read(self.offset(position), HEADER_SIZE as usize, |bytes| {
            split_u64(bytes.first_chunk().copied().map_or(0, u64::from_ne_bytes))
        })
    }
}

/// Whether counters start shortly before they overflow, so that every test passes through the overflow: in debug
/// builds, and in the build for the fault suite. (Linux starts its clock ticks five minutes before they overflow.)
pub(crate) const STARTS_NEAR_OVERFLOW: bool = cfg!(any(debug_assertions, multiproc_faults));

/// The first value of a counter: 0, or shortly before the overflow.
pub(crate) const fn just_before_overflow(distance: u32) -> u32 {
    if STARTS_NEAR_OVERFLOW { 0_u32.wrapping_sub(distance) } else { 0 }
}

// The fault suite does not compile if it passes through no overflow.
const _: () = assert!(!STARTS_NEAR_OVERFLOW || just_before_overflow(1) == u32::MAX);

impl Position {
    /// Both positions of a new ring.
    pub(crate) const START: Self =
        Self { frames: just_before_overflow(8), bytes: just_before_overflow(32 * 1024) };

    /// Makes the position, and everything written before, visible to the other side.
    #[inline]
    pub(crate) fn store_release(self, word: &AtomicU64) {
        word.store(u64::from(self.frames) << 32 | u64::from(self.bytes), Release);
    }

    /// The position that the other side has stored. It is forced to a multiple of 8, so a frame's header
    /// never reaches beyond the ring.
    #[inline]
    pub(crate) fn load(word: &AtomicU64) -> Self {
        let (bytes, frames) = split_u64(word.load(Acquire));
        Self { frames, bytes: bytes & !7 }
    }

    /// The position after a frame of `length` bytes that begins here.
    #[inline]
    pub(crate) fn after(self, length: u32) -> Self {
        Self { frames: self.frames.wrapping_add(1), bytes: self.bytes.wrapping_add(frame_size(length)) }
    }

    /// The number of frames between an earlier position and this one.
    #[inline]
    pub(crate) fn frames_since(self, earlier: Self) -> u32 {
        self.frames.wrapping_sub(earlier.frames)
    }
}

#[cfg(test)]
mod tests;
