//! Processes of which a trace is written while the memory of their events is overwritten.

use std::env::temp_dir;
use std::fs::remove_file;
use std::process::id;

use anyhow::Result;
use multiproc::{Pool, Process, queue};
use tests::corrupter::Random;

use super::bounds::Bounds;
use super::pools::{SHUTDOWN, WORK, end_pool};
use super::processes::START;
use super::{Rest, TIME, nap};

/// Begins the trace, which ends with the program. Its file is of no use.
pub(super) fn begin() -> Result<()> {
    let file = temp_dir().join(format!("multiproc-corruption-{}.json", id()));
    multiproc::start_trace(&file)?;
    Ok(remove_file(file)?)
}

/// Children, workers and waits, all of which have events.
#[allow(clippy::unnecessary_wraps)] // as for all work
pub(super) fn run_traced(_: &mut Random, _: &Bounds) -> Result<Rest> {
    Ok(Box::new(move |random, bounds| {
        for number in 0..random.below(4) {
            let spawn =
                || bounds.within(START, "Process::spawn with a trace", || Process::spawn(nap, (number,)));
            for child in [spawn()?, spawn()?].into_iter().flatten() {
                drop(bounds.at_once("Process::join with a trace", || child.join())?);
            }
        }
        let builder = Pool::builder().workers(2).shutdown_timeout(SHUTDOWN);
        let pool = bounds.within(WORK, "PoolBuilder::build with a trace", || builder.build())??;
        let items = random.below(500);
        drop(bounds.within(WORK, "Pool::map_results with a trace", || pool.map_results(nap, 0..items))?);
        let (_sender, receiver) = queue::bounded::<u64>(1)?;
        for _ in 0..random.below(20) {
            drop(bounds.within(TIME, "Receiver::recv_timeout with a trace", || receiver.recv_timeout(TIME))?);
        }
        end_pool(pool, random, bounds)
    }))
}
