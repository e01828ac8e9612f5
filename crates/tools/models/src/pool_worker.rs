//! A pool and one of its workers.

use loom::sync::Arc;
use loom::thread;

use crate::ipc::event_count::EventCount;
use crate::ipc::ring::Position;
use crate::messages::{Bytes, RING};
use crate::model;
use crate::pool::worker_rings::claim_word;
use crate::pool::worker_rings::progress::{self, Scope};
use crate::pool::worker_rings::wakeups::PoolWakeups;
use crate::sys::Lack::{Fence, Publishing, Seeing, Waking};
use crate::sys::atomic::{AtomicU32, AtomicU64, Relaxed};
use crate::sys::failpoint::{Failpoint, die_at, is_dead};

model!(an_item_runs_once_or_is_taken_back, items, 3, finds [Publishing, Seeing]);

/// The pool hands two items in, takes one back, if it can, and hands another in at its place. The worker begins what there
/// is. Each item is seen by one of the two, whole.
fn items() {
    let shared = Arc::new((AtomicU64::new(0), Bytes::new()));
    let worker = {
        let shared = Arc::clone(&shared);
        thread::spawn(move || {
            let (word, bytes) = &*shared;
            let mut cursor = Position::START;
            let mut begin = || {
                claim_word::try_claim(word).then(|| RING.take(bytes, &mut cursor, |_, item| item[0]).unwrap())
            };
            [begin(), begin()]
        })
    };
    let (word, bytes) = &*shared;
    let mut tail = Position::START;
    assert!(RING.put(bytes, &mut tail, 0, 1, &[&[1]]));
    let behind_the_first = tail;
    assert!(RING.put(bytes, &mut tail, 0, 1, &[&[2]]));
    let known = |submitted| claim_word::Known { finished: 0, submitted };
    assert!(claim_word::submit(word, known(0), 2));
    let taken_back = claim_word::revoke(word, known(2), 1).unwrap();
    if taken_back == 1 {
        tail = behind_the_first;
        assert!(RING.put(bytes, &mut tail, 0, 1, &[&[3]]));
        assert!(claim_word::submit(word, known(1), 1));
    }
    let ran = worker.join().unwrap().into_iter().flatten().collect::<Vec<u8>>();
    let left = claim_word::pending(word) as usize;
    assert!([1, 2].starts_with(&ran) && taken_back == 0 || [1, 3].starts_with(&ran) && taken_back == 1);
    assert_eq!(ran.len() + left, 2);
}

model!(what_is_finished_counts_once_whatever_becomes_of_the_worker, all_finish, 3, finds [Publishing, Seeing]);
model!(a_result_counts_if_its_item_is_finished, killed_after_finishing, 3, finds [Publishing, Seeing]);

fn all_finish() {
    results(None, 2);
}

fn killed_after_finishing() {
    results(Some(Failpoint::ItemFinished), 1);
}

/// A worker finishes two items, and publishes both at the end, or is killed at this point of the first. Its pool takes results
/// meanwhile, and all that are finished when the worker is dead.
fn results(killed_at: Option<Failpoint>, finished: usize) {
    let shared = Arc::new(([0, 0, 0].map(AtomicU64::new), Bytes::new()));
    assert!(claim_word::submit(&shared.0[0], claim_word::Known { finished: 0, submitted: 0 }, 2));
    let worker = {
        let shared = Arc::clone(&shared);
        thread::spawn(move || {
            let ([claims, finished, published], bytes) = &*shared;
            killed_at.into_iter().for_each(die_at);
            let mut position = Position::START;
            while !is_dead() && claim_word::try_claim(claims) {
                let result = 1 + position.frames.to_le_bytes()[0];
                assert!(RING.put(bytes, &mut position, 0, 1, &[&[result]]));
                progress::finish(finished, position);
            }
            progress::publish(published, position);
        })
    };
    let ([claims, finished_word, published], bytes) = &*shared;
    let (mut head, mut taken) = (Position::START, Vec::new());
    let mut take = |scope| {
        let reached = progress::reach(scope, finished_word, published);
        if scope == Scope::Unflushed && progress::runs_none(claims, reached) {
            return;
        }
        // What is published can be behind what was taken as finished.
        while head.frames < reached.frames {
            taken.push(RING.take(bytes, &mut head, |_, result| result[0]).unwrap());
        }
    };
    take(Scope::Unflushed);
    take(Scope::Visible);
    worker.join().unwrap();
    take(Scope::Completed);
    assert_eq!(taken, [1, 2][..finished]);
}

model!(somebody_sees_to_what_is_finished, attendance, 3, finds [Waking, Fence]);

/// A worker finishes; a caller who waits for something else goes away; the thread sleeps. One of them sees it.
fn attendance() {
    let words = Arc::new([0, 0, 1, 0].map(AtomicU32::new));
    let thread = {
        let words = Arc::clone(&words);
        thread::spawn(move || {
            while words[3].load(Relaxed) == 0 {
                let ticket = of(&words).thread.prepare_wait();
                if words[3].load(Relaxed) == 0 {
                    of(&words).thread.wait(ticket, None);
                }
            }
        })
    };
    let worker = {
        let words = Arc::clone(&words);
        thread::spawn(move || {
            words[3].store(1, Relaxed);
            of(&words).notify();
        })
    };
    of(&words).set_has_callers(false);
    if words[3].load(Relaxed) == 1 {
        of(&words).thread.notify_all(); // the caller has seen it, and hands on what it is not to do itself
    }
    worker.join().unwrap();
    thread.join().unwrap();
}

fn of(words: &[AtomicU32; 4]) -> PoolWakeups<'_> {
    PoolWakeups { callers: EventCount(&words[0]), thread: EventCount(&words[1]), attended: &words[2] }
}
