//! A ring of bytes in shared memory, in which frames follow one another.
//!
//! A ring has one writer and one reader at a time (where there are several, a lock makes it so). Each of them knows how
//! far it has come, its [`Position`], and stores that where the other can see it. A frame is written first and published
//! after, with one store, so a process killed at any instruction leaves either a whole frame or none. A frame is never
//! overwritten before its reader has published that it is through with it.
//!
//! A frame lies in one piece: where the rest of the ring is too short for it, it is skipped.

// The length of a plain value is known where its frame is made or read, if all of that is in one piece: then a frame
// is two moves, and else it is calls.
#![allow(clippy::inline_always)]

use crate::ipc::frame::{FRAME_HEAD, Frames, HEAD, SKIP, footprint, head, narrow, split_frame, split_u64};
use crate::sys::atomic::{Acquire, AtomicU64, Release};
use crate::sys::failpoint::{self, Failpoint};

/// Memory that several processes may have.
pub(crate) trait Memory {
    /// Copies bytes in, at a place where nobody reads.
    fn write(&self, offset: usize, bytes: &[u8]);
    /// Shows bytes, at a place where nobody writes.
    fn read<R>(&self, offset: usize, length: usize, look: impl FnOnce(&[u8]) -> R) -> R;
    /// Has the line at an offset fetched, without waiting for it.
    fn prefetch(&self, _offset: usize) {}
}

/// A stretch of shared memory that is used as a ring. It holds no state but its bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ring {
    start: usize,
    size: u32,
    /// Where all has been read and this many bytes of the ring are behind us, it begins anew.
    hot: u32,
}

/// How far a writer or a reader has come: through how many frames, and up to which byte. Both count on and on and
/// overflow, and both are in one word, so that one store publishes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) frames: u32,
    pub(crate) bytes: u32,
}

/// How much of a ring is used that is mostly empty and may [begin anew](Ring::warm) as it likes: then it stays in the
/// caches.
const CACHE_WINDOW: u32 = 16 * 1024;

impl Ring {
    /// A ring of `size` bytes, a power of two, from the byte `start` on, a multiple of 8.
    ///
    /// Whenever all has been read in its second half, it begins anew at its start, so that what is mostly empty uses
    /// half of it. The rest counts as occupied until the reader has followed. So half of its bytes are sure to have
    /// room at any time, whether or not the reader reads.
    pub(crate) const fn new(start: usize, size: u32) -> Self {
        assert!(size.is_power_of_two() && size >= 2 * HEAD && start.is_multiple_of(8));
        Self { start, size, hot: size / 2 }
    }

    /// The same, but it begins anew as soon as some pages are behind it: for a writer who is sure that the reader goes
    /// on reading.
    pub(crate) const fn warm(self) -> Self {
        Self { hot: if self.hot < CACHE_WINDOW { self.hot } else { CACHE_WINDOW }, ..self }
    }

    /// The bytes of the largest frame that finds room at all times, once everything before it has been read.
    pub(crate) const fn largest(&self) -> usize {
        (self.size / 2 - HEAD) as usize
    }

    /// Writes a frame behind `tail` if there is room for it, the reader having come to the byte `taken`; says whether
    /// there was. Publishing it is the caller's.
    #[inline(always)]
    pub(crate) fn put(
        &self,
        memory: &impl Memory,
        tail: &mut Position,
        taken: u32,
        kind: u32,
        parts: &[&[u8]],
    ) -> bool {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        if length > self.largest() {
            return false;
        }
        let length = narrow(length);
        let Some(place) = self.find_slot(tail.bytes, taken, footprint(length)) else { return false };
        if place != tail.bytes {
            memory.write(self.offset(tail.bytes), &head(0, SKIP));
        }
        let mut offset = self.offset(place);
        memory.write(offset, &head(length, kind));
        failpoint::hit(Failpoint::MidFrame);
        offset += HEAD as usize;
        for part in parts {
            memory.write(offset, part);
            offset += part.len();
        }
        *tail = Position { bytes: place, ..*tail }.after(length);
        true
    }

    /// Copies [`frames`](crate::ipc::frame) behind `tail`, as many as there is room for.
    /// Gives the bytes that are left.
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

    /// Copies all frames between two marks out.
    pub(crate) fn copy_frames(&self, memory: &impl Memory, mut head: Position, tail: Position) -> Frames {
        if head.bytes != tail.bytes && self.head(memory, head.bytes).1 == SKIP {
            head.bytes = self.next_start(head.bytes);
        }
        let length = tail.bytes.wrapping_sub(head.bytes).min(self.size) as usize;
        let to_end = (self.size - head.bytes % self.size) as usize;
        let mut bytes = Vec::with_capacity(length);
        memory.read(self.offset(head.bytes), length.min(to_end), |piece| bytes.extend_from_slice(piece));
        memory.read(self.start, length.saturating_sub(to_end), |piece| bytes.extend_from_slice(piece));
        Frames::split(bytes, to_end)
    }

    /// Can frames lie between these marks, of which each takes up its head at least? If not, they are nonsense.
    #[inline]
    pub(crate) fn can_hold(&self, head: Position, tail: Position) -> bool {
        let (frames, bytes) = (tail.frames_since(head), tail.bytes.wrapping_sub(head.bytes));
        bytes <= self.size && frames <= bytes / HEAD && (frames > 0 || bytes == 0)
    }

    /// Shows the frame at `head`, which must have been published, and goes past it. Telling the writer is the caller's.
    ///
    /// Shows nothing where there is no frame, which only a process that does not keep to all this can bring about.
    #[inline(always)]
    pub(crate) fn take<R>(
        &self,
        memory: &impl Memory,
        head: &mut Position,
        look: impl FnOnce(u32, &[u8]) -> R,
    ) -> Option<R> {
        let end = head.bytes.wrapping_add(self.size);
        self.take_before(memory, head, end, look)
    }

    /// As [`Ring::take`], where frames are known to reach to the byte `end`, and no further.
    #[inline(always)]
    pub(crate) fn take_before<R>(
        &self,
        memory: &impl Memory,
        head: &mut Position,
        end: u32,
        look: impl FnOnce(u32, &[u8]) -> R,
    ) -> Option<R> {
        let mut place = head.bytes;
        let (mut length, mut kind) = self.head(memory, place);
        if kind == SKIP {
            place = self.next_start(place);
            (length, kind) = self.head(memory, place);
        }
        let offset = self.offset(place);
        if length > self.size - HEAD || offset - self.start > (self.size - HEAD - length) as usize {
            return None;
        }
        let next = Position { bytes: place, ..*head }.after(length);
        if next.bytes.wrapping_sub(head.bytes) > end.wrapping_sub(head.bytes) {
            return None;
        }
        *head = next;
        Some(memory.read(offset + HEAD as usize, length as usize, |bytes| look(kind, bytes)))
    }

    /// To be called while one waits for the frame at `head`: its first line is then on its way together with the word that
    /// says it has come.
    #[inline(always)]
    pub(crate) fn prefetch(&self, memory: &impl Memory, head: Position) {
        memory.prefetch(self.offset(head.bytes));
    }

    /// What the frame at `head` is, which must have been published.
    #[inline(always)]
    pub(crate) fn kind(&self, memory: &impl Memory, head: Position) -> u32 {
        match self.head(memory, head.bytes).1 {
            SKIP => self.head(memory, self.next_start(head.bytes)).1,
            kind => kind,
        }
    }

    /// How many frames of `length` bytes each would lie in one piece behind `mark`, if there is so much as that.
    #[inline]
    pub(crate) fn frames_to_end(&self, mark: Position, length: usize) -> u32 {
        (self.size - mark.bytes % self.size) / footprint(u32::try_from(length).unwrap_or(self.size))
    }

    /// As [`Ring::frames_to_end`], but for writing: only as many as there is room for, the reader having come to the byte
    /// `taken`.
    #[inline]
    pub(crate) fn free_frames(&self, tail: Position, taken: u32, length: usize) -> u32 {
        let free = self.free(tail.bytes, taken);
        self.frames_to_end(tail, length).min(free / footprint(u32::try_from(length).unwrap_or(self.size)))
    }

    /// As [`Ring::take`], where the next frame is of that kind and length and [in one piece](Ring::frames_to_end) with `head`;
    /// else nothing happens.
    #[inline(always)]
    pub(crate) fn pop_if<R>(
        &self,
        memory: &impl Memory,
        mark: &mut Position,
        kind: u32,
        length: usize,
        look: impl FnOnce(&[u8]) -> R,
    ) -> Option<R> {
        let offset = self.offset(mark.bytes);
        let is_like = memory.read(offset, FRAME_HEAD, |found| *found == head(narrow(length), kind));
        is_like.then(|| {
            *mark = mark.after(narrow(length));
            memory.read(offset + FRAME_HEAD, length, look)
        })
    }

    /// As [`Ring::put`], where there is [room](Ring::free_frames).
    #[inline(always)]
    pub(crate) fn push_unchecked(&self, memory: &impl Memory, tail: &mut Position, kind: u32, bytes: &[u8]) {
        let offset = self.offset(tail.bytes);
        memory.write(offset, &head(narrow(bytes.len()), kind));
        failpoint::hit(Failpoint::MidFrame);
        memory.write(offset + FRAME_HEAD, bytes);
        *tail = tail.after(narrow(bytes.len()));
    }

    /// Where a frame that takes up so many bytes can lie.
    #[inline(always)]
    fn find_slot(&self, tail: u32, taken: u32, footprint: u32) -> Option<u32> {
        let free = self.free(tail, taken);
        let to_end = self.size - self.within(tail);
        let begin_anew = tail == taken && self.size - to_end >= self.hot.max(footprint);
        if footprint <= to_end && !begin_anew {
            (footprint <= free).then_some(tail)
        } else {
            (free >= to_end && footprint <= free - to_end).then(|| self.next_start(tail))
        }
    }

    /// How many bytes are free, the reader having come to the byte `taken`. None, where that is nonsense.
    #[inline(always)]
    fn free(&self, tail: u32, taken: u32) -> u32 {
        self.size.saturating_sub(tail.wrapping_sub(taken))
    }

    fn next_start(&self, place: u32) -> u32 {
        place.wrapping_add(self.size - self.within(place))
    }

    /// The place's distance from the start of the ring. The size is a power of two, which preforked children a division.
    #[inline]
    fn within(&self, place: u32) -> u32 {
        place & (self.size - 1)
    }

    #[inline(always)]
    fn offset(&self, place: u32) -> usize {
        self.start + self.within(place) as usize
    }

    #[inline(always)]
    fn head(&self, memory: &impl Memory, place: u32) -> (u32, u32) {
        memory.read(self.offset(place), HEAD as usize, |bytes| {
            split_u64(bytes.first_chunk().copied().map_or(0, u64::from_ne_bytes))
        })
    }
}

/// Where counters begin: at 0, but in the build for the fault suite just before they overflow, so that all that the suite
/// does goes through that.
pub(crate) const fn just_before_overflow(distance: u32) -> u32 {
    if cfg!(multiproc_faults) { 0_u32.wrapping_sub(distance) } else { 0 }
}

impl Position {
    /// Where a new ring begins.
    pub(crate) const START: Self =
        Self { frames: just_before_overflow(300), bytes: just_before_overflow(32 * 1024) };

    /// Lets the other side see it, and all that was written before.
    #[inline]
    pub(crate) fn publish(self, word: &AtomicU64) {
        word.store(u64::from(self.frames) << 32 | u64::from(self.bytes), Release);
    }

    /// What the other side has published. Whatever that is: a place is a multiple of eight, so that a frame's head
    /// never reaches beyond the ring.
    #[inline]
    pub(crate) fn load(word: &AtomicU64) -> Self {
        let (bytes, frames) = split_u64(word.load(Acquire));
        Self { frames, bytes: bytes & !7 }
    }

    /// The mark behind a frame of `length` bytes that begins here.
    #[inline]
    fn after(self, length: u32) -> Self {
        Self { frames: self.frames.wrapping_add(1), bytes: self.bytes.wrapping_add(footprint(length)) }
    }

    /// How many frames lie between an earlier mark and this one.
    #[inline]
    pub(crate) fn frames_since(self, earlier: Self) -> u32 {
        self.frames.wrapping_sub(earlier.frames)
    }
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation)] // numbers of a test, all of them small
mod tests {
    use std::cell::RefCell;
    use std::collections::VecDeque;

    use super::*;
    use crate::ipc::frame::{add_frame, all};

    impl Memory for RefCell<Vec<u8>> {
        fn write(&self, offset: usize, bytes: &[u8]) {
            self.borrow_mut()[offset..offset + bytes.len()].copy_from_slice(bytes);
        }

        fn read<R>(&self, offset: usize, length: usize, look: impl FnOnce(&[u8]) -> R) -> R {
            look(&self.borrow()[offset..offset + length])
        }
    }

    /// Frames of all lengths go in and come out, in order, and the ring is never overrun, wherever the marks stand.
    #[test]
    fn frames_come_out_as_they_went_in() {
        let ring = Ring::new(16, 64 * 1024);
        let memory = RefCell::new(vec![0xee; 16 + 64 * 1024 + 16]);
        let (mut tail, mut head) = (Position { frames: u32::MAX - 5, bytes: u32::MAX - 7 }, Position::START);
        head.clone_from(&tail);
        let mut inside: VecDeque<(u32, Vec<u8>)> = VecDeque::new();
        let mut state = 1_u64;
        for step in 0..20_000_u32 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let random = (state >> 33) as usize;
            let length = if random.is_multiple_of(10) { random % (ring.largest() + 1) } else { random % 300 };
            let bytes: Vec<u8> = (0..=250).cycle().skip(random % 250).take(length).collect();
            let (front, back) = bytes.split_at(length / 3);
            if random & 0x10_0000 == 0 || inside.is_empty() {
                let fits = ring.put(&memory, &mut tail, head.bytes, step, &[front, back]);
                assert!(
                    fits || !inside.is_empty(),
                    "a frame of {length} bytes always fits into an empty ring"
                );
                if fits {
                    inside.push_back((step, bytes));
                }
            } else {
                let seen = ring.take(&memory, &mut head, |kind, bytes| (kind, bytes.to_vec())).unwrap();
                assert!(Some(seen) == inside.pop_front());
            }
            assert_eq!(tail.frames_since(head) as usize, inside.len());
            assert!(tail.bytes.wrapping_sub(head.bytes) <= 64 * 1024);
        }
        let outside = memory.borrow();
        assert!(outside[..16].iter().chain(&outside[16 + 64 * 1024..]).all(|&byte| byte == 0xee));
    }

    #[test]
    fn frames_can_go_in_and_come_out_by_the_batch() {
        let ring = Ring::new(0, 1024);
        let memory = RefCell::new(vec![0; 1024]);
        let (mut tail, mut head) = (Position { frames: 0, bytes: 800 }, Position { frames: 0, bytes: 800 });
        let parts: Vec<Vec<u8>> = (0..20_u8).map(|i| vec![i; i as usize * 3]).collect();
        let mut frames = Vec::new();
        for part in &parts {
            add_frame(&mut frames, 7, part);
        }
        assert_eq!(all(Frames::frame_size(&frames[..])), parts);
        let mut left = &frames[..];
        let mut seen = Vec::new();
        while !left.is_empty() {
            left = ring.put_frames(
                &memory,
                &mut tail,
                head.bytes,
                left,
                all(Frames::frame_size(left)).len() as u32,
            );
            let copied = ring.copy_frames(&memory, head, tail);
            let before = seen.len();
            seen.extend(all(copied));
            assert_eq!(tail.frames_since(head) as usize, seen.len() - before);
            head = tail;
        }
        assert_eq!(seen, parts);
    }

    #[test]
    fn a_ring_that_is_empty_stays_where_it_is_warm() {
        let ring = Ring::new(0, 1024 * 1024).warm();
        let memory = RefCell::new(vec![0; 1024 * 1024]);
        let (mut tail, mut head) = (Position::START, Position::START);
        for _ in 0..10_000 {
            assert!(ring.put(&memory, &mut tail, head.bytes, 1, &[&[1; 1000]]));
            ring.take(&memory, &mut head, |_, _| ()).unwrap();
        }
        assert!(memory.borrow()[CACHE_WINDOW as usize + 2 * 1024..].iter().all(|&byte| byte == 0));
    }

    #[test]
    fn half_of_a_ring_has_room_whatever_was_before() {
        const SIZE: u32 = 64 * 1024;
        let ring = Ring::new(0, SIZE);
        let memory = RefCell::new(vec![0; SIZE as usize]);
        for length in [0, 100, 1_000, 10_000] {
            let (mut tail, mut head) = (Position::START, Position::START);
            for _ in 0..500 {
                assert!(ring.put(&memory, &mut tail, head.bytes, 1, &[&vec![1; length]]));
                ring.take(&memory, &mut head, |_, _| ()).unwrap();
                let (mut end, mut count) = (tail, 0);
                while ring.put(&memory, &mut end, head.bytes, 1, &[&[1; 500]]) {
                    count += 1;
                }
                assert!((count + 1) * footprint(500) > SIZE / 2, "{count} frames after {tail:?}");
            }
        }
    }

    #[test]
    fn nonsense_in_the_ring_shows_nothing() {
        let ring = Ring::new(0, 1024);
        let memory = RefCell::new(vec![0; 1024]);
        for (length, kind) in [(1017, 1), (u32::MAX, 1), (1016, SKIP), (0, SKIP)] {
            memory.write(0, &head(length, kind));
            let mut mark = Position { frames: 0, bytes: 0 };
            let seen = ring.take(&memory, &mut mark, |_, bytes| bytes.len());
            assert!(seen.is_none_or(|length| length == 1016) || kind == SKIP, "{length} {kind}");
        }
        let mut mark = Position { frames: 0, bytes: 512 };
        memory.write(512, &head(600, 1));
        assert!(ring.take(&memory, &mut mark, |_, _| ()).is_none());
    }
}
