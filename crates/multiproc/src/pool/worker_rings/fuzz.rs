//! Fuzz tests of both sides of rings that a task has overwritten.

use std::os::fd::AsFd;

use proptest::collection::vec;
use proptest::prelude::*;

use super::tests::sides;
use super::*;
use crate::ipc::frame::{Frames, add_frame, all, array_kind};
use crate::ipc::packet::OnShortage;
use crate::ipc::wire;
use crate::pool::chunk::Body;
use crate::sys::atomic::Relaxed;
use crate::sys::socket;
use crate::testing::{after_start, any_bytes, any_word, any_words, cases, descriptors};

/// The words that the other side reads, but for the claim word.
const WORDS: [usize; 9] = [
    COMPLETED,
    VISIBLE,
    RUN_TIME,
    ITEMS_PER_CLOCK_READ,
    OUT_OF_LINE_COUNT,
    RESULTS_TAKEN,
    REQUESTS,
    ITEMS_EVENT,
    ROOM_EVENT,
];

fn overwrite(rings: &WorkerRings, words: Vec<(prop::sample::Index, u64)>) {
    for (index, word) in words {
        rings.0.word64(index.get(&WORDS) / 8 * 8).store(word, Relaxed);
    }
}

/// Where [`PoolSide::write`] puts the first items of new rings.
fn first_items() -> usize {
    4096 + (Position::START.bytes % RING) as usize
}

/// Kind 7 stands for arrays.
fn items(kinds: &[u32]) -> Vec<u8> {
    let mut frames = Vec::new();
    for &kind in kinds {
        let kind = if kind == 7 { array_kind(4) } else { kind };
        add_frame(&mut frames, kind, &[kind.to_le_bytes()[0]; 12]);
    }
    frames
}

/// Writes any frames and any bytes from this byte of a ring on.
fn write_garbage(rings: &WorkerRings, start: usize, kinds: &[u32], bytes: &[u8]) {
    rings.0.write(start, &items(kinds));
    rings.0.write(start + 1024, bytes);
}

fn any_overwritten_words() -> impl Strategy<Value = Vec<(prop::sample::Index, u64)>> {
    vec((any::<prop::sample::Index>(), any_word()), 0..4)
}

proptest! {
    #![proptest_config(cases(100))]

    #[test]
    fn a_pool_survives_what_a_worker_writes(
        words in any_overwritten_words(),
        claims in any_word(),
        positions in any_words(RING),
        kinds in vec(0..8_u32, 0..60),
        bytes in any_bytes(500),
        packet in any_bytes(40),
        choice in vec(any::<u8>(), 0..3),
        number in 0..9_u32,
        size in prop_oneof![Just(0_u32), Just(3), Just(8)],
    ) {
        let (mut pool, worker) = sides();
        let rings = &worker.rings;
        prop_assert!(pool.write_header(TASK_HEADER, &[7; 16], 0));
        let start = pool.position();
        match size {
            0 => _ = pool.write(&items(&[VALUE; 50]), 50),
            size => _ = pool.write_values(&vec![7; 50 * size as usize], size),
        }
        pool.submit(50).unwrap();

        write_garbage(rings, 4096, &kinds, &bytes);
        write_garbage(rings, 4096 + RING as usize, &kinds, &bytes);
        overwrite(rings, words);
        rings.0.word64(VISIBLE).store(positions[1] & 0x3f_ffff_ffff_ffff, Relaxed);
        rings.claim_word().store(claims, Relaxed);
        if !packet.is_empty() {
            let borrowed = descriptors(&choice);
            let borrowed: Vec<_> = borrowed.iter().map(AsFd::as_fd).collect();
            socket::send(worker.link.as_fd(), &[&packet], &borrowed, Deadline::now()).unwrap();
        }

        for scope in [Scope::Visible, Scope::Unflushed, Scope::Completed, Scope::Completed] {
            if let Ok(Some(taken)) = pool.take_results(scope) {
                prop_assert!(taken.count <= RING);
                prop_assert!(all(taken.results).len() <= RING as usize);
            }
        }
        let _ = pool.check();
        let back = pool.revoke(50).unwrap_or(0);
        prop_assert!(back <= 50);
        let (body, position) = pool.cut_items(start, 50 - back, back, size);
        let copied = match body {
            Body::Frames { bytes, .. } => bytes,
            Body::Values { bytes, .. } => {
                prop_assert_eq!(bytes.len(), (back * size) as usize);
                items(&vec![VALUE; back as usize])
            }
            Body::OutOfLine(_) => unreachable!(),
        };
        prop_assert_eq!(all(Frames::new(&copied[..])).len(), back as usize, "each item is copied, as it is");
        prop_assert!(all(Frames::new(&copied[..])).iter().all(|item| item.len() <= packet::MAX_INLINE));
        pool.truncate(position, back);
        pool.write(&copied, back);
        let _ = pool.receive(number, OnShortage::Leave);
        prop_assert!(pool.not_begun().is_err() || pool.not_begun().unwrap() <= 50);
        pool.notify_again();
        pool.is_ready();
        pool.may_have_unflushed();
        pool.close();
    }

    /// It ends after as many items as the claim word promises.
    #[test]
    fn a_worker_with_overwritten_rings_ends(
        words in any_overwritten_words(),
        kinds in vec(prop_oneof![5 => Just(VALUE), 1 => 0..8_u32], 0..60),
        bytes in any_bytes(500),
        claims in 0..300_u32,
        packet in any_bytes(40),
        choice in vec(any::<u8>(), 0..3),
    ) {
        let (mut pool, mut worker) = sides();
        pool.write(&items(&[VALUE; 50]), 50);
        write_garbage(&worker.rings, first_items(), &kinds, &bytes);
        overwrite(&worker.rings, words);
        worker.rings.claim_word().store(claims.into(), Relaxed);
        let borrowed = descriptors(&choice);
        let borrowed: Vec<_> = borrowed.iter().map(AsFd::as_fd).collect();
        socket::send(pool.link.as_fd(), &[&[0], &packet], &borrowed, Deadline::now()).unwrap();
        drop(pool);
        let mut ran = 0;
        while let Some(kind) = worker.next() {
            ran += 1;
            prop_assert!(ran <= 2 * claims + 1, "it does not end");
            let result = match kind {
                OUT_OF_LINE => worker.receive().map(|_| ()),
                TASK_HEADER => {
                    let _ = worker.read(|_| Ok(()));
                    if worker.next() == Some(TASK_HEADER) {
                        break; // as `worker_main` does
                    }
                    continue;
                }
                VALUE if choice.len() == 2 && worker.run_array((4, 4), |_| Ok(7_u32)) > 0 => continue,
                _ => worker.read(|_| Ok(())),
            };
            match result.and_then(|()| worker.write(VALUE, &[1; 8])) {
                Ok(()) => worker.complete(),
                Err(error) => worker.fail(error),
            }
        }
    }

    /// Shared memory as the library receives it.
    #[test]
    fn memory_of_a_wrong_size_is_refused(
        size in 1..8192_usize,
        choice in vec(any::<u8>(), 0..3),
        bytes in any_bytes(30),
    ) {
        let pages = SharedMemory::create(NonZeroUsize::new(size).unwrap()).unwrap();
        prop_assert!(WorkerRings::try_from(pages.clone()).is_err());
        prop_assert_eq!(WakeupPage::try_from(pages).is_ok(), size == 4096);
        let sent = descriptors(&choice);
        let _ = wire::decode::<(WorkerRings, PacketSocket, WakeupPage)>(&bytes, sent, "a context");
    }
}

/// Otherwise the pool would take no more results, and its caller would wait forever.
#[test]
fn an_impossible_end_of_the_results_is_an_error() {
    let (mut pool, worker) = sides();
    for (frames, bytes) in [(0, 5), (1, RING + 8), (RING + 1, RING), (1, 0)] {
        worker.rings.0.word64(VISIBLE).store(after_start(frames, bytes), Relaxed);
        match pool.take_results(Scope::Visible) {
            Ok(None) => assert_eq!((frames, bytes), (0, 5), "bytes of no result"),
            Ok(Some(_)) => panic!("{frames} {bytes}"),
            Err(error) => assert!(error.is_codec(), "{error}"),
        }
    }
}

/// Otherwise it would run a missing item again and again.
#[test]
fn a_worker_that_misses_an_item_stops() {
    let (mut pool, mut worker) = sides();
    pool.write(&items(&[VALUE; 3]), 3);
    // The word says that the next frame is at the start of the ring, where the same stands.
    for start in [first_items(), 4096] {
        worker.rings.0.write(start, &[0xff; 72]);
    }
    pool.submit(3).unwrap();
    assert!(worker.next().is_some());
    let error = worker.read(|_| Ok(())).unwrap_err();
    worker.fail(error);
    assert_eq!(worker.next(), None);
    let why: Error = worker.wait().unwrap_err();
    assert!(why.is_codec(), "{why}");
    assert_eq!(pool.take_results(Scope::Visible).unwrap().unwrap().count, 1);
    assert_eq!(pool.not_begun().unwrap(), 2);
}

/// Otherwise it would wait forever, or overwrite results that the pool has not taken.
#[test]
fn a_worker_does_not_wait_by_an_overwritten_position() {
    let (mut pool, mut worker) = sides();
    let many = vec![VALUE; 30_000];
    pool.write(&items(&many), 30_000);
    pool.submit(30_000).unwrap();
    worker.rings.taken().store(Position::START.bytes.wrapping_add(3 * RING), Relaxed);
    let mut ran = 0;
    let error = loop {
        worker.next().unwrap();
        worker.read(|_| Ok(())).unwrap();
        match worker.write(VALUE, &[1; 100]) {
            Ok(()) => worker.complete(),
            Err(error) => break error,
        }
        ran += 1;
    };
    assert!(ran > 1000 && error.is_codec(), "{ran} {error}");
    worker.fail(error);
    assert_eq!(worker.next(), None);
}
