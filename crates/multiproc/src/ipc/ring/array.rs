//! Arrays: frames that hold many values of one size, with one header for all of them.
//!
//! An array is written with room for a number of values, and can be [shortened](Ring::shorten) when some of
//! them are missing in the end. Its header is then stored while the other side may load it, so it is an atomic
//! word.

// See `ring`.
#![allow(clippy::inline_always)]

use super::{Memory, Position, Ring};
use crate::ipc::frame::{
    FRAME_HEADER, Frames, HEADER_SIZE, SKIP, add_frame, array_kind, array_size, as_u32, encode_header,
    frame_size, split_u64,
};

/// The maximum bytes of the values of an array.
pub(crate) const MAX_ARRAY: u32 = 8 * 1024;

/// An array in a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Array {
    /// The position of its header, in bytes.
    pub(crate) start: u32,
    /// The bytes of a value.
    pub(crate) size: u32,
    /// The number of values that it has room for.
    pub(crate) count: u32,
}

impl Array {
    /// The position after its first `count` values, in bytes.
    #[inline(always)]
    pub(crate) fn end(self, count: u32) -> u32 {
        self.start.wrapping_add(frame_size(count * self.size))
    }
}

/// What [`Ring::copy_values`] has copied.
pub(crate) struct Copied {
    pub(crate) frames: Frames,
    /// An array that has room for more values: its position, and how many of its values were copied.
    pub(crate) open: Option<(u32, u32)>,
}

impl Ring {
    /// The array whose frame is at this position; `None` if there is no valid one.
    #[inline(always)]
    pub(crate) fn array(&self, memory: &impl Memory, mut start: u32) -> Option<Array> {
        let mut header = memory.load_word(self.offset(start));
        if split_u64(header).1 == SKIP {
            start = self.next_start(start);
            header = memory.load_word(self.offset(start));
        }
        let (length, kind) = split_u64(header);
        let size = as_u32(array_size(kind)?);
        let is_inside = length <= self.size - HEADER_SIZE - self.within(start).min(self.size - HEADER_SIZE);
        (is_inside && length > 0 && length <= MAX_ARRAY && length.is_multiple_of(size)).then(|| Array {
            start,
            size,
            count: length / size,
        })
    }

    /// The array at the position `start`, or after it if that is one of whose values `index` are read, and which
    /// has no more. Sets both to the next value. Call it after a claim of that value: before, the writer may have
    /// shortened the array, and put another frame after it.
    #[inline(always)]
    pub(crate) fn next_array(&self, memory: &impl Memory, start: &mut u32, index: &mut u32) -> Option<Array> {
        let mut array = self.array(memory, *start)?;
        if *index >= array.count {
            (*start, *index) = (array.end(array.count), 0);
            array = self.array(memory, *start)?;
        }
        *start = array.start; // a skipped rest of the ring on the way there is soon overwritten
        Some(array)
    }

    /// The offset of a value of an array in memory.
    #[inline(always)]
    pub(crate) fn value_offset(&self, array: Array, index: u32) -> usize {
        self.offset(array.start) + FRAME_HEADER + (index * array.size) as usize
    }

    /// The number of values of `size` bytes for which there is room in an array at `tail`. `taken` is the
    /// reader's position in bytes.
    #[inline]
    pub(crate) fn array_room(&self, tail: Position, taken: u32, size: u32) -> u32 {
        let to_end = self.size - self.within(tail.bytes);
        to_end.min(self.free(tail.bytes, taken)).saturating_sub(HEADER_SIZE + 7).min(MAX_ARRAY) / size
    }

    /// Begins an array for which there is [room](Ring::array_room).
    #[inline(always)]
    pub(crate) fn begin_array(&self, memory: &impl Memory, tail: Position, size: u32, count: u32) -> Array {
        let array = Array { start: tail.bytes, size, count };
        self.store_header(memory, array);
        array
    }

    /// Gives an array room for `count` values only: the first ones.
    pub(crate) fn shorten(&self, memory: &impl Memory, array: Array, count: u32) {
        if count > 0 {
            self.store_header(memory, Array { count, ..array });
        }
    }

    fn store_header(&self, memory: &impl Memory, Array { start, size, count }: Array) {
        let header = encode_header(count * size, array_kind(size));
        memory.store_word(self.offset(start), u64::from_ne_bytes(header));
    }

    /// Copies `count` values, each of a frame or of an array, from the position `from` on, without the first
    /// `skipped` of the array there. None reaches beyond the byte `end`.
    pub(crate) fn copy_values(
        &self,
        memory: &impl Memory,
        from: u32,
        mut skipped: u32,
        mut count: u32,
        end: u32,
    ) -> Copied {
        let mut cursor = Position { frames: 0, bytes: from };
        let (mut frames, mut open) = (Vec::new(), None);
        while count > 0 {
            let Some(array) = self.array(memory, cursor.bytes) else {
                let copy = |kind: u32, bytes: &[u8]| add_frame(&mut frames, kind, bytes);
                if self.take_before(memory, &mut cursor, end, copy).is_none() {
                    break;
                }
                count -= 1;
                continue;
            };
            let first = skipped.min(array.count);
            let some = (array.count - first).min(count);
            if array.end(first + some).wrapping_sub(from) > end.wrapping_sub(from) {
                break;
            }
            if some > 0 {
                let (offset, length) = (self.value_offset(array, first), (some * array.size) as usize);
                memory.read(offset, length, |bytes| add_frame(&mut frames, array_kind(array.size), bytes));
            }
            count -= some;
            if first + some < array.count {
                open = Some((cursor.bytes, first + some));
                break;
            }
            (cursor.bytes, skipped) = (array.end(array.count), 0);
        }
        Copied { frames: Frames::new(frames), open }
    }
}
