//! A ring that another process has overwritten. (Apart from `ring/tests.rs`, which the models compile, too.)

use std::cell::RefCell;

use proptest::collection::vec;
use proptest::prelude::*;

use crate::ipc::frame::{SKIP, add_frame, all, array_kind, encode_header};
use crate::ipc::ring::{Memory, Position, Ring};
use crate::sys::atomic::AtomicU64;
use crate::testing::{any_bytes, any_words, cases};

proptest! {
    #![proptest_config(cases(500))]

    /// Whatever the bytes and the positions are, a reader gets no more bytes than the ring has, and comes to
    /// the end.
    #[test]
    fn any_bytes_and_positions_come_to_an_end(
        bytes in any_bytes(1024),
        words in any_words(1024),
        kinds in vec((any::<prop::sample::Index>(), 0..6_u32, 0..1100_u32), 0..20),
    ) {
        let ring = Ring::new(0, 1024);
        let memory = RefCell::new(vec![0; 1024]);
        memory.write(0, &bytes);
        for (slot, kind, length) in kinds {
            let kind = [SKIP, array_kind(8), array_kind(3)].get(kind as usize).copied().unwrap_or(kind);
            memory.write(slot.index(127) * 8, &encode_header(length, kind));
        }
        let [first, tail] = words.map(|word| Position::load(&AtomicU64::new(word)));
        prop_assert!(all(ring.copy_frames(&memory, first, tail)).concat().len() <= 1024);
        let (mut position, mut shown) = (first, 0);
        if ring.can_hold(first, tail) {
            for _ in 0..tail.frames_since(first) {
                ring.kind(&memory, position);
                let read = |_, bytes: &[u8]| shown += bytes.len();
                if ring.take_before(&memory, &mut position, tail.bytes, read).is_none() {
                    break;
                }
            }
        }
        prop_assert!(shown <= 1024);
        ring.kind(&memory, first);
        ring.take(&memory, &mut first.clone(), |_, bytes| assert!(bytes.len() < 1024));
        if let Some(array) = ring.array(&memory, first.bytes) {
            let last = memory.read(ring.value_offset(array, array.count - 1), array.size as usize, <[u8]>::len);
            prop_assert_eq!(last, array.size as usize, "it lies in the ring");
        }
        let count = tail.frames_since(first).min(2000);
        let copied = ring.copy_values(&memory, first.bytes, tail.frames, count, tail.bytes);
        prop_assert!(all(copied.frames).len() <= count as usize);
    }

    #[test]
    fn a_write_at_invalid_positions_stays_in_the_ring(words in any_words(1024), length in 0..600_usize) {
        let ring = Ring::new(8, 1024);
        let memory = RefCell::new(vec![0xee; 8 + 1024 + 8]);
        let [taken, mut tail] = words.map(|word| Position::load(&AtomicU64::new(word)));
        let bytes = vec![7; length];
        let before = tail;
        let room = ring.array_room(tail, taken.bytes, 1) as usize;
        let fits = ring.put(&memory, &mut tail, taken.bytes, 1, &[&bytes]);
        prop_assert!(fits || tail == before);
        prop_assert!(fits || room < length || length > ring.largest());
        let mut frames = Vec::new();
        add_frame(&mut frames, 1, &bytes);
        ring.put_frames(&memory, &mut tail, taken.bytes, &frames, 1);
        let room = ring.array_room(tail, taken.bytes, 3);
        if room > 0 {
            let array = ring.begin_array(&memory, tail, 3, room);
            memory.write(ring.value_offset(array, room - 1), &[7; 3]);
            ring.shorten(&memory, array, 1);
        }
        let memory = memory.borrow();
        prop_assert!(memory[..8].iter().chain(&memory[8 + 1024..]).all(|&byte| byte == 0xee));
    }
}
