//! A ring holds frames whole and in order, wherever its positions stand.

#![allow(clippy::cast_possible_truncation)] // numbers of a test, all of them small

use std::cell::RefCell;
use std::collections::VecDeque;

use super::*;
use crate::ipc::frame::{add_frame, all};

impl Ring {
    /// As [`take_before`](Self::take_before), for a ring whose tail may be anywhere.
    pub(crate) fn take<R>(
        &self,
        memory: &impl Memory,
        head: &mut Position,
        read: impl FnOnce(u32, &[u8]) -> R,
    ) -> Option<R> {
        let end = head.bytes.wrapping_add(self.size);
        self.take_before(memory, head, end, read)
    }
}

impl Memory for RefCell<Vec<u8>> {
    fn write(&self, offset: usize, bytes: &[u8]) {
        self.borrow_mut()[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    fn read<R>(&self, offset: usize, length: usize, read: impl FnOnce(&[u8]) -> R) -> R {
        read(&self.borrow()[offset..offset + length])
    }
}

#[test]
fn counters_start_at_0_or_in_the_fault_build_just_before_their_overflow() {
    for distance in 1..300 {
        let start = just_before_overflow(distance);
        assert_eq!(start.checked_add(distance), (!STARTS_NEAR_OVERFLOW).then_some(distance));
    }
    let small = |marks: Position| marks.frames <= 8 && marks.bytes <= 32 * 1024;
    let Position { frames, bytes } = Position::START;
    assert!(small(Position { frames: frames.wrapping_add(8), bytes: bytes.wrapping_add(32 * 1024) }));
}

/// Frames of all lengths go in and come out, in order, and the ring is never overrun, wherever the marks
/// stand.
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
            assert!(fits || !inside.is_empty(), "a frame of {length} bytes always fits into an empty ring");
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
    assert_eq!(all(Frames::new(&frames[..])), parts);
    let mut left = &frames[..];
    let mut seen = Vec::new();
    while !left.is_empty() {
        left = ring.put_frames(&memory, &mut tail, head.bytes, left, all(Frames::new(left)).len() as u32);
        let copied = ring.copy_frames(&memory, head, tail);
        let before = seen.len();
        seen.extend(all(copied));
        assert_eq!(tail.frames_since(head) as usize, seen.len() - before);
        head = tail;
    }
    assert_eq!(seen, parts);
}

#[test]
fn an_empty_early_restarting_ring_stays_in_its_cache_window() {
    let ring = Ring::new(0, 1024 * 1024).restarting_early();
    let memory = RefCell::new(vec![0; 1024 * 1024]);
    let mut tail = Position { frames: 0, bytes: 0 }; // where the window begins
    let mut head = tail;
    for _ in 0..10_000 {
        assert!(ring.put(&memory, &mut tail, head.bytes, 1, &[&[1; 1000]]));
        ring.take(&memory, &mut head, |_, _| ()).unwrap();
    }
    assert!(memory.borrow()[CACHE_WINDOW as usize + 2 * 1024..].iter().all(|&byte| byte == 0));
}

#[test]
fn half_of_a_ring_always_has_room() {
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
            assert!((count + 1) * frame_size(500) > SIZE / 2, "{count} frames after {tail:?}");
        }
    }
}

/// Wherever an empty ring stands, a header and the frame after it fit, so that the writer need not wait for a reader
/// that has nothing to read.
#[test]
fn an_empty_ring_has_room_for_a_header_and_a_frame() {
    const SIZE: u32 = 128 * 1024;
    let ring = Ring::new(0, SIZE).restarting_early().keeping_last(8 * 1024);
    let memory = RefCell::new(vec![0; SIZE as usize]);
    for header in [40, 1_000] {
        for length in [0, 8_192, 20_000, 32_768, 50_000] {
            for bytes in (0..SIZE).step_by(8) {
                let taken = Position { frames: 0, bytes: bytes.wrapping_sub(SIZE / 2) };
                let mut tail = taken;
                let place = format!("{header} and {length} bytes at {bytes}");
                let fits = ring.put_before(&memory, &mut tail, taken.bytes, 4, &vec![4; header], length);
                assert!(fits, "{place}: no room for the header");
                assert!(ring.put(&memory, &mut tail, taken.bytes, 1, &[&vec![1; length]]), "{place}");
                assert!(tail.bytes.wrapping_sub(taken.bytes) <= SIZE, "{place}: overrun");
            }
        }
    }
}

#[test]
fn an_invalid_frame_is_not_read() {
    let ring = Ring::new(0, 1024);
    let memory = RefCell::new(vec![0; 1024]);
    for (length, kind) in [(1017, 1), (u32::MAX, 1), (1016, SKIP), (0, SKIP)] {
        memory.write(0, &encode_header(length, kind));
        let mut position = Position { frames: 0, bytes: 0 };
        let seen = ring.take(&memory, &mut position, |_, bytes| bytes.len());
        assert!(seen.is_none_or(|length| length == 1016) || kind == SKIP, "{length} {kind}");
    }
    let mut position = Position { frames: 0, bytes: 512 };
    memory.write(512, &encode_header(600, 1));
    assert!(ring.take(&memory, &mut position, |_, _| ()).is_none());
}
