//! Pools.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use multiproc::Pool;
use multiproc::failpoints::now;
use multiproc::queue::{self, Sender};

use super::{Allowed, Cost};
use crate::ledger::{self, Ledger};

fn square(number: u64) -> u64 {
    ledger::enter(number);
    number * number
}

/// Holds results against what must come: each right, or lost with its worker; and none has run twice.
fn check(
    cost: &mut Cost,
    results: impl IntoIterator<Item = (u64, multiproc::Result<u64>)>,
    runs: &BTreeMap<u64, u32>,
    allowed: Allowed,
) -> Result<()> {
    for (number, result) in results {
        let value = cost.charge(result, allowed)?;
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
pub(super) fn small(allowed: Allowed) -> Result<Cost> {
    let mut cost = Cost::default();
    let ledger = Ledger::create()?;
    let pool = Pool::builder().workers(2).initializer(ledger::open, (ledger.path(),)).build();
    let Some(pool) = cost.charge(pool, allowed)? else { return Ok(cost) };
    let many = pool.map_results(square, 0..300);
    let one_by_one: Vec<_> = (300..310).map(|number| pool.submit(square, (number,))).collect();
    let one_by_one: Vec<_> =
        one_by_one.into_iter().map(|handle| handle.and_then(multiproc::pool::TaskHandle::get)).collect();
    cost.settled = Some(now());
    let Some(many) = cost.charge(many, allowed)? else { return Ok(cost) };
    let runs = ledger.counts()?;
    check(&mut cost, (0..).zip(many), &runs, allowed)?;
    check(&mut cost, (300..).zip(one_by_one), &runs, allowed)?;
    let again = pool.map_results(|number: u64| number + 1, 0..10)?;
    for (number, result) in (0..).zip(again) {
        let value = cost.charge(result, allowed)?;
        ensure!(value.is_none_or(|value| value == number + 1), "afterwards, {number} + 1 is {value:?}");
    }
    Ok(cost)
}

/// Items too large for a ring, and items with descriptors.
pub(super) fn large(allowed: Allowed) -> Result<Cost> {
    let mut cost = Cost::default();
    let pool = Pool::builder().workers(2).build();
    let Some(pool) = cost.charge(pool, allowed)? else { return Ok(cost) };
    let items: Vec<Vec<u8>> = (0..8).map(|number| vec![number; 100_000]).collect();
    let results = pool.map_results(|bytes: Vec<u8>| [&bytes[..], &bytes[..]].concat(), items.clone());
    let Some((sender, numbers)) = cost.charge(queue::bounded(8), allowed)? else { return Ok(cost) };
    let sent: Vec<_> = (0..4).map(|number| pool.submit(send, (sender.clone(), number))).collect();
    drop(sender);
    let mut came: Vec<u64> = Vec::new();
    for number in numbers {
        came.extend(cost.charge(number, allowed)?);
    }
    came.sort_unstable();
    let mut lost = false;
    for handle in sent {
        let sent = cost.charge(handle.and_then(multiproc::pool::TaskHandle::get), allowed)?;
        lost |= !matches!(sent, Some(Ok(())));
    }
    cost.settled = Some(now());
    ensure!(lost || allowed.refusal || came == [0, 1, 2, 3], "{came:?} come");
    let Some(results) = cost.charge(results, allowed)? else { return Ok(cost) };
    for (item, result) in items.iter().zip(results) {
        if let Some(result) = cost.charge(result, allowed)? {
            ensure!(result == [&item[..], &item[..]].concat(), "other bytes come back");
        }
    }
    pool.close();
    pool.join();
    Ok(cost)
}

fn send(numbers: Sender<u64>, number: u64) -> multiproc::Result<()> {
    Ok(numbers.send(number)?)
}

/// Workers that are replaced after some tasks, in a pool that is closed before they are done.
pub(super) fn recycled(allowed: Allowed) -> Result<Cost> {
    let mut cost = Cost::default();
    let ledger = Ledger::create()?;
    let pool = Pool::builder().workers(2).chunk_size(1).max_tasks_per_worker(7);
    let pool = pool.initializer(ledger::open, (ledger.path(),)).build();
    let Some(pool) = cost.charge(pool, allowed)? else { return Ok(cost) };
    let handles: Vec<_> = (0..40).map(|number| pool.submit(square, (number,))).collect();
    pool.close();
    let results: Vec<_> =
        handles.into_iter().map(|handle| handle.and_then(multiproc::pool::TaskHandle::get)).collect();
    cost.settled = Some(now());
    pool.join();
    check(&mut cost, (0..).zip(results), &ledger.counts()?, allowed)?;
    Ok(cost)
}

/// A pool that is terminated while much waits.
pub(super) fn terminated(allowed: Allowed) -> Result<Cost> {
    let mut cost = Cost::default();
    let ledger = Ledger::create()?;
    let pool = Pool::builder().workers(2).initializer(ledger::open, (ledger.path(),)).build();
    let Some(pool) = cost.charge(pool, allowed)? else { return Ok(cost) };
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
    cost.settled = Some(now());
    ensure!(ledger.counts()?.values().all(|&ran| ran == 1), "an item has run twice");
    Ok(Cost { tasks: 1, ..cost }) // terminating may be what ended the task
}
