//! Copies of submitted items that are still in the ring: for another worker, or for a record.

use super::PoolSide;
use crate::ipc::frame::{Frames, add_frame};
use crate::ipc::packet::MAX_INLINE;
use crate::ipc::ring::array::Array;
use crate::ipc::ring::{Memory, Position};
use crate::pool::chunk::Body;
use crate::pool::worker_rings::{SUBMISSIONS, TASK_HEADER, VALUE};

impl PoolSide {
    /// Takes `count` revoked items out of the ring, after the `kept` ones that begin at a
    /// [position](PoolSide::position). They are values of `size` bytes in arrays, or frames if `size` is 0. Returns
    /// the position of the first of them, including its headers.
    ///
    /// An item that the worker has overwritten is copied as it is, or as empty if it is no item.
    pub(crate) fn cut_items(&self, position: u32, kept: u32, count: u32, size: u32) -> (Body, u32) {
        let mut bytes = Vec::new();
        if size == 0 {
            let start = self.copy_items(position, kept, count, &mut bytes);
            return (Body::Frames { bytes, start: 0 }, start);
        }
        let start = self.copy_values(position, kept, count, size, &mut bytes, |array, first| {
            SUBMISSIONS.shorten(&self.rings.0, array, first);
        });
        if bytes.len() == (count * size) as usize {
            return (Body::Values { bytes, start: 0, size }, start);
        }
        bytes.clear();
        (0..count).for_each(|_| add_frame(&mut bytes, VALUE, &[]));
        (Body::Frames { bytes, start: 0 }, start)
    }

    /// The bytes of the item after the `skipped` ones that begin at a [position](PoolSide::position). They are
    /// values of `size` bytes in arrays, or frames if `size` is 0. Empty if the worker has overwritten it.
    pub(crate) fn copy_item(&self, position: u32, skipped: u32, size: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        if size == 0 {
            self.copy_items(position, skipped, 1, &mut bytes);
            return Frames::new(bytes).next().map_or(Vec::new(), |(_, bytes)| bytes.to_vec());
        }
        self.copy_values(position, skipped, 1, size, &mut bytes, |_, _| ());
        bytes
    }

    /// Appends values to `bytes`; fewer if the ring was overwritten. `on_cut` gets the array that the first of
    /// them is in, and the number of values before it, if there are any.
    fn copy_values(
        &self,
        position: u32,
        kept: u32,
        count: u32,
        size: u32,
        bytes: &mut Vec<u8>,
        on_cut: impl Fn(Array, u32),
    ) -> u32 {
        let memory = &self.rings.0;
        let mut cursor = Position { frames: 0, bytes: position };
        let (mut start, mut passed) = (position, 0);
        while passed < kept + count {
            let Some(array) = SUBMISSIONS.array(memory, cursor.bytes) else {
                match SUBMISSIONS.take_before(memory, &mut cursor, self.tail.bytes, |kind, _| kind) {
                    Some(TASK_HEADER) => continue,
                    _ => break,
                }
            };
            if array.size != size {
                break;
            }
            let (first, end) = ((kept - kept.min(passed)).min(array.count), kept + count - passed);
            let end = end.min(array.count);
            if array.end(end).wrapping_sub(position) > self.tail.bytes.wrapping_sub(position) {
                break; // overwritten: the pool has written nothing there
            }
            let length = ((end - first) * size) as usize;
            memory.read(SUBMISSIONS.value_offset(array, first), length, |cut| bytes.extend_from_slice(cut));
            cursor.bytes = array.end(array.count);
            if first > 0 {
                start = array.end(first);
                if first < array.count {
                    on_cut(array, first);
                }
            }
            passed += end;
        }
        start
    }

    /// Appends the frames of `count` items to `frames`: those after the `skipped` items that begin at a
    /// [position](PoolSide::position). Returns the position of the first of them, including its headers.
    ///
    /// An item that the worker has overwritten is copied as it is, or as empty if it is no item.
    fn copy_items(&self, position: u32, skipped: u32, count: u32, frames: &mut Vec<u8>) -> u32 {
        let mut cursor = Position { frames: 0, bytes: position };
        let (mut start, mut passed) = (position, 0);
        while passed < skipped + count {
            let copy = |kind: u32, bytes: &[u8]| {
                if kind != TASK_HEADER && passed >= skipped {
                    add_frame(frames, VALUE, if bytes.len() > MAX_INLINE { &[] } else { bytes });
                }
                kind
            };
            match SUBMISSIONS.take_before(&self.rings.0, &mut cursor, self.tail.bytes, copy) {
                Some(TASK_HEADER) => continue,
                Some(_) => passed += 1,
                None => {
                    for _ in passed.max(skipped)..skipped + count {
                        add_frame(frames, VALUE, &[]);
                    }
                    break;
                }
            }
            if passed <= skipped {
                start = cursor.bytes;
            }
        }
        start
    }
}
