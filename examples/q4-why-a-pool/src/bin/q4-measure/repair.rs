//! A worker that dies.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;
use experiments::{Finding, crash};
use multiproc::Pool;

const TASKS: u64 = 12;
const DEADLY: u64 = 5;

pub(crate) fn one_task_fails() -> Result<Finding> {
    let fates = Pool::new(3)?.map_results(cube, 0..TASKS)?;
    let as_expected = fates.iter().zip(0..).all(|(fate, number)| match fate {
        Ok(cube) => number != DEADLY && *cube == number.pow(3),
        Err(error) => number == DEADLY && error.index() == Some(DEADLY) && error.signal() == Some(6),
    });
    let results = fates.iter().flatten().count();
    Ok(Finding::new(as_expected, format!("{results} results, {} error", fates.len() - results)))
}

pub(crate) fn replaced() -> Result<Finding> {
    let pool = Pool::new(3)?;
    let before = pool.worker_pids();
    pool.map_results(cube, 0..TASKS)?;
    wait_until(|| pool.worker_pids().len() >= before.len());
    let after = pool.worker_pids();
    let new = after.iter().filter(|pid| !before.contains(pid)).count();
    let works = pool.map(cube, 6..9)? == [216, 343, 512];
    let holds = works && after.len() == before.len() && new == 1;
    Ok(Finding::new(holds, format!("{} and {}, {new} of them new", before.len(), after.len())))
}

fn cube(number: u64) -> u64 {
    if number == DEADLY {
        crash::abort();
    }
    number.pow(3)
}

/// The place is taken when the pool's thread gets round to it.
fn wait_until(done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() && start.elapsed() < Duration::from_secs(2) {
        sleep(Duration::from_millis(1));
    }
}
