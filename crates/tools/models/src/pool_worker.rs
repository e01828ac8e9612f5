//! Models of a pool and one of its workers: claiming items, making results visible, waking the pool.

use loom::cell::Cell;
use loom::sync::Arc;
use loom::thread;

use crate::ipc::event_count::EventCount;
use crate::ipc::ring::{Memory, Position, Ring};
use crate::model;
use crate::pool::worker_rings::claim_word;
use crate::pool::worker_rings::result_words::{self, Scope};
use crate::pool::worker_rings::wakeups::{PoolWakeups, WaitingCallers};
use crate::sys::Mutation::{AcquireToRelaxed, NoFence, NoWake, ReleaseToRelaxed};
use crate::sys::atomic::{AtomicU32, AtomicU64, Relaxed, SeqCst, fence};
use crate::sys::failpoint::{Failpoint, die_at, is_dead};

/// Where positions begin, as the words of these models do.
const START: Position = Position { frames: 0, bytes: 0 };

/// Room for two frames of eight bytes.
const RING: Ring = Ring::new(0, 32);

/// Memory in which loom reports a byte that is read while another thread may write it.
struct Bytes(Vec<Cell<u8>>);

impl Bytes {
    fn new() -> Self {
        Self((0..32).map(|_| Cell::new(0)).collect())
    }
}

// Loom checks each access to a cell.
impl Memory for Bytes {
    fn write(&self, offset: usize, bytes: &[u8]) {
        for (cell, &byte) in self.0[offset..].iter().zip(bytes) {
            cell.set(byte);
        }
    }

    fn read<R>(&self, offset: usize, length: usize, read: impl FnOnce(&[u8]) -> R) -> R {
        let bytes: Vec<u8> = self.0[offset..offset + length].iter().map(Cell::get).collect();
        read(&bytes)
    }
}

model!(an_item_runs_once_or_is_revoked, items, 3, detects [ReleaseToRelaxed, AcquireToRelaxed]);

/// The pool submits two items, revokes the second if it can, and submits another in its place. The worker
/// claims items meanwhile. Exactly one of the two has each item, whole.
fn items() {
    let shared = Arc::new((AtomicU64::new(0), Bytes::new()));
    let worker = {
        let shared = Arc::clone(&shared);
        thread::spawn(move || {
            let (word, bytes) = &*shared;
            let mut cursor = START;
            let mut begin = || {
                let is_any = claim_word::try_claim(word, 1) == 1;
                is_any.then(|| RING.take(bytes, &mut cursor, |_, item| item[0]).unwrap())
            };
            [begin(), begin()]
        })
    };
    let (word, bytes) = &*shared;
    let mut tail = START;
    assert!(RING.put(bytes, &mut tail, 0, 1, &[&[1]]));
    let behind_the_first = tail;
    assert!(RING.put(bytes, &mut tail, 0, 1, &[&[2]]));
    let known = |submitted| claim_word::PoolCounts { taken: 0, submitted };
    assert!(claim_word::submit(word, known(0), 2));
    let taken_back = claim_word::revoke(word, known(2), 1).unwrap();
    if taken_back == 1 {
        tail = behind_the_first;
        assert!(RING.put(bytes, &mut tail, 0, 1, &[&[3]]));
        assert!(claim_word::submit(word, known(1), 1));
    }
    let ran = worker.join().unwrap().into_iter().flatten().collect::<Vec<u8>>();
    let left = claim_word::unclaimed(word) as usize;
    assert!([1, 2].starts_with(&ran) && taken_back == 0 || [1, 3].starts_with(&ran) && taken_back == 1);
    assert_eq!(ran.len() + left, 2);
}

model!(an_item_of_a_run_is_begun_or_revoked, runs, 2, detects [NoFence, ReleaseToRelaxed, AcquireToRelaxed]);

/// A worker claims a run of two items, and what it can of a third, while the pool revokes what it can of them.
/// No item is both begun and revoked, and none is neither. (Loom has no `membarrier`: a full fence on both
/// sides stands for it.)
fn runs() {
    let shared = Arc::new(([0, 0].map(AtomicU64::new), AtomicU32::new(0)));
    let known = |submitted| claim_word::PoolCounts { taken: 0, submitted };
    assert!(claim_word::submit(&shared.0[0], known(0), 3));
    let worker = {
        let shared = Arc::clone(&shared);
        thread::spawn(move || {
            let ([claims, completed], requests) = &*shared;
            let mut position = START;
            for most in [2, 1] {
                let seen = requests.load(Relaxed);
                let claimed = claim_word::try_claim(claims, if seen == 1 { 1 } else { most });
                for count in 1..=claimed {
                    position = position.after(0);
                    result_words::complete(completed, position);
                    if count == claimed || !claim_word::goes_on(requests, seen) {
                        break;
                    }
                }
                claim_word::give_back(claims, position.frames);
            }
            position.frames
        })
    };
    let ([claims, completed], requests) = &*shared;
    requests.store(1, Relaxed);
    fence(SeqCst);
    let count = || Position::load(completed).frames;
    let revoked = claim_word::revoke_run(claims, known(3), 3, count).unwrap();
    let begun = worker.join().unwrap();
    assert_eq!(begun + revoked + claim_word::unclaimed(claims), 3);
    assert!(begun > 0 || revoked == 3);
}

model!(an_item_of_an_array_runs_once_or_is_revoked, arrays, 3, detects [ReleaseToRelaxed, AcquireToRelaxed]);

/// The pool submits an array of two items, revokes the second if it can, and submits another in its place. The
/// worker claims one item, and then what more of the array it can. Exactly one of the two has each item.
fn arrays() {
    let shared = Arc::new((AtomicU64::new(0), Words::new()));
    let worker = {
        let shared = Arc::clone(&shared);
        thread::spawn(move || {
            let (word, memory) = &*shared;
            let (mut start, mut index, mut ran) = (START.bytes, 0, Vec::new());
            while claim_word::try_claim(word, 1) == 1 {
                let array = RING.next_array(memory, &mut start, &mut index).unwrap();
                let claimed = 1 + claim_word::try_claim(word, array.count - index - 1);
                let most = claimed.min(RING.array(memory, start).unwrap().count - index);
                for value in index..index + most {
                    ran.push(memory.read(RING.value_offset(array, value), 1, |value| value[0]));
                }
                index += most;
                claim_word::give_back(word, u32::try_from(ran.len()).unwrap());
            }
            ran
        })
    };
    let (word, memory) = &*shared;
    let known = |submitted| claim_word::PoolCounts { taken: 0, submitted };
    let array = RING.begin_array(memory, START, 1, 2);
    memory.write(RING.value_offset(array, 0), &[1, 2]);
    assert!(claim_word::submit(word, known(0), 2));
    let revoked = claim_word::revoke(word, known(2), 1).unwrap();
    if revoked == 1 {
        RING.shorten(memory, array, 1);
        let next = Position { frames: 1, bytes: array.end(1) };
        let other = RING.begin_array(memory, next, 1, 1);
        memory.write(RING.value_offset(other, 0), &[3]);
        assert!(claim_word::submit(word, known(1), 1));
    }
    let ran = worker.join().unwrap();
    assert!([1, 2].starts_with(&ran) && revoked == 0 || [1, 3].starts_with(&ran) && revoked == 1, "{ran:?}");
    assert_eq!(ran.len() + claim_word::unclaimed(word) as usize, 2);
}

model!(results_of_an_open_array_are_taken_once, open_array, 3, detects [ReleaseToRelaxed, AcquireToRelaxed]);

/// A worker writes one result of an array of two, ends the array there, and writes another. The pool takes
/// results meanwhile, also of the array that is open.
fn open_array() {
    let shared = Arc::new(([0, 0].map(AtomicU64::new), Words::new()));
    let worker = {
        let shared = Arc::clone(&shared);
        thread::spawn(move || {
            let ([completed, visible], memory) = &*shared;
            let mut position = START;
            for (room, value) in [(2, 1), (1, 2)] {
                let array = RING.begin_array(memory, position, 1, room);
                memory.write(RING.value_offset(array, 0), &[value]);
                position = Position { frames: position.frames + 1, bytes: array.end(1) };
                result_words::complete(completed, position);
                RING.shorten(memory, array, 1);
            }
            result_words::make_visible(visible, position);
        })
    };
    let ([completed, visible], memory) = &*shared;
    let (mut head, mut open, mut taken) = (START, None, Vec::new());
    let mut take = |scope| {
        let end = result_words::end_of_scope(scope, completed, visible);
        if head.frames < end.frames {
            let (start, skipped) = open.unwrap_or((head.bytes, 0));
            let mut copied = RING.copy_values(memory, start, skipped, end.frames_since(head), end.bytes);
            (head, open) = (end, copied.open);
            while let Some((_, value)) = copied.frames.next() {
                taken.push(value[0]);
            }
        }
    };
    take(Scope::Completed);
    take(Scope::Visible);
    worker.join().unwrap();
    take(Scope::Completed);
    assert_eq!(taken, [1, 2]);
}

/// Memory in which the words at multiples of 8 are atomic, beside its bytes.
struct Words([AtomicU64; 4], Bytes);

impl Words {
    fn new() -> Self {
        Self([0; 4].map(AtomicU64::new), Bytes::new())
    }
}

impl Memory for Words {
    fn write(&self, offset: usize, bytes: &[u8]) {
        self.1.write(offset, bytes);
    }

    fn read<R>(&self, offset: usize, length: usize, read: impl FnOnce(&[u8]) -> R) -> R {
        self.1.read(offset, length, read)
    }

    fn load_word(&self, offset: usize) -> u64 {
        self.0[offset / 8].load(Relaxed)
    }

    fn store_word(&self, offset: usize, word: u64) {
        self.0[offset / 8].store(word, Relaxed);
    }
}

model!(each_completed_item_has_one_result, all_complete, 3, detects [ReleaseToRelaxed, AcquireToRelaxed]);
model!(
    a_completed_item_has_a_result_though_its_worker_is_killed, killed_after_completing, 3,
    detects [ReleaseToRelaxed, AcquireToRelaxed]
);

fn all_complete() {
    results(None, 2);
}

fn killed_after_completing() {
    results(Some(Failpoint::ItemCompleted), 1);
}

/// A worker completes two items and makes both visible at the end, or is killed at this point of the first.
/// The pool collects results meanwhile, and all completed ones once the worker has exited.
fn results(killed_at: Option<Failpoint>, expected: usize) {
    let shared = Arc::new(([0, 0, 0].map(AtomicU64::new), Bytes::new()));
    assert!(claim_word::submit(&shared.0[0], claim_word::PoolCounts { taken: 0, submitted: 0 }, 2));
    let worker = {
        let shared = Arc::clone(&shared);
        thread::spawn(move || {
            let ([claims, completed, visible], bytes) = &*shared;
            killed_at.into_iter().for_each(die_at);
            let mut position = START;
            while !is_dead() && claim_word::try_claim(claims, 1) == 1 {
                let result = 1 + position.frames.to_le_bytes()[0];
                assert!(RING.put(bytes, &mut position, 0, 1, &[&[result]]));
                result_words::complete(completed, position);
            }
            result_words::make_visible(visible, position);
        })
    };
    let ([claims, completed, visible], bytes) = &*shared;
    let (mut head, mut taken) = (START, Vec::new());
    let mut take = |scope| {
        let reached = result_words::end_of_scope(scope, completed, visible);
        if scope == Scope::Unflushed && result_words::is_idle_at(claims, reached) {
            return;
        }
        // The visible position can be behind the completed one, up to which results were taken.
        while head.frames < reached.frames {
            taken.push(RING.take(bytes, &mut head, |_, result| result[0]).unwrap());
        }
    };
    take(Scope::Unflushed);
    take(Scope::Visible);
    worker.join().unwrap();
    take(Scope::Completed);
    assert_eq!(taken, [1, 2][..expected]);
}

model!(a_completed_result_wakes_a_caller_or_the_pools_thread, pool_wakeups, 3, detects [NoWake, NoFence]);

/// A worker completes an item while a caller that waits for another item leaves and the pool's thread sleeps:
/// the caller or the pool's thread sees the result.
fn pool_wakeups() {
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
    of(&words).set_waiting(WaitingCallers::None);
    if words[3].load(Relaxed) == 1 {
        of(&words).thread.notify_all(); // the caller has seen the result, and passes the driver's work on
    }
    worker.join().unwrap();
    thread.join().unwrap();
}

fn of(words: &[AtomicU32; 4]) -> PoolWakeups<'_> {
    PoolWakeups { callers: EventCount(&words[0]), thread: EventCount(&words[1]), waiting: &words[2] }
}
