//! Growth: the cost of a further item at large counts, in time and memory.

use std::time::Duration;

use anyhow::Result;
use bench::measure::{Scale, timed};
use bench::proc;
use bench::program::Measured;
use bench::work::{self, check_cubes, check_sum_of_cubes, cube};
use multiproc::Pool;

const MILLION: u64 = 1_000_000;

/// The largest number of items.
fn max_items(scale: Scale) -> u64 {
    if scale.quick { 10 * MILLION } else { 100 * MILLION }
}

pub(super) fn map(scale: Scale) -> Result<Measured> {
    let pool = Pool::new(2)?;
    over_items(scale, |items| time_map(&pool, items))
}

pub(super) fn imap(scale: Scale) -> Result<Measured> {
    let pool = Pool::new(2)?;
    over_items(scale, |items| Ok(timed(|| sum_up(&pool, items, |_| Ok(())))?.0))
}

pub(super) fn workers(scale: Scale) -> Result<Measured> {
    let (less, more) = (MILLION, if scale.quick { 2 * MILLION } else { 10 * MILLION });
    let mut costs = Vec::new();
    for workers in [2, 8, 64] {
        let pool = Pool::new(workers)?;
        time_map(&pool, MILLION)?; // all are up
        costs.push(further(time_map(&pool, less)?, less, time_map(&pool, more)?, more));
    }
    let detail =
        format!("{:.1} ns with 2, {:.1} ns with 8, {:.1} ns with 64 workers", costs[0], costs[1], costs[2]);
    Ok(Measured::new(costs[2].max(costs[1]) / costs[0]).with(detail))
}

/// The most that the program ever had in memory beyond what it had before, for each result; a result has 8
/// bytes.
pub(super) fn map_memory(scale: Scale) -> Result<Measured> {
    let pool = Pool::new(2)?;
    let items = max_items(scale) / 10;
    let each = |items: u64| -> Result<f64> {
        let before = proc::resident()?;
        proc::forget_peak()?;
        let results = pool.map(cube, 0..items)?;
        let gained = proc::peak()? - before;
        check_cubes(items, &results)?;
        Ok(gained * 1024.0 / real(items))
    };
    let (tenth, all) = (each(items / 10)?, each(items)?);
    Ok(Measured::new(all)
        .with(format!("{tenth:.1} B each of {} results, {all:.1} B each of {items}", items / 10)))
}

/// What the program has in memory after the first million results, against the most that it has until the
/// last.
pub(super) fn imap_memory(scale: Scale) -> Result<Measured> {
    let pool = Pool::new(2)?;
    let (items, mut early) = (max_items(scale), 0.0);
    sum_up(&pool, items, |count| {
        if count == MILLION {
            proc::forget_peak()?;
            early = proc::resident()?;
        }
        Ok(())
    })?;
    let late = proc::peak()?;
    let detail =
        format!("{:.1} MB after 10⁶ results, at most {:.1} MB until {items:e}", early / 1e3, late / 1e3);
    Ok(Measured::new((late - early).max(0.0) * 1024.0 / 1e6).with(detail))
}

/// The ratio of a further item's cost at the largest count to its cost at a million.
fn over_items(scale: Scale, time: impl Fn(u64) -> Result<Duration>) -> Result<Measured> {
    let counts = [MILLION / 10, MILLION, max_items(scale) / 10, max_items(scale)];
    time(MILLION)?; // all are up, and know what an item costs
    let times: Vec<Duration> = counts.iter().map(|&items| time(items)).collect::<Result<_>>()?;
    let between = |a: usize, b: usize| further(times[a], counts[a], times[b], counts[b]);
    let (few, many) = (between(0, 1), between(2, 3));
    let detail =
        format!("{few:.1} ns from 1e5 to 1e6 items, {many:.1} ns from {:e} to {:e}", counts[2], counts[3]);
    Ok(Measured::new(many / few).with(detail))
}

/// The nanoseconds of each item that `more` has above `less`.
fn further(time_of_less: Duration, less: u64, time_of_more: Duration, more: u64) -> f64 {
    (time_of_more.as_secs_f64() - time_of_less.as_secs_f64()) * 1e9 / real(more - less)
}

fn time_map(pool: &Pool, items: u64) -> Result<Duration> {
    let (time, results) = timed(|| Ok(pool.map(cube, 0..items)?))?;
    check_cubes(items, &results)?;
    Ok(time)
}

/// Adds up the results, and counts them.
fn sum_up(pool: &Pool, items: u64, mut at: impl FnMut(u64) -> Result<()>) -> Result<()> {
    let (mut count, mut total) = (0, 0_u64);
    for result in pool.imap(cube, 0..items) {
        total = total.wrapping_add(result?);
        count += 1;
        at(count)?;
    }
    check_sum_of_cubes(items, count, total)
}

fn real(count: u64) -> f64 {
    work::real(usize::try_from(count).unwrap_or(usize::MAX))
}
