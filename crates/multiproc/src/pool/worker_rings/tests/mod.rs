//! Tests of both sides of a worker's rings, as threads of one process.

#![allow(clippy::cast_possible_truncation)] // numbers of a test, all of them small

mod open_arrays;
mod segments;

use std::collections::VecDeque;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

use super::*;
use crate::ipc::frame::{Frames, add_frame, all};
use crate::ipc::packet::{Message, Sent};
use crate::pool::chunk::Body;
use crate::pool::worker_rings::claim_word::{self, PoolCounts};
use crate::sys::clock;
use crate::sys::output::FLUSH_TIMEOUT;

pub(super) fn sides() -> (PoolSide, WorkerSide) {
    let (ours, theirs) = PacketSocket::pair().unwrap();
    let (rings, wakeup_page) = (WorkerRings::create().unwrap(), WakeupPage::create().unwrap());
    let worker = WorkerSide::new(rings.clone(), theirs, wakeup_page, Duration::ZERO);
    (PoolSide::new(rings, ours), worker)
}

fn frames(numbers: &[u64]) -> Vec<u8> {
    let mut frames = Vec::new();
    for number in numbers {
        let bytes: Vec<u8> = (0..*number % 70).flat_map(|_| number.to_le_bytes()).collect();
        add_frame(&mut frames, VALUE, &bytes);
    }
    frames
}

/// Values of 3 bytes.
fn values(numbers: &[u64]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes().into_iter().take(3)).collect()
}

fn scope(number: u64) -> Scope {
    [Scope::Visible, Scope::Unflushed, Scope::Completed][(number % 3) as usize]
}

fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *state >> 33
}

/// Runs the next item, or some of its array, or reads a header; returns about how many bytes the results take.
fn run_next(worker: &mut WorkerSide, as_array: bool) -> Option<usize> {
    match worker.next()? {
        TASK_HEADER => worker.read(|_| Ok(0)).ok(),
        VALUE if as_array => {
            let add = |bytes: &[u8]| Ok(u64::from_le_bytes([bytes[0], bytes[1], bytes[2], 0, 0, 0, 0, MARK]));
            Some(16 * worker.run_array((3, 8), add) as usize)
        }
        VALUE => {
            let item = worker.read(|bytes| Ok(bytes.to_vec())).unwrap();
            worker.write(VALUE, &item).unwrap();
            worker.complete();
            Some(item.len() + 16)
        }
        other => panic!("{other:?}"),
    }
}

/// The last byte of a result that an array had.
const MARK: u8 = 9;

fn without_mark(result: Vec<u8>) -> Vec<u8> {
    if result.last() == Some(&MARK) { result[..3].to_vec() } else { result }
}

fn results_of(numbers: &[u64], size: u32) -> Vec<Vec<u8>> {
    match size {
        0 => all(Frames::new(frames(numbers))),
        _ => values(numbers).chunks(3).map(<[u8]>::to_vec).collect(),
    }
}

/// Random submissions, revocations and runs: each item runs once, in order, and has a result.
#[test]
fn every_item_is_either_run_or_revoked() {
    let (mut pool, mut worker) = sides();
    worker.claim_runs();
    let mut state = 7;
    let (mut next, mut waiting) = (0, 0);
    // Spans of items in the ring: their position, their items, how many have results, and the size of values.
    let mut spans: VecDeque<(u32, VecDeque<u64>, u32, u32)> = VecDeque::new();
    let mut ran = Vec::new();
    let mut expected: Vec<Vec<u8>> = Vec::new();
    for _ in 0..3_000 {
        match random(&mut state) % 4 {
            0 => {
                let start = pool.position();
                if random(&mut state).is_multiple_of(3) && !pool.write_header(TASK_HEADER, &[7; 16], 0) {
                    continue;
                }
                let numbers: Vec<u64> = (next..next + random(&mut state) % 200).collect();
                let before = pool.written();
                let size = if random(&mut state).is_multiple_of(2) { 3 } else { 0 };
                let left = match size {
                    0 => all(Frames::new(pool.write(&frames(&numbers), numbers.len() as u32))).len(),
                    _ => pool.write_values(&values(&numbers), 3).len() / 3,
                };
                let written = pool.written().wrapping_sub(before);
                if written == 0 {
                    pool.truncate(start, 0);
                }
                assert_eq!(left + written as usize, numbers.len());
                next += u64::from(written);
                if written > 0 {
                    pool.submit(written).unwrap();
                    spans.push_back((start, numbers[..written as usize].iter().copied().collect(), 0, size));
                }
            }
            1 => {
                let mut left = pool.revoke(random(&mut state) as u32 % 300).unwrap();
                let (total, mut position) = (left, pool.position());
                while left > 0 {
                    let (start, items, done, size) = spans.back_mut().unwrap();
                    let some = left.min(items.len() as u32 - *done);
                    let kept = items.len() - some as usize;
                    let (body, at) = pool.cut_items(*start, kept as u32, some, *size);
                    position = at;
                    let revoked: Vec<u64> = items.split_off(kept).into();
                    let is_same = match body {
                        Body::Frames { bytes, .. } => *size == 0 && bytes == frames(&revoked),
                        Body::Values { bytes, .. } => *size == 3 && bytes == values(&revoked),
                        Body::OutOfLine(_) => false,
                    };
                    assert!(is_same, "the revoked items are those submitted");
                    next = revoked[0];
                    left -= some;
                    if items.len() == *done as usize {
                        spans.pop_back();
                    }
                }
                pool.truncate(position, total);
            }
            2 => {
                for _ in 0..random(&mut state) % 400 {
                    if waiting > RING as usize / 3 {
                        break; // it would block for room, which only this thread makes
                    }
                    let Some(bytes) = run_next(&mut worker, random(&mut state).is_multiple_of(2)) else {
                        break;
                    };
                    waiting += bytes;
                }
                worker.update_visible(Duration::ZERO);
            }
            _ => {
                let Some(taken) = pool.take_results(scope(random(&mut state))).unwrap() else {
                    continue;
                };
                waiting = 0;
                ran.extend(all(taken.results).into_iter().map(without_mark));
                let mut left = taken.count;
                while left > 0 {
                    let (_, items, done, size) = spans.front_mut().unwrap();
                    let some = left.min(items.len() as u32 - *done);
                    let items_done = items.iter().skip(*done as usize).take(some as usize);
                    expected.extend(results_of(&items_done.copied().collect::<Vec<u64>>(), *size));
                    *done += some;
                    left -= some;
                    if items.len() == *done as usize {
                        spans.pop_front();
                    }
                }
                pool.release(spans.front().map_or(pool.position(), |span| span.0));
            }
        }
    }
    assert!(ran.len() > 10_000, "{}", ran.len());
    assert!(ran == expected);
}

#[test]
fn the_claim_word_wraps_around() {
    let word = AtomicU64::new(u64::MAX);
    assert_eq!(claim_word::try_claim(&word, 9), 0);
    let known = |submitted: u32| PoolCounts { taken: u32::MAX, submitted: submitted.wrapping_sub(1) };
    assert!(claim_word::submit(&word, known(0), 5));
    assert_eq!(claim_word::try_claim(&word, 2), 2);
    assert_eq!(claim_word::revoke(&word, known(5), 2), Some(2));
    assert_eq!(claim_word::unclaimed(&word), 1);
    assert_eq!([claim_word::try_claim(&word, 2), claim_word::try_claim(&word, 2)], [1, 0]);
    assert_eq!(claim_word::revoke(&word, known(3), 9), Some(0));
}

/// Of a run of claimed items, the pool revokes all but those completed and the next, and the worker gives back
/// what it has not begun.
#[test]
fn a_run_ends_where_either_side_wants() {
    let start = 0_u32.wrapping_sub(3);
    let word = AtomicU64::new(u64::from(start) << 32 | u64::from(start));
    let known = |submitted| PoolCounts { taken: start, submitted: start.wrapping_add(submitted) };
    assert!(claim_word::submit(&word, known(0), 9));
    assert_eq!(claim_word::try_claim(&word, 6), 6);
    let completed = |count: u32| move || start.wrapping_add(count);
    assert_eq!(claim_word::revoke(&word, known(9), 9), Some(3), "not claimed");
    assert_eq!(claim_word::revoke_run(&word, known(6), 1, completed(2)), Some(1), "no more than asked for");
    assert_eq!(claim_word::revoke_run(&word, known(5), 9, completed(2)), Some(2), "two done, one may run");
    assert_eq!(claim_word::revoke_run(&word, known(3), 9, completed(7)), Some(0), "an impossible number");
    claim_word::give_back(&word, start.wrapping_add(2));
    assert_eq!(claim_word::claimed(&word), start.wrapping_add(2));
    claim_word::give_back(&word, start.wrapping_add(3));
    assert_eq!(claim_word::claimed(&word), start.wrapping_add(2), "nothing beyond that is claimed");
    assert_eq!(claim_word::try_claim(&word, 6), 1);
}

/// More claimed than submitted, fewer claimed than completed, or another number of submitted items.
#[test]
fn an_inconsistent_claim_word_is_refused() {
    let known = PoolCounts { taken: 3, submitted: 7 };
    let word = |claimed: u64, submitted: u64| AtomicU64::new(claimed << 32 | submitted);
    for overwritten in [word(2, 7), word(8, 7), word(4, 6), word(4, 8), word(0, 0), word(1 << 31, 7)] {
        assert!(!claim_word::submit(&overwritten, known, 1));
        assert_eq!(claim_word::revoke(&overwritten, known, 1), None);
        assert_eq!(claim_word::checked_claimed(&overwritten, known), None);
    }
    assert_eq!(claim_word::revoke(&word(3, 7), known, 9), Some(4));
    assert_eq!(claim_word::checked_claimed(&word(7, 7), known), Some(7));
}

/// A worker must not be able to hold up the pool, which holds its lock, with a flood of packets.
#[test]
fn a_pool_gives_up_on_a_flood_of_packets() {
    let (mut pool, worker) = sides();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let link = &worker.link;
        let flood = || {
            let prefix = MessageHeader { number: 1, kind: VALUE }.bytes();
            while !is_over.load(Relaxed) {
                let _ = link.send_with_prefix(&prefix, &Message::inline(vec![7]), Deadline::now());
            }
        };
        scope.spawn(flood);
        scope.spawn(flood);
        for _ in 0..5 {
            assert!(pool.receive(5, OnShortage::Leave).is_err());
        }
        is_over.store(true, Relaxed);
    });
}

#[test]
fn the_time_of_an_item_is_never_that_of_one_before() {
    let (mut pool, mut worker) = sides();
    pool.write(&frames(&[3, 5]), 2);
    pool.submit(2).unwrap();
    for timed in [true, false] {
        assert_eq!(worker.next(), Some(VALUE));
        worker.read(|_| Ok(())).unwrap();
        assert_eq!(pool.running_for(clock::nanos()), None);
        if timed {
            worker.start_item_timer();
            let soon = pool.running_for(clock::nanos());
            assert!(soon.is_some() && pool.running_for(clock::nanos()) >= soon);
            worker.stop_item_timer();
            assert_eq!(pool.running_for(clock::nanos()), None, "before it is completed");
        }
        worker.write(VALUE, &[]).unwrap();
        assert!(!pool.has_completed());
        worker.complete();
        assert!(
            pool.has_completed()
                && pool.take_results(Scope::Completed).unwrap().is_some()
                && !pool.has_completed()
        );
    }
}

/// Otherwise a result could be seen before the output of its task.
#[test]
fn results_count_as_unflushed_only_while_another_item_runs() {
    let (mut pool, mut worker) = sides();
    assert_eq!(pool.write(&frames(&[1, 2, 3]), 3), b"");
    pool.submit(3).unwrap();
    let mut run = |pool: &mut PoolSide| {
        worker.next();
        let before = pool.take_results(Scope::Unflushed).unwrap().map_or(0, |results| results.count);
        worker.read(|_| Ok(())).unwrap();
        worker.write(VALUE, &[]).unwrap();
        worker.complete();
        before
    };
    assert_eq!(run(&mut pool), 0);
    assert!(pool.has_completed() && pool.take_results(Scope::Unflushed).unwrap().is_none());
    assert_eq!(run(&mut pool), 1);
    assert!(pool.has_completed() && pool.take_results(Scope::Unflushed).unwrap().is_none());
    assert_eq!(pool.take_results(Scope::Completed).unwrap().unwrap().count, 1);
    assert_eq!(run(&mut pool), 0);
}

/// A worker that cannot flush the output of a task delays its result for a bounded time.
#[test]
fn overdue_results_are_taken_without_a_flush() {
    let (mut pool, mut worker) = sides();
    assert_eq!(pool.write(&frames(&[1]), 1), b"");
    pool.submit(1).unwrap();
    worker.next();
    worker.read(|_| Ok(())).unwrap();
    worker.write(VALUE, &[]).unwrap();
    worker.complete();
    assert!(pool.take_results(Scope::Unflushed).unwrap().is_none(), "seen for the first time");
    thread::sleep(FLUSH_TIMEOUT);
    assert_eq!(pool.take_results(Scope::Unflushed).unwrap().unwrap().count, 1);
}

/// The message of a revoked item is still in transit, and must not be taken for that of the next item.
#[test]
fn an_out_of_line_item_gets_its_own_message() {
    let (mut pool, mut worker) = sides();
    let position = pool.position();
    for (number, bytes) in [b"not this", b"but this"].into_iter().enumerate() {
        assert_eq!(pool.send_out_of_line(&mut Message::inline(bytes.to_vec())).unwrap(), Sent::Done);
        pool.submit(1).unwrap();
        if number == 0 {
            assert_eq!(pool.revoke(1).unwrap(), 1);
            pool.truncate(position, 1);
        }
    }
    assert_eq!(worker.next(), Some(OUT_OF_LINE));
    let (content, descriptors) = worker.receive().unwrap();
    assert!(descriptors.is_empty() && content.with_bytes(|bytes| bytes == b"but this"));
}
