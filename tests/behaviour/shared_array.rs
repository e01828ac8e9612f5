//! **Shared array**: processes fill exclusive chunks of shared memory.

use std::cell::RefCell;
use std::process::Command;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use multiproc::{ArrayChunk, Connection, Pool, Process, Result, SharedArray, pipe};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::shared_slice::inode_at;
use crate::support::{Latch, Outcome, TEST_TIMEOUT, block, trials};

trials![
    chunks_that_workers_have_filled_are_the_array,
    an_array_can_be_filled_again_and_again,
    it_becomes_a_slice_without_a_copy,
    an_iterator_that_has_no_more_chunks_keeps_none,
    a_chunk_comes_back_as_a_result,
    the_two_halves_are_disjoint,
    an_empty_array_has_no_chunks,
    a_chunk_of_no_size_is_refused,
    chunks_cannot_be_made_while_others_are_out,
    chunks_are_back_though_programs_are_started_meanwhile,
    a_killed_holder_gives_its_chunk_back,
    a_chunk_that_no_task_received_is_back,
    a_chunk_has_one_holder_however_often_it_was_encoded,
    a_sender_takes_a_chunk_back_that_no_process_has_taken,
    a_chunk_of_another_type_is_refused,
    memory_that_cannot_be_had_is_an_error,
    elements_larger_than_a_byte_begin_anywhere,
];

fn number(mut chunk: ArrayChunk<u64>) {
    let first = chunk.first() as u64;
    (first..).zip(chunk.as_mut()).for_each(|(number, element)| *element += number);
}

fn chunks_that_workers_have_filled_are_the_array() -> Outcome {
    let pool = Pool::new(3)?;
    for size in [1, 7, 1_000, 4_096, 10_000, 100_000] {
        let mut array = SharedArray::<u64>::zeroed(10_000)?;
        pool.map(number, array.chunks_mut(size)?)?;
        assert!(array.into_shared()?.iter().copied().eq(0..10_000), "chunks of {size}");
    }
    Ok(())
}

fn an_array_can_be_filled_again_and_again() -> Outcome {
    let pool = Pool::new(2)?;
    let mut array = SharedArray::build(1_000, |elements| elements.fill(5_u64))?;
    for _ in 0..3 {
        pool.map(number, array.chunks_mut(100)?)?;
        array.join()?;
    }
    assert!(array.into_shared()?.iter().copied().eq((0..1_000).map(|number| 5 + 3 * number)));
    Ok(())
}

/// The chunk and the slice are of the same memory.
fn it_becomes_a_slice_without_a_copy() -> Outcome {
    let mut array = SharedArray::<u64>::zeroed(100_000)?;
    let [mut chunk, _] = array.split_at(100_000)?;
    chunk.as_mut().fill(7);
    let memory = inode_at(chunk.as_mut().as_ptr());
    drop(chunk);
    let slice = array.into_shared()?;
    assert_eq!(inode_at(slice.as_ptr()), memory);
    assert!(slice.iter().all(|&element| element == 7));
    Ok(())
}

fn an_iterator_that_has_no_more_chunks_keeps_none() -> Outcome {
    let pool = Pool::new(2)?;
    let mut array = SharedArray::<u64>::zeroed(1_000)?;
    let mut chunks = array.chunks_mut(400)?;
    for chunk in chunks.by_ref().take(3) {
        pool.apply(number, (chunk,))?;
    }
    assert!(array.join_timeout(TEST_TIMEOUT)?, "chunks are out");
    assert!(chunks.next().is_none());
    assert!(array.into_shared()?.iter().copied().eq(0..1_000));
    Ok(())
}

fn a_chunk_comes_back_as_a_result() -> Outcome {
    let fill = |mut chunk: ArrayChunk<u64>, number: u64| {
        chunk.as_mut().fill(number);
        chunk
    };
    let mut array = SharedArray::<u64>::zeroed(100)?;
    let [left, right] = array.split_at(40)?;
    let pool = Pool::new(1)?;
    let mut left = pool.apply(fill, (left, 3))?;
    let mut right = Process::spawn(fill, (right, 4))?.join()?;
    assert!(left.as_mut() == [3; 40] && right.as_mut() == [4; 60]);
    assert_eq!((right.first(), right.len()), (40, 60));
    left.as_mut()[0] = 5;
    let left = pool.apply(fill, (left, 6))?;
    assert!(!array.join_timeout(Duration::ZERO)?, "this process holds both");
    drop((left, right));
    let shared = array.into_shared()?;
    assert!(shared[..40].iter().all(|&element| element == 6));
    assert!(shared[40..].iter().all(|&element| element == 4));
    Ok(())
}

fn the_two_halves_are_disjoint() -> Outcome {
    let mut array = SharedArray::<u64>::zeroed(100)?;
    let [mut left, right] = array.split_at(30)?;
    assert_eq!((left.len(), right.first(), right.len()), (30, 30, 70));
    left.as_mut().fill(1);
    let fill = |mut chunk: ArrayChunk<u64>| chunk.as_mut().fill(2);
    Process::spawn(fill, (right,))?.join()?;
    drop(left);
    let shared = array.into_shared()?;
    assert!(
        shared[..30].iter().all(|&element| element == 1) && shared[30..].iter().all(|&element| element == 2)
    );
    Ok(())
}

fn an_empty_array_has_no_chunks() -> Outcome {
    let mut array = SharedArray::<u32>::zeroed(0)?;
    assert!(array.is_empty() && array.chunks_mut(10)?.next().is_none() && array.split_at(0).is_err());
    assert!(array.into_shared()?.is_empty());
    Ok(())
}

fn a_chunk_of_no_size_is_refused() -> Outcome {
    let mut array = SharedArray::<u32>::zeroed(10)?;
    assert!(array.chunks_mut(0).err().is_some_and(|error| error.to_string().contains("at least 1")));
    assert!(array.split_at(11).is_err_and(|error| error.to_string().contains("beyond the end")));
    Ok(())
}

fn chunks_cannot_be_made_while_others_are_out() -> Outcome {
    let mut array = SharedArray::<u32>::zeroed(10)?;
    let [left, right] = array.split_at(5)?;
    drop(left);
    let error = array.chunks_mut(5).err().map(|error| error.to_string()).unwrap_or_default();
    assert!(error.contains("not back yet"), "{error}");
    assert!(!array.join_timeout(Duration::from_millis(20))?);
    drop(right);
    array.join()?;
    assert_eq!(array.chunks_mut(5)?.count(), 2);
    Ok(())
}

/// A program that another thread starts has the chunk's socket until the kernel executes it.
fn chunks_are_back_though_programs_are_started_meanwhile() -> Outcome {
    let mut array = SharedArray::<u32>::zeroed(10)?;
    let start = || (0..300).try_for_each(|_| Command::new("true").status().map(drop));
    thread::scope(|scope| {
        let starter = scope.spawn(start);
        while !starter.is_finished() {
            drop(array.chunks_mut(10)?.next());
            array.split_at(5)?;
        }
        Ok(starter.join().unwrap()?)
    })
}

fn a_killed_holder_gives_its_chunk_back() -> Outcome {
    let mut array = SharedArray::<u64>::zeroed(10)?;
    let [left, right] = array.split_at(5)?;
    let (gate, theirs) = pipe()?;
    let hold = |mut chunk: ArrayChunk<u64>, gate: Latch| {
        chunk.as_mut()[0] = 7;
        block(gate);
    };
    let holder = Process::spawn(hold, (right, theirs))?;
    gate.recv()?;
    drop(left);
    assert!(!array.join_timeout(Duration::from_millis(20))?);
    holder.kill()?;
    assert!(array.join_timeout(TEST_TIMEOUT)?);
    assert_eq!(array.into_shared()?[..], [0, 0, 0, 0, 0, 7, 0, 0, 0, 0]);
    Ok(())
}

fn a_chunk_that_no_task_received_is_back() -> Outcome {
    let mut array = SharedArray::<u64>::zeroed(100)?;
    let pool = Pool::new(1)?;
    let (gate, theirs) = pipe()?;
    let busy = pool.submit(block, (theirs,))?;
    gate.recv()?;
    let tasks: Result<Vec<_>> = array.chunks_mut(10)?.map(|chunk| pool.submit(number, (chunk,))).collect();
    drop((tasks?, busy));
    pool.terminate();
    assert!(array.join_timeout(TEST_TIMEOUT)?);
    Ok(())
}

/// A handle that stays with its sender.
#[derive(Clone)]
struct Kept(Rc<RefCell<ArrayChunk<u64>>>);

impl Kept {
    fn all_of(array: &mut SharedArray<u64>) -> Result<Self> {
        let [chunk, _] = array.split_at(array.len())?;
        Ok(Self(Rc::new(RefCell::new(chunk))))
    }
}

impl Serialize for Kept {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.borrow().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Kept {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(Rc::new(RefCell::new(ArrayChunk::deserialize(deserializer)?))))
    }
}

fn a_chunk_has_one_holder_however_often_it_was_encoded() -> Outcome {
    let mut array = SharedArray::<u64>::zeroed(10)?;
    let chunk = Kept::all_of(&mut array)?;
    let take = |Kept(chunk): Kept, teller: Connection<bool, ()>| {
        let is_taken = chunk.borrow_mut().take().is_ok();
        teller.send(is_taken).unwrap();
        let _ = teller.recv(); // keeps the chunk
    };
    let mut holders = Vec::new();
    for _ in 0..3 {
        let (ours, theirs) = pipe()?;
        let holder = Process::spawn(take, (chunk.clone(), theirs))?;
        holders.push((ours, holder));
    }
    let taken: Vec<bool> = holders.iter().map(|(ours, _)| ours.recv()).collect::<Result<_>>()?;
    assert_eq!(taken.iter().filter(|&&is_taken| is_taken).count(), 1, "{taken:?}");
    assert!(chunk.0.borrow_mut().take().is_err());
    for (ours, holder) in holders {
        drop(ours);
        holder.join()?;
    }
    Ok(())
}

fn a_sender_takes_a_chunk_back_that_no_process_has_taken() -> Outcome {
    let mut array = SharedArray::<u64>::zeroed(10)?;
    let chunk = Kept::all_of(&mut array)?;
    let (sender, receiver) = pipe::<Kept, Kept>()?;
    sender.send(chunk.clone())?;
    chunk.0.borrow_mut().as_mut().fill(3);
    let Kept(received) = receiver.recv()?;
    assert!(received.borrow_mut().take().is_err());
    assert!(chunk.0.borrow_mut().as_mut().iter().all(|&element| element == 3));
    Ok(())
}

/// Sends elements of one type, and receives those of another.
struct Mixed(Option<ArrayChunk<u64>>);

impl Serialize for Mixed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.as_ref().unwrap().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Mixed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        ArrayChunk::<u32>::deserialize(deserializer).map(|_| Self(None))
    }
}

fn a_chunk_of_another_type_is_refused() -> Outcome {
    let mut array = SharedArray::<u64>::zeroed(10)?;
    let [chunk, _] = array.split_at(5)?;
    let error = Process::spawn(|mixed: Mixed| drop(mixed), (Mixed(Some(chunk)),)).and_then(Process::join);
    let error = error.unwrap_err().to_string();
    assert!(error.contains("another type"), "{error}");
    Ok(())
}

fn memory_that_cannot_be_had_is_an_error() -> Outcome {
    for length in [usize::MAX, usize::MAX / 8, isize::MAX as usize / 8, 1 << 50] {
        assert!(SharedArray::<u64>::zeroed(length).is_err(), "{length}");
    }
    Ok(())
}

fn elements_larger_than_a_byte_begin_anywhere() -> Outcome {
    let mut array = SharedArray::<[u8; 7]>::zeroed(5_000)?;
    let fill = |mut chunk: ArrayChunk<[u8; 7]>| {
        thread::yield_now();
        chunk.as_mut().fill([9; 7]);
    };
    Pool::new(2)?.map(fill, array.chunks_mut(613)?)?;
    assert!(array.into_shared()?.iter().all(|&element| element == [9; 7]));
    Ok(())
}
