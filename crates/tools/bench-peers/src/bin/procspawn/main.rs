//! procspawn: processes and a pool, by a function and its argument.

mod real_work;

use std::collections::VecDeque;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use bench::case;
use bench::measure::{self, Scale, back_to_back, from_sleep, median, rate, repeated};
use bench::proc;
use bench::program::{Entry, Measured, entry};
use bench::work::{self, BLOCK, MIB, SUMS, SUMS_AMOUNT, check, check_cubes, cube, real};
use bench_peers::run;
use procspawn::{JoinHandle, Pool};
use serde_bytes::ByteBuf;

const PROCSPAWN: &str = "procspawn";

/// How many calls are under way at most. Each holds descriptors, and too many of them end in a panic.
const UNDER_WAY: usize = 16;

fn main() -> ExitCode {
    procspawn::init();
    run(&entries(), first_result, &[])
}

fn entries() -> Vec<Entry> {
    let mut entries = vec![
        entry(PROCSPAWN, &case::START, |scale| repeated(scale, 300, start)),
        entry(PROCSPAWN, &case::START_1GIB, |scale| {
            let ballast = work::ballast(1024 * MIB);
            let measured = repeated(scale, 300, start);
            drop(ballast);
            measured
        }),
        entry(PROCSPAWN, &case::START_X4, |scale| {
            repeated(scale, 100, || {
                let children: Vec<_> = (0..4).map(|_| procspawn::spawn((), |()| ())).collect();
                Ok(children.into_iter().try_for_each(JoinHandle::join)?)
            })
        }),
        entry(PROCSPAWN, &case::MAP, |scale| by_hand(scale, 1_000_000)),
        entry(PROCSPAWN, &case::MAP_10M, |scale| by_hand(scale, 10_000_000)),
        entry(PROCSPAWN, &case::MAP_CHUNK1, |scale| {
            let (pool, items) = (two()?, scale.times(100_000));
            let work = || in_turn(&pool, 0..items as u64, UNDER_WAY, cube);
            rate(scale, real(items), work, |results| check_cubes(items as u64, &results))
        }),
        entry(PROCSPAWN, &case::APPLY_HOT, |scale| {
            let pool = two()?;
            back_to_back(scale, || apply(&pool))
        }),
        entry(PROCSPAWN, &case::APPLY_SLEEP, |scale| {
            let pool = two()?;
            from_sleep(scale, || apply(&pool))
        }),
        entry(PROCSPAWN, &case::SUM, sums),
        entry(PROCSPAWN, &case::COLD, |scale| measure::cold(scale, &["fresh"])),
        entry(PROCSPAWN, &case::PSS, |_| {
            let _pool = two()?;
            thread::sleep(Duration::from_millis(300));
            let workers: Result<Vec<f64>> =
                proc::process_tree()?.into_iter().skip(1).map(proc::proportional).collect();
            Ok(Measured::new(median(workers?)?))
        }),
    ];
    entries.extend(real_work::entries());
    entries
}

fn first_result() -> Result<Duration> {
    let start = Instant::now();
    let pool = Pool::new(2)?;
    apply(&pool)?;
    Ok(start.elapsed())
}

fn start() -> Result<()> {
    Ok(procspawn::spawn((), |()| ()).join()?)
}

fn apply(pool: &Pool) -> Result<()> {
    check("result", 27, pool.spawn(3, cube).join()?)
}

/// A pool of two workers that are up.
fn two() -> Result<Pool> {
    up(2)
}

fn up(workers: usize) -> Result<Pool> {
    let pool = Pool::new(workers)?;
    let nap = |()| thread::sleep(Duration::from_millis(10));
    let all: Vec<_> = (0..workers).map(|_| pool.spawn((), nap)).collect();
    all.into_iter().try_for_each(JoinHandle::join)?;
    Ok(pool)
}

/// There is no map, so the caller makes the chunks, and there are four for each worker.
fn by_hand(scale: Scale, items: u64) -> Result<Measured> {
    let pool = two()?;
    let chunk = items / 8;
    let cubes = |(from, to): (u64, u64)| (from..to).map(cube).collect::<Vec<u64>>();
    let ranges = || (0..8).map(|number| (number * chunk, (number + 1) * chunk));
    let work = || Ok(in_turn(&pool, ranges(), 2, cubes)?.concat());
    let measured = rate(scale, real(usize::try_from(items)?), work, |results| check_cubes(items, &results))?;
    Ok(measured.with("chunks made by hand: ranges there, results back"))
}

fn sums(scale: Scale) -> Result<Measured> {
    let (pool, block) = (two()?, work::bytes(BLOCK));
    let expected = work::sum(&block) * SUMS as u64;
    let add = |bytes: ByteBuf| work::sum(&bytes);
    let work = || {
        let blocks = (0..SUMS).map(|_| ByteBuf::from(block.clone()));
        // With more than one call for each worker, large arguments deadlock.
        Ok(in_turn(&pool, blocks, 2, add)?.into_iter().sum())
    };
    rate(scale, SUMS_AMOUNT, work, |total| check("sum of all sums", expected, total))
}

/// Calls a function with every item, with at most `most` calls under way.
// user code: in_turn
fn in_turn<A, R>(
    pool: &Pool,
    items: impl Iterator<Item = A>,
    max: usize,
    function: fn(A) -> R,
) -> Result<Vec<R>>
where
    A: serde::Serialize + serde::de::DeserializeOwned,
    R: serde::Serialize + serde::de::DeserializeOwned + Send + 'static,
{
    let (mut calls, mut results) = (VecDeque::new(), Vec::new());
    for item in items {
        if calls.len() == max {
            results.extend(calls.pop_front().map(JoinHandle::join).transpose()?);
        }
        calls.push_back(pool.spawn(item, function));
    }
    for call in calls {
        results.push(call.join()?);
    }
    Ok(results)
}
// end
