//! Chunks of shared arrays: no two holders have an element.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::Ordering::SeqCst;

use multiproc::sync::{Atomic, Mutex};
use multiproc::{ArrayChunk, Pool, SharedArray};
use nix::sys::signal::{Signal, kill};
use nix::unistd::getpid;
use serde_json::{Value, json};

use super::{decode_all, numbers, transfer};
use crate::support::{Outcome, TEST_TIMEOUT, trials};

trials![
    chunks_stay_disjoint_however_their_numbers_are_altered,
    chunks_stay_disjoint_however_their_parts_are_mixed,
    an_encoding_that_is_read_twice_gives_one_chunk,
    an_encoding_of_an_earlier_message_gives_no_chunk,
    a_chunk_that_is_encoded_twice_has_one_holder,
    outside_of_a_message_a_chunk_is_not_encoded,
    a_chunk_of_a_killed_task_is_not_sent_again,
];

pub(super) type Chunk = ArrayChunk<u64>;
type Handles = Rc<Vec<RefCell<Chunk>>>;

/// Two arrays of two chunks each, and handles that stay with their sender.
pub(super) fn four_chunks() -> Outcome<(Vec<SharedArray<u64>>, Handles)> {
    let (mut arrays, mut chunks) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        let mut array = SharedArray::zeroed(8)?;
        chunks.extend(array.chunks_mut(4)?.map(RefCell::new));
        arrays.push(array);
    }
    Ok((arrays, Rc::new(chunks)))
}

/// Takes all chunks that can be taken, and asserts that none shares an element with another.
fn assert_disjoint(received: &mut [Chunk], kept: &[RefCell<Chunk>], how: &str) {
    let mut kept: Vec<_> = kept.iter().map(RefCell::borrow_mut).collect();
    let kept = kept.iter_mut().map(|chunk| &mut **chunk);
    let mut slices: Vec<_> = received.iter_mut().chain(kept).filter_map(|chunk| chunk.take().ok()).collect();
    for (slice, number) in slices.iter_mut().zip(1..) {
        slice.fill(number);
    }
    for (slice, number) in slices.iter().zip(1..) {
        assert!(slice.iter().all(|&element| element == number), "two have an element: {how}");
    }
}

/// What the chunks of [`four_chunks`] give to a serializer.
pub(super) fn honest_chunks() -> Outcome<Value> {
    let (_arrays, chunks) = four_chunks()?;
    let (mut received, json) = transfer(&chunks, |_| (), decode_all::<Chunk>)?;
    assert_eq!(received.len(), 4);
    assert_disjoint(&mut received, &chunks, "nothing was forged");
    assert!(received.iter_mut().all(|chunk| chunk.take().is_ok()), "all have arrived");
    assert_eq!(numbers(&json), ["/0", "/1", "/2", "/3"], "a chunk is a number to a serializer");
    Ok(json)
}

fn forge_chunks(forge: impl Fn(&mut Value) + 'static, how: &str) -> Outcome {
    let (_arrays, chunks) = four_chunks()?;
    let (mut received, _) = transfer(&chunks, forge, decode_all::<Chunk>)?;
    assert_disjoint(&mut received, &chunks, how);
    Ok(())
}

fn chunks_stay_disjoint_however_their_numbers_are_altered() -> Outcome {
    for at in numbers(&honest_chunks()?) {
        for number in (0..12).chain([64, u64::MAX]) {
            let (how, at) = (format!("{at} is {number}"), at.clone());
            forge_chunks(move |json| *json.pointer_mut(&at).unwrap() = json!(number), &how)?;
        }
    }
    Ok(())
}

fn chunks_stay_disjoint_however_their_parts_are_mixed() -> Outcome {
    let honest = honest_chunks()?;
    let parts = numbers(&honest[0]);
    for (from, to) in (0..4).flat_map(|from| (0..4).map(move |to| (from, to))) {
        for part in &parts {
            for swaps in [false, true] {
                let [from, to] = [from, to].map(|index| format!("/{index}{part}"));
                let how = format!("{to} is {from}, swapped: {swaps}");
                let forge = move |json: &mut Value| {
                    let [one, other] = [&from, &to].map(|at| json.pointer(at).unwrap().clone());
                    *json.pointer_mut(&to).unwrap() = one;
                    if swaps {
                        *json.pointer_mut(&from).unwrap() = other;
                    }
                };
                forge_chunks(forge, &how)?;
            }
        }
    }
    Ok(())
}

fn an_encoding_that_is_read_twice_gives_one_chunk() -> Outcome {
    let (_arrays, chunks) = four_chunks()?;
    let twice = |json: &Value| [decode_all::<Chunk>(json), decode_all(json)];
    let ([first, second], _) = transfer(&chunks, |_| (), twice)?;
    assert_eq!((first.len(), second.len()), (4, 0));
    // A serializer that repeats what was written.
    let repeat = |json: &mut Value| {
        let parts = json.as_array_mut().unwrap();
        parts.extend_from_within(..);
    };
    let (mut received, _) = transfer(&chunks, repeat, decode_all::<Chunk>)?;
    assert_eq!(received.len(), 4);
    assert_disjoint(&mut received, &chunks, "all are repeated");
    Ok(())
}

fn an_encoding_of_an_earlier_message_gives_no_chunk() -> Outcome {
    let (_arrays, chunks) = four_chunks()?;
    let (mut received, json) = transfer(&chunks, |_| (), decode_all::<Chunk>)?;
    let another = Rc::new(vec![Mutex::new(0_u64)?]);
    let (again, _) = transfer(&another, move |later| *later = json.clone(), decode_all::<Chunk>)?;
    assert!(again.is_empty(), "an encoding is replayed");
    assert_disjoint(&mut received, &chunks, "a replay");
    Ok(())
}

fn a_chunk_that_is_encoded_twice_has_one_holder() -> Outcome {
    let (_arrays, chunks) = four_chunks()?;
    let (mut received, _) = transfer(&chunks, |_| (), decode_all::<Chunk>)?;
    let (others, _) = transfer(&chunks, |_| (), decode_all::<Chunk>)?;
    received.extend(others);
    assert_eq!(received.len(), 8);
    assert_disjoint(&mut received, &chunks, "two messages");
    assert_eq!(received.iter_mut().filter_map(|chunk| chunk.take().ok()).count(), 4);
    Ok(())
}

fn outside_of_a_message_a_chunk_is_not_encoded() -> Outcome {
    let (_arrays, chunks) = four_chunks()?;
    let error = serde_json::to_string(&chunks[0]).unwrap_err().to_string();
    assert!(error.contains("travels as an argument"), "{error}");
    assert!(serde_json::from_str::<Chunk>("0").is_err());
    assert_eq!(chunks[0].borrow_mut().take()?, [0; 4]);
    Ok(())
}

/// Fills a chunk; the one in the middle kills its worker.
fn fill_or_die(mut chunk: Chunk, runs: Atomic<u64>) {
    runs.fetch_add(1, SeqCst);
    chunk.as_mut().fill(1);
    if chunk.first() == 4 {
        let _ = kill(getpid(), Signal::SIGKILL);
    }
}

fn a_chunk_of_a_killed_task_is_not_sent_again() -> Outcome {
    let (pool, runs) = (Pool::new(2)?, Atomic::new(0_u64)?);
    let mut array = SharedArray::<u64>::zeroed(12)?;
    let items: Vec<_> = array.chunks_mut(4)?.map(|chunk| (chunk, runs.clone())).collect();
    let results = pool.options().retries(3).starmap_results(fill_or_die, items)?;
    assert_eq!(results.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true]);
    assert_eq!(runs.load(SeqCst), 3, "the chunk of a killed task has had two tasks");
    assert!(array.join_timeout(TEST_TIMEOUT)?);
    for mut chunk in array.chunks_mut(6)? {
        assert_eq!(chunk.take()?.len(), 6);
    }
    Ok(())
}
