//! Four processes, each of which prints a random number that no other prints.

mod options;

use multiproc::{Process, Result};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

/// Shuffles 1…100 by the common seed, so each process has the same permutation, and prints its own entry.
fn draw(process: usize, seed: u64) {
    let mut numbers: Vec<u32> = (1..=100).collect();
    numbers.shuffle(&mut StdRng::seed_from_u64(seed));
    println!("Process number {process}, random number generated : {}", numbers[process]);
}

fn main() -> Result<()> {
    multiproc::init();
    let seed = options::seed().unwrap_or_else(rand::random);

    let mut children = Vec::new();
    for process in 0..4 {
        children.push(Process::spawn(draw, (process, seed))?);
    }
    for child in children {
        child.join()?;
    }
    Ok(())
}
