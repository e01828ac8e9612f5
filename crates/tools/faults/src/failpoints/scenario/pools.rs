//! Scenarios with pools.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use multiproc::failpoints::now;
use multiproc::queue::{self, Sender};
use multiproc::{Pool, SharedSlice};

use super::{AllowedFailures, Observed};
use crate::event_log::{self, EventLog};

fn square(number: u64) -> u64 {
    event_log::append(number);
    number * number
}

/// Checks that each result is right, or lost with its worker, and that no item has run twice.
fn check(
    observed: &mut Observed,
    results: impl IntoIterator<Item = (u64, multiproc::Result<u64>)>,
    runs: &BTreeMap<u64, u32>,
    allowed: AllowedFailures,
) -> Result<()> {
    for (number, result) in results {
        let value = observed.tolerate(result, allowed)?;
        let ran = runs.get(&number).copied().unwrap_or(0);
        ensure!(ran <= 1, "item {number} has run {ran} times");
        if let Some(value) = value {
            ensure!(value == number * number, "item {number} comes to {value}");
            ensure!(ran == 1, "item {number} has a result, and has not run");
        }
    }
    Ok(())
}

/// Small items, many at a time and one by one.
pub(super) fn small(allowed: AllowedFailures) -> Result<Observed> {
    let mut observed = Observed::default();
    let event_log = EventLog::create()?;
    let pool = Pool::builder().workers(2).initializer(event_log::open, (event_log.path(),)).build();
    let Some(pool) = observed.tolerate(pool, allowed)? else { return Ok(observed) };
    let many = pool.map_results(square, 0..300);
    let one_by_one: Vec<_> = (300..310).map(|number| pool.submit(square, (number,))).collect();
    let one_by_one: Vec<_> =
        one_by_one.into_iter().map(|handle| handle.and_then(multiproc::pool::TaskHandle::get)).collect();
    observed.settled = Some(now());
    let Some(many) = observed.tolerate(many, allowed)? else { return Ok(observed) };
    let runs = event_log.counts()?;
    check(&mut observed, (0..).zip(many), &runs, allowed)?;
    check(&mut observed, (300..).zip(one_by_one), &runs, allowed)?;
    let again = pool.map_results(|number: u64| number + 1, 0..10)?;
    for (number, result) in (0..).zip(again) {
        let value = observed.tolerate(result, allowed)?;
        ensure!(value.is_none_or(|value| value == number + 1), "afterwards, {number} + 1 is {value:?}");
    }
    Ok(observed)
}

fn square_slowly(number: u64) -> u64 {
    if number % 10_000 == 5_000 {
        thread::sleep(Duration::from_millis(30));
    }
    number * number
}

fn square_beside((slice, number): (SharedSlice<u64>, u64)) -> Option<u64> {
    (slice[..] == [number / 10 % SLICES; 100]).then(|| square(number))
}

/// More than a worker keeps.
const SLICES: u64 = 12;

/// Items that share slices of memory.
pub(super) fn sharing(allowed: AllowedFailures) -> Result<Observed> {
    let mut observed = Observed::default();
    let event_log = EventLog::create()?;
    let slices: multiproc::Result<Vec<_>> =
        (0..SLICES).map(|number| SharedSlice::from_slice(&[number; 100])).collect();
    let Some(slices) = observed.tolerate(slices, allowed)? else { return Ok(observed) };
    let pool = Pool::builder().workers(2).initializer(event_log::open, (event_log.path(),)).build();
    let Some(pool) = observed.tolerate(pool, allowed)? else { return Ok(observed) };
    let items = (0..300).map(|number| (slices[number / 10 % slices.len()].clone(), number as u64));
    let results = pool.map_results(square_beside, items);
    observed.settled = Some(now());
    let Some(results) = observed.tolerate(results, allowed)? else { return Ok(observed) };
    let squares = results.into_iter().map(|result| result.map(|square| square.unwrap_or(u64::MAX)));
    check(&mut observed, (0..).zip(squares), &event_log.counts()?, allowed)?;
    Ok(observed)
}

/// Items so small that workers claim them in runs, and some so slow that the rest of their run goes to another
/// worker.
pub(super) fn runs(allowed: AllowedFailures) -> Result<Observed> {
    let mut observed = Observed::default();
    let pool = Pool::builder().workers(2).build();
    let Some(pool) = observed.tolerate(pool, allowed)? else { return Ok(observed) };
    let results = pool.map_results(square_slowly, 0..40_000);
    observed.settled = Some(now());
    let Some(results) = observed.tolerate(results, allowed)? else { return Ok(observed) };
    for (number, result) in (0..).zip(results) {
        let value = observed.tolerate(result, allowed)?;
        ensure!(value.is_none_or(|value| value == number * number), "item {number} comes to {value:?}");
    }
    Ok(observed)
}

/// Items too large for a ring, and items with descriptors.
pub(super) fn large(allowed: AllowedFailures) -> Result<Observed> {
    let mut observed = Observed::default();
    let pool = Pool::builder().workers(2).build();
    let Some(pool) = observed.tolerate(pool, allowed)? else { return Ok(observed) };
    let items: Vec<Vec<u8>> = (0..8).map(|number| vec![number; 100_000]).collect();
    let results = pool.map_results(|bytes: Vec<u8>| [&bytes[..], &bytes[..]].concat(), items.clone());
    let Some((sender, numbers)) = observed.tolerate(queue::bounded(8), allowed)? else { return Ok(observed) };
    let sent: Vec<_> = (0..4).map(|number| pool.submit(send, (sender.clone(), number))).collect();
    drop(sender);
    let mut came: Vec<u64> = Vec::new();
    for number in numbers {
        came.extend(observed.tolerate(number, allowed)?);
    }
    came.sort_unstable();
    let mut lost = false;
    for handle in sent {
        let sent = observed.tolerate(handle.and_then(multiproc::pool::TaskHandle::get), allowed)?;
        lost |= !matches!(sent, Some(Ok(())));
    }
    observed.settled = Some(now());
    ensure!(lost || allowed.refusal || came == [0, 1, 2, 3], "{came:?} come");
    let Some(results) = observed.tolerate(results, allowed)? else { return Ok(observed) };
    for (item, result) in items.iter().zip(results) {
        if let Some(result) = observed.tolerate(result, allowed)? {
            ensure!(result == [&item[..], &item[..]].concat(), "other bytes come back");
        }
    }
    pool.close();
    pool.join();
    Ok(observed)
}

fn send(numbers: Sender<u64>, number: u64) -> multiproc::Result<()> {
    Ok(numbers.send(number)?)
}

/// Workers that are replaced after some tasks, in a pool that is closed before they are done.
pub(super) fn recycled(allowed: AllowedFailures) -> Result<Observed> {
    let mut observed = Observed::default();
    let event_log = EventLog::create()?;
    let pool = Pool::builder().workers(2).chunk_size(1).max_tasks_per_worker(7);
    let pool = pool.initializer(event_log::open, (event_log.path(),)).build();
    let Some(pool) = observed.tolerate(pool, allowed)? else { return Ok(observed) };
    let handles: Vec<_> = (0..40).map(|number| pool.submit(square, (number,))).collect();
    pool.close();
    let results: Vec<_> =
        handles.into_iter().map(|handle| handle.and_then(multiproc::pool::TaskHandle::get)).collect();
    observed.settled = Some(now());
    pool.join();
    check(&mut observed, (0..).zip(results), &event_log.counts()?, allowed)?;
    Ok(observed)
}

/// A pool that is terminated with many pending tasks.
pub(super) fn terminated(allowed: AllowedFailures) -> Result<Observed> {
    let mut observed = Observed::default();
    let event_log = EventLog::create()?;
    let pool = Pool::builder().workers(2).initializer(event_log::open, (event_log.path(),)).build();
    let Some(pool) = observed.tolerate(pool, allowed)? else { return Ok(observed) };
    let handles: Vec<_> = (0..500).map(|number| pool.submit(square, (number,))).collect();
    pool.terminate();
    for (number, handle) in (0_u64..).zip(handles) {
        match handle.and_then(multiproc::pool::TaskHandle::get) {
            Ok(value) => ensure!(value == number * number, "item {number} comes to {value}"),
            // It was running when its worker was asked to end, or killed.
            Err(error) if error.is_cancelled() || error.signal().is_some() => {}
            Err(error) if allowed.is_refusal(&error) => {}
            Err(error) => anyhow::bail!("item {number}: {error}"),
        }
    }
    observed.settled = Some(now());
    ensure!(event_log.counts()?.values().all(|&ran| ran == 1), "an item has run twice");
    Ok(Observed { tasks: 1, ..observed }) // terminating may be what ended the task
}
