//! What one process has to itself at a time stays with the original.

use multiproc::queue::bounded;
use multiproc::sync::Mutex;
use multiproc::{ArrayChunk, SharedArray};

use super::in_fork;
use crate::support::{Outcome, alone, trials};

trials![
    a_copy_does_not_have_a_chunk_that_the_original_has_taken,
    a_copy_that_sends_a_chunk_does_not_release_it_from_the_original,
    a_copy_can_take_a_chunk_that_the_original_has_not_taken,
    a_copy_makes_no_chunks_of_an_array,
    a_copy_does_not_change_a_slice_that_the_original_has_locked,
];

fn a_copy_does_not_have_a_chunk_that_the_original_has_taken() -> Outcome {
    alone(|| {
        let mut array = SharedArray::<u64>::zeroed(1)?;
        let mut chunk = array.chunks_mut(1)?.next().unwrap();
        chunk.as_mut()[0] = 7;
        assert!(in_fork(|| chunk.take().is_err()));
        assert_eq!(chunk.as_mut(), [7]);
        Ok(())
    })
}

fn a_copy_that_sends_a_chunk_does_not_release_it_from_the_original() -> Outcome {
    alone(|| {
        let (sender, receiver) = bounded::<ArrayChunk<u64>>(2)?;
        let mut array = SharedArray::<u64>::zeroed(1)?;
        let mut chunk = array.chunks_mut(1)?.next();
        chunk.as_mut().unwrap().as_mut()[0] = 7;
        assert!(in_fork(|| chunk.take().is_some_and(|chunk| sender.send(chunk).is_ok())));
        let mut sent_by_copy = receiver.recv()?;
        assert!(sent_by_copy.take().is_err(), "two handles have the chunk");
        let mut chunk = chunk.unwrap();
        assert_eq!(chunk.as_mut(), [7]);
        sender.send(chunk)?;
        assert_eq!(receiver.recv()?.as_mut(), [7]);
        Ok(())
    })
}

fn a_copy_can_take_a_chunk_that_the_original_has_not_taken() -> Outcome {
    alone(|| {
        let mut array = SharedArray::<u64>::zeroed(3)?;
        for (mut chunk, number) in array.chunks_mut(1)?.zip(1..) {
            assert!(in_fork(|| {
                chunk.as_mut()[0] = number;
                true
            }));
            assert!(chunk.take().is_err(), "the copy and the original have the chunk");
        }
        assert_eq!(array.into_shared()?[..], [1, 2, 3]);
        Ok(())
    })
}

/// Both would have chunks of the same elements.
fn a_copy_makes_no_chunks_of_an_array() -> Outcome {
    alone(|| {
        let mut array = SharedArray::<u64>::zeroed(2)?;
        assert!(in_fork(|| array.chunks_mut(1).is_err() && array.split_at(1).is_err()));
        assert_eq!(array.chunks_mut(1)?.count(), 2);
        let mut array = Some(array);
        assert!(in_fork(|| array.take().is_some_and(|array| array.into_shared().is_err())));
        let chunks = array.as_mut().map(|array| array.chunks_mut(2)).transpose()?;
        chunks.into_iter().flatten().for_each(|mut chunk| chunk.as_mut().fill(7));
        assert_eq!(array.map(SharedArray::into_shared).transpose()?.as_deref(), Some(&[7, 7][..]));
        Ok(())
    })
}

fn a_copy_does_not_change_a_slice_that_the_original_has_locked() -> Outcome {
    alone(|| {
        let mutex = Mutex::from_slice(&[1_u64, 2, 3])?;
        let mut slice = mutex.lock()?;
        assert!(in_fork(|| {
            slice.set(0, 7);
            slice.copy_from_slice(1, &[7, 7]);
            true
        }));
        assert_eq!(slice.to_vec(), [1, 2, 3]);
        slice.set(0, 4);
        slice.copy_from_slice(1, &[5, 6]);
        assert_eq!(slice.to_vec(), [4, 5, 6]);
        Ok(())
    })
}
