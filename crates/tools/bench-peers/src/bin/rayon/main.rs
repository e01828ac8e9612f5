//! rayon: a pool of threads, which need not copy anything.

mod real_work;

use std::hint::black_box;
use std::process::ExitCode;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::Result;
use bench::case;
use bench::measure::{self, Scale, back_to_back, from_sleep, rate};
use bench::program::{Entry, Measured, entry};
use bench::work::{
    self, BLOCK, FILL, FILL_AMOUNT, FILL_CHUNK, SUMS, SUMS_AMOUNT, check, check_cubes, check_filled, cube,
    fill, real,
};
use bench_peers::run;
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

const RAYON: &str = "rayon";

fn main() -> ExitCode {
    run(&entries(), first_result, &[])
}

fn entries() -> Vec<Entry> {
    let mut entries = vec![
        entry(RAYON, &case::MAP, |scale| map(scale, 1_000_000, usize::MAX)),
        entry(RAYON, &case::MAP_10M, |scale| map(scale, 10_000_000, usize::MAX)),
        entry(RAYON, &case::MAP_CHUNK1, |scale| map(scale, 100_000, 1)),
        entry(RAYON, &case::SUBMIT, submit),
        entry(RAYON, &case::APPLY_HOT, |scale| {
            let pool = two()?;
            back_to_back(scale, || apply(&pool))
        }),
        entry(RAYON, &case::APPLY_SLEEP, |scale| {
            let pool = two()?;
            from_sleep(scale, || apply(&pool))
        }),
        entry(RAYON, &case::SUM, |scale| {
            let mut block = work::bytes(BLOCK);
            block[0] = 0;
            sums(scale, |number| {
                let mut block = block.clone();
                block[0] = number;
                work::sum(&block)
            })
        }),
        entry(RAYON, &case::SUM_SHARED, |scale| {
            let mut block = work::bytes(BLOCK);
            block[0] = 0;
            sums(scale, |number| u64::from(number) + work::sum(black_box(&block)))
        }),
        entry(RAYON, &case::COLD, |scale| measure::cold(scale, &["fresh"])),
        entry(RAYON, &case::FILL, fill_array),
    ];
    entries.extend(real_work::entries());
    entries
}

fn first_result() -> Result<Duration> {
    let start = Instant::now();
    apply(&two()?)?;
    Ok(start.elapsed())
}

fn two() -> Result<ThreadPool> {
    Ok(ThreadPoolBuilder::new().num_threads(2).build()?)
}

fn apply(pool: &ThreadPool) -> Result<()> {
    check("result", 27, pool.install(|| cube(black_box(3))))
}

fn map(scale: Scale, items: usize, chunk: usize) -> Result<Measured> {
    let pool = two()?;
    let cubes = || (0..items).into_par_iter().with_max_len(chunk).map(|number| cube(number as u64)).collect();
    let work = || Ok(pool.install(cubes));
    rate(scale, real(items), work, |results: Vec<u64>| check_cubes(items as u64, &results))
}

/// A channel for each result, as a handle of a task has.
fn submit(scale: Scale) -> Result<Measured> {
    const TASKS: u64 = 10_000;
    let pool = two()?;
    let submit = |number| {
        let (sender, result) = mpsc::channel();
        pool.spawn(move || sender.send(cube(number)).expect("its receiver is kept"));
        result
    };
    let work = || {
        let tasks: Vec<_> = (0..TASKS).map(submit).collect();
        Ok(tasks.into_iter().map(|result| result.recv()).collect::<Result<Vec<_>, _>>()?)
    };
    rate(scale, real(10_000), work, |results| check_cubes(TASKS, &results))
}

fn sums(scale: Scale, sum: impl Fn(u8) -> u64 + Sync) -> Result<Measured> {
    let pool = two()?;
    let mut rest = work::bytes(BLOCK);
    rest[0] = 0;
    let numbers = 0..u8::try_from(SUMS)?;
    let expected = work::sum(&rest) * SUMS as u64 + numbers.clone().map(u64::from).sum::<u64>();
    let work = || Ok(pool.install(|| numbers.clone().into_par_iter().map(&sum).sum()));
    rate(scale, SUMS_AMOUNT, work, |total| check("sum of all sums", expected, total))
}

/// The same memory in each repetition, as that of the library.
fn fill_array(scale: Scale) -> Result<Measured> {
    let pool = two()?;
    let mut array = vec![0_u64; FILL];
    let work = || {
        let chunks = array.par_chunks_mut(FILL_CHUNK).enumerate();
        pool.install(|| chunks.for_each(|(index, chunk)| fill(index * FILL_CHUNK, chunk)));
        Ok(())
    };
    let measured = rate(scale, FILL_AMOUNT, work, Ok)?;
    check_filled(&array)?;
    Ok(measured)
}
