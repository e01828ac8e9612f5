//! Processes that work under locks, semaphores, events and the like, with queues and a server, and fill a
//! shared array meanwhile.

use anyhow::{Result, bail, ensure};
use multiproc::{ArrayChunk, Error, Pool, Process, SharedArray};

use super::PATIENCE;
use super::kill_round::KillRound;
use crate::locks::PARTIES;
use crate::mix::{BEGUN, FILLED, Mix};

/// The elements of a chunk: it begins and ends inside of a page.
const CHUNK: usize = 1_000;

/// What became of each party, in the order of the chunks.
type Ends = Vec<Result<Result<(), Error>, Error>>;

pub(super) fn children(round: &mut KillRound) -> Result<()> {
    let (mix, mut array) = (Mix::new(round.is_disturbed())?, new_array()?);
    let spawn = |(party, chunk)| Process::spawn(Mix::work, (mix.clone(), party, chunk));
    let children: Vec<_> = (0..).zip(array.chunks_mut(CHUNK)?).map(spawn).collect::<Result<_, _>>()?;
    let pids: Vec<_> = children.iter().map(Process::pid).collect();
    let candidates = || [&pids[..], &[mix.server_pid()]].concat();
    let work = || (children.into_iter().map(Process::join).collect(), mix.use_all());
    let (ends, used) = round.run(candidates, work);
    used?;
    check(round, &mix, array, ends)
}

pub(super) fn workers(round: &mut KillRound) -> Result<()> {
    let (mix, mut array) = (Mix::new(round.is_disturbed())?, new_array()?);
    let pool = Pool::builder().workers(PARTIES as usize).chunk_size(1).build()?;
    let items: Vec<_> =
        (0..).zip(array.chunks_mut(CHUNK)?).map(|(party, chunk)| (mix.clone(), party, chunk)).collect();
    let fill = |mix: Mix, party: u32, chunk: ArrayChunk<u64>| mix.work(party, chunk);
    let candidates = || [pool.worker_pids(), vec![mix.server_pid()]].concat();
    let (ends, used) = round.run(candidates, || (pool.starmap_results(fill, items), mix.use_all()));
    used?;
    pool.join();
    check(round, &mix, array, ends?)
}

fn new_array() -> Result<SharedArray<u64>, Error> {
    SharedArray::zeroed(CHUNK * PARTIES as usize)
}

/// All chunks are back, and what was killed explains each failure.
fn check(round: &mut KillRound, mix: &Mix, array: SharedArray<u64>, ends: Ends) -> Result<()> {
    mix.check(round.count())?;
    ensure!(array.join_timeout(PATIENCE)?, "a chunk is not back");
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
