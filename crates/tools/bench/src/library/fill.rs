//! W8: an array that two workers fill in place, again and again.

use std::sync::Mutex;
use std::thread;

use anyhow::Result;
use bench::measure::{Measured, Scale, rate};
use bench::work::{FILL, FILL_AMOUNT, FILL_CHUNK, check_filled, fill};
use multiproc::{ArrayChunk, Pool, SharedArray};

pub(super) fn chunks(scale: Scale) -> Result<Measured> {
    let pool = Pool::new(2)?;
    let mut array = SharedArray::zeroed(FILL)?;
    let fill_chunk = |mut chunk: ArrayChunk<u64>| fill(chunk.first(), chunk.as_mut());
    let work = || {
        pool.map(fill_chunk, array.chunks_mut(FILL_CHUNK)?)?;
        Ok(array.join()?)
    };
    let measured = rate(scale, FILL_AMOUNT, work, Ok)?;
    check_filled(&array.into_shared()?)?;
    Ok(measured)
}

/// Two threads that take the next chunk when they have filled one.
pub(super) fn threads(scale: Scale) -> Result<Measured> {
    let mut array = vec![0; FILL];
    let work = || {
        let chunks = Mutex::new((0..).step_by(FILL_CHUNK).zip(array.chunks_mut(FILL_CHUNK)));
        let next = || chunks.lock().ok().and_then(|mut chunks| chunks.next());
        let fill_all = || {
            while let Some((first, chunk)) = next() {
                fill(first, chunk);
            }
        };
        thread::scope(|scope| (0..2).for_each(|_| drop(scope.spawn(fill_all))));
        Ok(())
    };
    let measured = rate(scale, FILL_AMOUNT, work, Ok)?;
    check_filled(&array)?;
    Ok(measured)
}
