//! A pool with limits: tasks that retry after a pause, that are cancelled with a grace, a bound on what is
//! submitted, and workers that end when they are idle.

use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use multiproc::failpoints::now;
use multiproc::pool::{RetryPolicy, TaskHandle};
use multiproc::{Pool, as_completed};

use super::{AllowedFailures, Observed};

/// The number of tasks that run to their end.
const TASKS: u64 = 16;
/// How many tasks may be pending.
const MOST: usize = 4;
const IDLE: Duration = Duration::from_millis(10);
const HOUR: Duration = Duration::from_secs(3600);

fn square(number: u64) -> u64 {
    number * number
}

/// Ends when it is asked to.
fn obey(_: u64) -> u64 {
    while !multiproc::is_cancelled() {
        thread::sleep(Duration::from_millis(1));
    }
    0
}

/// Has to be killed.
fn ignore(_: u64) -> u64 {
    thread::sleep(HOUR);
    0
}

/// Those that are not cancelled have their results even if a worker dies, and the two others are cancelled.
pub(super) fn submitted(allowed: AllowedFailures) -> Result<Observed> {
    let mut observed = Observed::default();
    let pool = Pool::builder().workers(2).max_pending(MOST).idle_timeout(IDLE).build();
    let Some(pool) = observed.tolerate(pool, allowed)? else { return Ok(observed) };
    let retry = RetryPolicy::new(2).backoff(Duration::from_millis(1), Duration::from_millis(4));
    let retrying = pool.options().retry(retry);
    let (long, short) = (pool.options().grace(HOUR), pool.options().grace(Duration::from_millis(5)));
    let squares = (0..TASKS).map(|number| retrying.submit(square, (number,)));
    let mut handles: Vec<_> = squares.collect();
    handles.extend([long.submit(obey, (0,)), short.submit(ignore, (0,))]);
    let handles: Vec<TaskHandle<u64>> = taken(&mut observed, handles, allowed)?;
    if handles.len() as u64 == TASKS + 2 {
        check(&mut observed, handles, allowed)?;
    }
    observed.settled = Some(now());

    while !pool.worker_pids().is_empty() {
        thread::sleep(Duration::from_millis(1));
    }
    let value = observed.tolerate(retrying.apply(square, (7,)), allowed)?;
    ensure!(value.is_none_or(|value| value == 49), "a pool without a worker returns {value:?}");
    let died = u32::try_from(pool.stats().total().died)?;
    pool.join();
    Ok(Observed { tasks: observed.tasks.max(died), ..observed }) // a retry hides a death
}

fn taken<T>(
    observed: &mut Observed,
    results: Vec<multiproc::Result<T>>,
    allowed: AllowedFailures,
) -> Result<Vec<T>> {
    let values: Result<Vec<_>> =
        results.into_iter().map(|result| observed.tolerate(result, allowed)).collect();
    Ok(values?.into_iter().flatten().collect())
}

/// Cancels the last two once they run, and checks each result.
fn check(observed: &mut Observed, handles: Vec<TaskHandle<u64>>, allowed: AllowedFailures) -> Result<()> {
    let (_, to_cancel) = handles.split_at(handles.len() - 2);
    for handle in to_cancel {
        while !handle.is_running() && !handle.is_ready() {
            thread::sleep(Duration::from_millis(1));
        }
    }
    let cancellers: Vec<_> = to_cancel.iter().map(TaskHandle::canceller).collect();
    let results = as_completed(handles);
    let mut left: BTreeSet<usize> = (0..results.len()).collect();
    let cancelled: Vec<bool> = cancellers.iter().map(multiproc::pool::Canceller::cancel).collect();
    for (index, result) in results {
        ensure!(left.remove(&index), "task {index} has two results");
        let number = index as u64;
        match result {
            Err(error) if number >= TASKS && error.is_cancelled() => {}
            result if number < TASKS => {
                let value = observed.tolerate(result, allowed)?;
                ensure!(value.is_none_or(|value| value == number * number), "task {index} returns {value:?}");
            }
            result => {
                let was_cancelled = cancelled[index - usize::try_from(TASKS)?];
                ensure!(!was_cancelled, "task {index} was cancelled, and has the result {result:?}");
                observed.tolerate(result, allowed)?;
            }
        }
    }
    ensure!(left.is_empty(), "tasks {left:?} have no result");
    Ok(())
}
