//! The segments that items name arrive, whatever is revoked in between.

use std::os::fd::AsFd;

use super::*;
use crate::ipc::wire::{MAX_SEGMENTS, Segments, SharedFd};
use crate::sys::mapping::SharedMapping;

/// Segments that hold their numbers.
fn segments(count: u64) -> Vec<SharedFd> {
    let page = NonZeroUsize::new(4096).unwrap();
    let memory = |number| {
        let (mapping, fd) = SharedMapping::create(page).unwrap();
        mapping.word64(0).store(number, Relaxed);
        SharedFd::of_memory(fd, page)
    };
    (0..count).map(memory).collect()
}

fn number_in(memory: &SharedFd) -> u64 {
    SharedMapping::open(memory.as_fd(), NonZeroUsize::new(4096).unwrap()).unwrap().word64(0).load(Relaxed)
}

/// Submits an item behind a header that names these segments; returns the position before.
fn submit(pool: &mut PoolSide, segments: &Segments, expected: &[u64]) -> u32 {
    let start = pool.position();
    assert_eq!(pool.send_segments(segments).unwrap(), Sent::Done);
    let ids = segments.names();
    assert!(pool.write_header(TASK_HEADER, bytemuck::cast_slice(&[ids, expected.to_vec()].concat()), 0));
    assert!(pool.write(&frames(&[1]), 1).is_empty());
    pool.submit(1).unwrap();
    start
}

/// Runs the next item, and checks that its header's segments are there.
fn run(worker: &mut WorkerSide) {
    assert_eq!(worker.next(), Some(TASK_HEADER));
    let words = worker.read(|bytes| Ok(bytemuck::pod_collect_to_vec::<u8, u64>(bytes))).unwrap();
    let (ids, expected) = words.split_at(words.len() / 2);
    worker.take_segments(ids).unwrap();
    assert!(worker.segments().iter().map(number_in).eq(expected.iter().copied()));
    run_next(worker, false);
}

#[test]
fn the_segments_that_an_item_names_are_there_whatever_was_sent_and_revoked_before() {
    let (mut pool, mut worker) = sides();
    let (segments, mut state) = (segments(20), 7);
    let (mut waiting, mut ran) = (Vec::new(), 0);
    for _ in 0..3_000 {
        match random(&mut state) % 4 {
            0 | 1 if waiting.len() < 20 => {
                let count = random(&mut state) as usize % (MAX_SEGMENTS + 1);
                let mut named: Vec<u64> = (0..count).map(|_| random(&mut state) % 20).collect();
                named.sort_unstable();
                named.dedup();
                let list = named.iter().map(|&number| segments[number as usize].clone()).collect();
                waiting.push(submit(&mut pool, &list, &named));
            }
            2 if pool.revoke(1).unwrap() == 1 => pool.truncate(waiting.pop().unwrap(), 1),
            _ if !waiting.is_empty() => {
                run(&mut worker);
                worker.update_visible(Duration::ZERO);
                waiting.remove(0);
                pool.take_results(Scope::Visible).unwrap().unwrap();
                pool.release(waiting.first().copied().unwrap_or(pool.position()));
                ran += 1;
            }
            _ => {}
        }
    }
    assert!(ran > 500, "{ran}");
}

#[test]
fn a_memory_that_was_not_sent_is_an_error() {
    let (_pool, mut worker) = sides();
    assert!(worker.take_segments(&[7]).is_err());
    assert!(worker.segments().is_empty());
}
