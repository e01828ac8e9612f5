use std::fs;
use std::time::Instant;

use multiproc::{Pool, Result};

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

/// In MiB, without what other processes share.
fn private_memory() -> usize {
    let usage = fs::read_to_string("/proc/self/smaps_rollup").unwrap_or_default();
    let private = usage.lines().filter(|line| line.starts_with("Private_"));
    private.filter_map(|line| line.split_whitespace().nth(1)?.parse::<usize>().ok()).sum::<usize>() / 1024
}

fn main() -> Result<()> {
    multiproc::init();
    let limits = || (1..=TASKS).map(|task| task * (SIZE / TASKS));

    let start = Instant::now();
    let pool = Pool::new(2)?;
    let counts = pool.map(|below: u32| Factors::make(SIZE).count_primes(below), limits())?;
    println!("{TASKS} tables, one for each task: {:.3} seconds", start.elapsed().as_secs_f64());

    let start = Instant::now();
    let pool = Pool::builder().workers(2).state(Factors::make, (SIZE,)).build()?;
    assert_eq!(pool.map(Factors::count_primes, limits())?, counts);
    println!("2 tables, one for each worker: {:.3} seconds", start.elapsed().as_secs_f64());

    let memory = pool.broadcast(|_: &mut Factors| private_memory(), ())?;
    println!("memory of the workers: {} MiB", memory.into_iter().sum::<Result<usize>>()?);
    println!("{} primes", counts.iter().max().unwrap_or(&0));
    Ok(())
}
