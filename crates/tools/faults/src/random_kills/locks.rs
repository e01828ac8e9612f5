//! Processes that work under locks, semaphores, events and the like, and fill a shared array meanwhile.

use anyhow::{Result, bail, ensure};
use multiproc::{ArrayChunk, Error, Pool, Process, SharedArray};

use super::BOUND;
use super::kill_round::KillRound;
use crate::locks::{BEGUN, FILLED, Locks, PARTIES};

/// The elements of a chunk: it begins and ends inside of a page.
const CHUNK: usize = 1_000;

/// What became of each party, in the order of the chunks.
type Ends = Vec<Result<Result<(), Error>, Error>>;

pub(super) fn children(round: &mut KillRound) -> Result<()> {
    let (locks, mut array) = (Locks::new()?, new_array()?);
    let spawn = |chunk| Process::spawn(Locks::work_and_fill, (locks.clone(), chunk));
    let children: Vec<_> = array.chunks_mut(CHUNK)?.map(spawn).collect::<Result<_, _>>()?;
    let pids: Vec<_> = children.iter().map(Process::pid).collect();
    let work = || (children.into_iter().map(Process::join).collect(), locks.use_all());
    let (ends, used) = round.run(|| pids.clone(), work);
    used?;
    check(round, array, ends)
}

pub(super) fn workers(round: &mut KillRound) -> Result<()> {
    let (locks, mut array) = (Locks::new()?, new_array()?);
    let pool = Pool::builder().workers(PARTIES as usize).chunk_size(1).build()?;
    let items: Vec<_> = array.chunks_mut(CHUNK)?.map(|chunk| (locks.clone(), chunk)).collect();
    let fill = |locks: Locks, chunk: ArrayChunk<u64>| locks.work_and_fill(chunk);
    let work = || (pool.starmap_results(fill, items), locks.use_all());
    let (ends, used) = round.run(|| pool.worker_pids(), work);
    used?;
    pool.join();
    check(round, array, ends?)
}

fn new_array() -> Result<SharedArray<u64>, Error> {
    SharedArray::zeroed(CHUNK * PARTIES as usize)
}

/// All chunks are back, and what was killed explains each failure.
fn check(round: &mut KillRound, array: SharedArray<u64>, ends: Ends) -> Result<()> {
    ensure!(array.join_timeout(BOUND)?, "a chunk is not back");
    let elements = array.into_shared()?;
    for (chunk, end) in elements.chunks(CHUNK).zip(ends) {
        match end {
            Ok(Ok(())) => ensure!(chunk.iter().all(|&element| element == FILLED), "a chunk is not filled"),
            Ok(Err(error)) => bail!("a party fails: {error}"),
            Err(error) => {
                round.expect_killed(&error)?;
                let is_known = |element: &u64| [0, BEGUN, FILLED].contains(element);
                ensure!(chunk.iter().all(is_known), "a chunk has elements that were not written");
            }
        }
    }
    Ok(())
}
