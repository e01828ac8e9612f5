//! W12: a table that each worker needs, preloaded once or made by each.

use anyhow::{Context, Result};
use bench::measure::{Measured, Scale, milliseconds, timed};
use bench::proc;
use bench::work::{MIB, check};
use multiproc::pool::State;
use multiproc::{Pool, StartMethod};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const LENGTH: usize = 64 * MIB / size_of::<u64>();

type Table = Vec<u64>;
type TablePool = Pool<State<Table>>;

fn make(length: usize) -> Table {
    (0..length as u64).collect()
}

fn sum_of_some(table: &mut Table) -> u64 {
    table.iter().step_by(table.len() / 100).sum()
}

/// The workers are forked with the table in them.
pub(super) fn preloaded(workers: usize) -> multiproc::Result<TablePool> {
    Pool::builder().workers(workers).start_method(StartMethod::ForkServer).preload(make, (LENGTH,)).build()
}

/// Each worker makes the table.
pub(super) fn made(workers: usize) -> multiproc::Result<TablePool> {
    Pool::builder().workers(workers).state(make, (LENGTH,)).build()
}

pub(super) fn memory(pool: &TablePool) -> Result<Measured> {
    use_all(pool)?;
    let kilobytes: Result<f64> = proc::process_tree()?.into_iter().map(proc::proportional).sum();
    Ok(Measured::new(kilobytes? * 1024.0 / 1e6))
}

pub(super) fn first_results(
    scale: Scale,
    build: fn(usize) -> multiproc::Result<TablePool>,
) -> Result<Measured> {
    milliseconds(scale, 20, || {
        let (time, _pool) = timed(|| {
            let pool = build(2)?;
            use_all(&pool)?;
            Ok(pool)
        })?;
        Ok(time)
    })
}

/// The only worker is killed while it is idle, and then the pool is asked for a result.
pub(super) fn replaced(scale: Scale, pool: &TablePool) -> Result<Measured> {
    let use_it = || {
        let sum = pool.options().retries(1).apply(sum_of_some, ())?;
        check("sum of some of the table", expected(), sum)
    };
    use_it()?;
    milliseconds(scale, 100, || {
        let worker = *pool.worker_pids().first().context("the pool has no worker")?;
        let (time, ()) = timed(|| {
            kill(Pid::from_raw(worker.cast_signed()), Signal::SIGKILL)?;
            use_it()
        })?;
        Ok(time)
    })
}

fn use_all(pool: &TablePool) -> Result<()> {
    pool.broadcast(sum_of_some, ())?
        .into_iter()
        .try_for_each(|sum| check("sum of some of the table", expected(), sum?))
}

fn expected() -> u64 {
    (0..LENGTH as u64).step_by(LENGTH / 100).sum()
}
