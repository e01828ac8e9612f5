//! A table of prime factors: made by each task, by each worker, or once for all workers.

use std::fs;
use std::time::Instant;

use multiproc::{Pool, Result, StartMethod};

const SIZE: u32 = 1 << 19;
const TASKS: u32 = 8;

/// The smallest prime factor of each number: 2 MiB.
struct Factors(Vec<u32>);

impl Factors {
    fn make(size: u32) -> Self {
        let mut table: Vec<u32> = (0..size).collect();
        for factor in (2..size).take_while(|factor| factor * factor < size) {
            for multiple in (factor * factor..size).step_by(factor as usize) {
                table[multiple as usize] = table[multiple as usize].min(factor);
            }
        }
        Self(table)
    }

    fn count_primes(&mut self, below: u32) -> usize {
        (2..below).filter(|&number| self.0[number as usize] == number).count()
    }
}

/// In KiB, with its share of what several processes have (PSS).
fn memory(_: &mut Factors) -> usize {
    let usage = fs::read_to_string("/proc/self/smaps_rollup").unwrap_or_default();
    let size = usage.lines().find_map(|line| line.strip_prefix("Pss:")?.split_whitespace().next());
    size.and_then(|size| size.parse().ok()).unwrap_or(0)
}

fn main() -> Result<()> {
    multiproc::init();
    let limits = || (1..=TASKS).map(|task| task * (SIZE / TASKS));

    // Only a fork server has a process from which workers are forked with the table in it.
    let builder = || Pool::builder().workers(2).start_method(StartMethod::ForkServer);

    let start = Instant::now();
    let pool = builder().build()?;
    let counts = pool.map(|below: u32| Factors::make(SIZE).count_primes(below), limits())?;
    let seconds = start.elapsed().as_secs_f64();
    let usage = pool.broadcast(|| memory(&mut Factors::make(SIZE)), ())?;
    let mut sizes = vec![usage.into_iter().sum::<Result<usize>>()?];
    println!("{TASKS} tables, one for each task: {seconds:.3} seconds, {} KiB", sizes[0]);

    let ways = [
        ("2 tables, one for each worker", builder().state(Factors::make, (SIZE,))),
        ("1 table, for both workers", builder().preload(Factors::make, (SIZE,))),
    ];
    for (way, builder) in ways {
        let start = Instant::now();
        let pool = builder.build()?;
        assert_eq!(pool.map(Factors::count_primes, limits())?, counts);
        let memory: usize = pool.broadcast(memory, ())?.into_iter().sum::<Result<_>>()?;
        println!("{way}: {:.3} seconds, {memory} KiB", start.elapsed().as_secs_f64());
        sizes.push(memory);
    }
    let is_inline = pool.worker_pids().is_empty(); // in one process there is nothing to share
    assert!(is_inline || sizes[2] + 2048 < sizes[0].min(sizes[1]), "the table is not shared: {sizes:?}");
    println!("{} primes", counts.iter().max().unwrap_or(&0));
    Ok(())
}
