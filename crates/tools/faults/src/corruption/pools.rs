//! Pools of which the memory is overwritten.

use std::time::Duration;

use anyhow::Result;
use multiproc::{ArrayChunk, Pool, SharedArray};
use tests::corrupter::Random;

use super::bounds::Bounds;
use super::{Rest, TIME, nap};

/// What a call may take that gives its items to workers which may have to be replaced.
pub(super) const WORK: Duration = Duration::from_secs(5);
/// How many files with large items the library keeps.
const FILES: u64 = 4;
/// Of an array.
const ELEMENTS: usize = 20_000;
pub(super) const SHUTDOWN: Duration = Duration::from_millis(200);
/// The time limit of an item that has one.
const ITEM: Duration = Duration::from_secs(1);
/// What the end of a pool may take: the workers' time, and that until those that were killed are reaped.
const POOL_END: Duration = Duration::from_secs(2);

/// Text of 300 kB, which goes to a worker in a file of its own.
fn long_texts(count: u64) -> impl Iterator<Item = Vec<String>> {
    (0..count).map(|number| vec![format!("{number:052}"); 5_000])
}

fn length(texts: Vec<String>) -> usize {
    texts.iter().map(String::len).sum()
}

pub(super) fn use_pool(random: &mut Random, bounds: &Bounds) -> Result<Rest> {
    let workers = usize::try_from(1 + random.below(3))?;
    let builder = Pool::builder().workers(workers).shutdown_timeout(SHUTDOWN);
    let pool = bounds.within(WORK, "PoolBuilder::build", || builder.build())??;
    // The library keeps and maps some of these files for further texts. So they are overwritten, too.
    pool.map(length, long_texts(FILES))?;
    Ok(Box::new(move |random, bounds| {
        for _ in 0..3 {
            use_once(&pool, random, bounds)?;
        }
        end_pool(pool, random, bounds)
    }))
}

fn use_once(pool: &Pool, random: &mut Random, bounds: &Bounds) -> Result<()> {
    let items = random.below(2_000);
    match random.below(6) {
        0 => {
            let square = |number: u64| number.wrapping_mul(number);
            drop(bounds.within(WORK, "Pool::map", || pool.map(square, 0..items))?);
        }
        1 => {
            let texts = (0..items / 10).map(|number| number.to_string());
            let map = || pool.map_results(|text: String| text.repeat(20), texts);
            drop(bounds.within(WORK, "Pool::map_results", map)?);
        }
        2 => {
            let mut results = pool.imap(|number: u64| vec![number; 5_000], 0..items / 100);
            while bounds.within(WORK, "Pool::imap", || results.next())?.is_some() {}
        }
        3 => {
            let options = pool.options().timeout(ITEM);
            let map = || options.map_results(nap, 0..items / 50);
            drop(bounds.within(WORK + ITEM, "Pool::map_results with a time limit", map)?);
        }
        4 => {
            let map = || pool.map_results(length, long_texts(items / 100));
            drop(bounds.within(WORK, "Pool::map_results of long texts", map)?);
        }
        _ => {
            for task in (0..items / 50).map(|number| pool.submit(nap, (number,))).collect::<Vec<_>>() {
                let Ok(task) = task else { continue };
                drop(bounds.within(WORK, "TaskHandle::get", || task.get())?);
            }
        }
    }
    Ok(())
}

pub(super) fn end_pool(pool: Pool, random: &mut Random, bounds: &Bounds) -> Result<()> {
    match random.below(3) {
        0 => bounds.within(POOL_END, "Pool::drop", || drop(pool)),
        1 => bounds.within(POOL_END, "Pool::join", || pool.join()),
        _ => bounds.within(POOL_END, "Pool::terminate", || pool.terminate()),
    }
}

/// Workers that fill the chunks of an array.
pub(super) fn use_array(random: &mut Random, bounds: &Bounds) -> Result<Rest> {
    let pool = Pool::builder().workers(2).shutdown_timeout(SHUTDOWN);
    let pool = bounds.within(WORK, "PoolBuilder::build", || pool.build())??;
    let mut array = SharedArray::<u64>::zeroed(ELEMENTS)?;
    let size = usize::try_from(1 + random.below(2_000))?;
    let chunks: Vec<_> = array.chunks_mut(size)?.collect();
    Ok(Box::new(move |random, bounds| {
        let fill = |mut chunk: ArrayChunk<u64>| {
            chunk.take().is_ok_and(|elements| {
                elements.fill(1);
                true
            })
        };
        drop(bounds.within(WORK, "Pool::map_results of chunks", || pool.map_results(fill, chunks))?);
        drop(bounds.within(TIME, "SharedArray::join_timeout", || array.join_timeout(TIME))?);
        if let Ok(chunks) = bounds.at_once("SharedArray::chunks_mut", || array.chunks_mut(size))? {
            for mut chunk in chunks.take(10) {
                drop(bounds.at_once("ArrayChunk::take", || chunk.take().map(|elements| elements.fill(2)))?);
            }
        }
        end_pool(pool, random, bounds)?;
        // Without a time limit, as no other process has a chunk.
        drop(bounds.at_once("SharedArray::join alone", || array.join())?);
        drop(bounds.at_once("SharedArray::into_shared", || array.into_shared())?);
        Ok(())
    }))
}
