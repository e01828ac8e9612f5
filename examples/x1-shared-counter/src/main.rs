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

fn join(children: [Result<Process<Result<()>>>; 4]) -> Result<()> {
    children.into_iter().try_for_each(|child| child?.join()?)
}

fn main() -> Result<()> {
    multiproc::init();

    let start = Barrier::new(4)?;
    let counter = Atomic::new(0_u64)?;
    join([(); 4].map(|()| Process::spawn(race, (counter.clone(), start.clone()))))?;
    println!("without a lock: {} of {}", counter.load(Relaxed), 4 * ROUNDS);

    let counter = Mutex::new(0_u64)?;
    join([(); 4].map(|()| Process::spawn(lock, (counter.clone(), start.clone()))))?;
    println!("with a lock: {} of {}", *counter.lock()?, 4 * ROUNDS);

    let counter = Atomic::new(0_u64)?;
    join([(); 4].map(|()| Process::spawn(add, (counter.clone(), start.clone()))))?;
    println!("with an atomic: {} of {}", counter.load(Relaxed), 4 * ROUNDS);
    Ok(())
}
