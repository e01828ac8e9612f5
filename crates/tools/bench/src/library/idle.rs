//! W7: the cost of an idle pool.

use std::thread;
use std::time::Duration;

use anyhow::Result;
use bench::measure::{Scale, median};
use bench::proc;
use bench::program::Measured;
use bench::work::{check_cubes, cube};
use multiproc::Pool;

pub(super) fn memory(_: Scale) -> Result<Measured> {
    let pool = busy_once(2, 10)?; // as little as the peers' workers have done
    let workers: Result<Vec<f64>> = pool.worker_pids().into_iter().map(proc::proportional).collect();
    let others = proc::process_tree()?.len() - 1 - pool.worker_pids().len();
    let measured = Measured::new(median(workers?)?);
    Ok(match others {
        0 => measured,
        others => measured.with(format!("{others} further process beside the workers")),
    })
}

/// The CPU time of the program, its workers and its helper processes together.
pub(super) fn cpu_time(scale: Scale) -> Result<Measured> {
    let pool = busy_once(8, 10_000)?;
    let time = Duration::from_secs(if scale.quick { 2 } else { 10 });
    let process_tree = proc::process_tree()?;
    let before = proc::cpu_time(&process_tree)?;
    thread::sleep(time);
    let used = proc::cpu_time(&process_tree)?.saturating_sub(before);
    drop(pool);
    let percent = 100.0 * used.as_secs_f64() / time.as_secs_f64();
    Ok(Measured::new(percent).with(format!("{used:?} of {} processes in {time:?}", process_tree.len())))
}

/// A pool that has worked and is idle again.
fn busy_once(workers: usize, items: u64) -> Result<Pool> {
    let pool = Pool::new(workers)?;
    check_cubes(items, &pool.map(cube, 0..items)?)?;
    thread::sleep(Duration::from_millis(500));
    Ok(pool)
}
