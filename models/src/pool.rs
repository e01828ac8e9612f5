//! A pool and one of its workers.

use loom::sync::Arc;
use loom::thread;

use crate::attendance::Attendance;
use crate::bell::Bell;
use crate::messages::{Bytes, RING};
use crate::ring::Mark;
use crate::sys::Lack::{Fence, Publishing, Seeing, Waking};
use crate::sys::atomic::{AtomicU32, AtomicU64, Relaxed};
use crate::{claims, model};

model!(an_item_runs_once_or_is_taken_back, items, 3, finds [Publishing, Seeing]);

/// The pool hands two items in, takes one back, if it can, and hands another in at its place. The worker begins what there
/// is. Each item is seen by one of the two, whole.
fn items() {
    let shared = Arc::new((AtomicU64::new(0), Bytes::new()));
    let worker = {
        let shared = Arc::clone(&shared);
        thread::spawn(move || {
            let (word, bytes) = &*shared;
            let mut cursor = Mark::START;
            let mut begin =
                || claims::begin(word).then(|| RING.take(bytes, &mut cursor, |_, item| item[0]).unwrap());
            [begin(), begin()]
        })
    };
    let (word, bytes) = &*shared;
    let mut tail = Mark::START;
    assert!(RING.put(bytes, &mut tail, 0, 1, &[&[1]]));
    let behind_the_first = tail;
    assert!(RING.put(bytes, &mut tail, 0, 1, &[&[2]]));
    let known = |handed_in| claims::Known { finished: 0, handed_in };
    assert!(claims::hand_in(word, known(0), 2));
    let taken_back = claims::take_back(word, known(2), 1).unwrap();
    if taken_back == 1 {
        tail = behind_the_first;
        assert!(RING.put(bytes, &mut tail, 0, 1, &[&[3]]));
        assert!(claims::hand_in(word, known(1), 1));
    }
    let ran = worker.join().unwrap().into_iter().flatten().collect::<Vec<u8>>();
    let left = claims::left(word) as usize;
    assert!([1, 2].starts_with(&ran) && taken_back == 0 || [1, 3].starts_with(&ran) && taken_back == 1);
    assert_eq!(ran.len() + left, 2);
}

model!(somebody_sees_to_what_is_finished, attendance, 3, finds [Waking, Fence]);

/// A worker finishes; a caller who waits for something else goes away; the thread sleeps. One of them sees it.
fn attendance() {
    let words = Arc::new([0, 0, 1, 0].map(AtomicU32::new));
    let thread = {
        let words = Arc::clone(&words);
        thread::spawn(move || {
            while words[3].load(Relaxed) == 0 {
                let armed = of(&words).thread.arm();
                if words[3].load(Relaxed) == 0 {
                    of(&words).thread.wait(armed, None);
                }
            }
        })
    };
    let worker = {
        let words = Arc::clone(&words);
        thread::spawn(move || {
            words[3].store(1, Relaxed);
            of(&words).call();
        })
    };
    of(&words).set(false);
    if words[3].load(Relaxed) == 1 {
        of(&words).thread.ring(); // the caller has seen it, and hands on what it is not to do itself
    }
    worker.join().unwrap();
    thread.join().unwrap();
}

fn of(words: &[AtomicU32; 4]) -> Attendance<'_> {
    Attendance { callers: Bell(&words[0]), thread: Bell(&words[1]), attended: &words[2] }
}
