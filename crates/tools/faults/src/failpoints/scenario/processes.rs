//! Scenarios with children and grandchildren.

use anyhow::{Result, bail, ensure};
use multiproc::failpoints::now;
use multiproc::queue::{self, Sender};
use multiproc::{Connection, Pool, Process, SharedSlice, pipe};

use super::{AllowedFailures, Observed};

/// A child with little, one with much, and one with an end of a queue.
pub(super) fn few(allowed: AllowedFailures) -> Result<Observed> {
    let mut observed = Observed::default();
    let sum = Process::spawn(|a: u32, b: u32| a + b, (2, 3));
    let much = vec![7_u8; 100_000];
    let echo = Process::spawn(|bytes: Vec<u8>| bytes, (much.clone(),));
    let Some((sender, numbers)) = observed.tolerate(queue::bounded(4), allowed)? else { return Ok(observed) };
    let count = Process::spawn(count_to, (sender, 20));

    let sum = observed.tolerate(sum.and_then(Process::join), allowed)?;
    ensure!(sum.is_none_or(|sum| sum == 5), "2 + 3 = {sum:?}");
    let echo = observed.tolerate(echo.and_then(Process::join), allowed)?;
    ensure!(echo.is_none_or(|echo| echo == much), "other bytes come back");
    let came: Vec<u32> = numbers
        .into_iter()
        .collect::<multiproc::Result<_>>()
        .or_else(|error| if allowed.is_refusal(&error) { Ok(Vec::new()) } else { Err(error) })?;
    let counted = observed.tolerate(count.and_then(Process::join), allowed)?;
    observed.settled = Some(now());
    let whole = (0..20).collect::<Vec<_>>();
    match counted {
        Some(Ok(())) => ensure!(came == whole || allowed.refusal, "{came:?} come"),
        Some(Err(error)) if allowed.is_refusal(&error) => {}
        Some(Err(error)) => bail!("the count fails: {error}"),
        None => ensure!(whole.starts_with(&came), "{came:?} come"),
    }
    Ok(observed)
}

fn count_to(numbers: Sender<u32>, end: u32) -> multiproc::Result<()> {
    (0..end).try_for_each(|number| Ok(numbers.send(number)?))
}

/// A child that has a pool.
pub(super) fn nested(allowed: AllowedFailures) -> Result<Observed> {
    let mut observed = Observed::default();
    let child = Process::spawn(use_pool, ());
    let used = observed.tolerate(child.and_then(Process::join), allowed)?;
    observed.settled = Some(now());
    match used {
        None => {}
        Some(Ok((right, lost))) => {
            observed.tasks += lost;
            ensure!(observed.tasks <= allowed.deaths, "{lost} tasks are lost");
            ensure!(allowed.refusal || right + lost == 40, "{right} of 40 are right, {lost} lost");
        }
        Some(Err(error)) if allowed.is_refusal(&error) => {}
        Some(Err(error)) => bail!("the child's pool fails: {error}"),
    }
    Ok(observed)
}

/// How many tasks gave the right result, and how many were lost with their worker. They share a slice.
fn use_pool() -> multiproc::Result<(u32, u32)> {
    let pool = Pool::new(2)?;
    let numbers = SharedSlice::from_slice(&(0..40).collect::<Vec<u64>>())?;
    let square = |numbers: SharedSlice<u64>, index: usize| numbers[index] * numbers[index];
    let items = (0..40).map(|index| (numbers.clone(), index));
    let (mut right, mut lost) = (0, 0);
    for (number, result) in (0..40_u64).zip(pool.starmap_results(square, items)?) {
        match result {
            Ok(square) if square == number * number => right += 1,
            Err(error) if error.signal() == Some(9) => lost += 1,
            _ => {}
        }
    }
    Ok((right, lost))
}

/// A `SharedSlice` that a child makes and the parent reads, and one in the other direction.
pub(super) fn shared_slice(allowed: AllowedFailures) -> Result<Observed> {
    let mut observed = Observed::default();
    let ends = pipe::<(), SharedSlice<u64>>();
    let Some((ours, theirs)) = observed.tolerate(ends, allowed)? else { return Ok(observed) };
    let child = Process::spawn(make_shared_slice, (theirs, 5_000));
    let came = match ours.recv() {
        Err(error) if error.is_disconnected() => None,
        came => observed.tolerate(came, allowed)?,
    };
    drop(ours);
    let made = observed.tolerate(child.and_then(Process::join), allowed)?;
    let refused = match made {
        Some(Err(error)) => {
            ensure!(allowed.is_refusal(&error), "the child fails: {error}");
            true
        }
        Some(Ok(())) | None => made.is_none(),
    };
    let Some(came) = came else {
        observed.settled = Some(now());
        ensure!(refused || allowed.refusal, "nothing comes");
        return Ok(observed);
    };
    ensure!(came.iter().copied().eq(0..5_000), "other numbers come");
    let reader = Process::spawn(|numbers: SharedSlice<u64>| numbers.iter().sum::<u64>(), (came,));
    let sum = observed.tolerate(reader.and_then(Process::join), allowed)?;
    observed.settled = Some(now());
    ensure!(sum.is_none_or(|sum| sum == 4_999 * 5_000 / 2), "the sum is {sum:?}");
    Ok(observed)
}

fn make_shared_slice(end: Connection<SharedSlice<u64>, ()>, length: u64) -> multiproc::Result<()> {
    let numbers: Vec<u64> = (0..length).collect();
    Ok(end.send(SharedSlice::from_slice(&numbers)?)?)
}
