//! Four processes count in one number: with an atomic, under a mutex, and without either.

use std::sync::atomic::Ordering::Relaxed;

use multiproc::sync::{Atomic, Barrier, Mutex};
use multiproc::{Process, Result};

const ROUNDS: u64 = 50_000;

/// Reads and writes in two steps, between which other processes write.
fn race(counter: Atomic<u64>, start: Barrier) -> Result<()> {
    start.wait()?;
    for _ in 0..ROUNDS {
        let number = counter.load(Relaxed);
        counter.store(number + 1, Relaxed);
    }
    Ok(())
}

fn lock(counter: Mutex<u64>, start: Barrier) -> Result<()> {
    start.wait()?;
    for _ in 0..ROUNDS {
        *counter.lock()? += 1;
    }
    Ok(())
}

fn add(counter: Atomic<u64>, start: Barrier) -> Result<()> {
    start.wait()?;
    for _ in 0..ROUNDS {
        counter.fetch_add(1, Relaxed);
    }
    Ok(())
}

fn run_four(spawn: impl Fn() -> Result<Process<Result<()>>>) -> Result<()> {
    for child in [spawn()?, spawn()?, spawn()?, spawn()?] {
        child.join()??;
    }
    Ok(())
}

fn main() -> Result<()> {
    multiproc::init();

    let start = Barrier::new(4)?;
    let counter = Atomic::new(0_u64)?;
    run_four(|| Process::spawn(race, (counter.clone(), start.clone())))?;
    println!("without a lock: {} of {}", counter.load(Relaxed), 4 * ROUNDS);

    let counter = Mutex::new(0_u64)?;
    run_four(|| Process::spawn(lock, (counter.clone(), start.clone())))?;
    println!("with a lock: {} of {}", *counter.lock()?, 4 * ROUNDS);

    let counter = Atomic::new(0_u64)?;
    run_four(|| Process::spawn(add, (counter.clone(), start.clone())))?;
    println!("with an atomic: {} of {}", counter.load(Relaxed), 4 * ROUNDS);
    Ok(())
}
