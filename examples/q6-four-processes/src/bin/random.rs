//! Each process draws a random number, and no two draw the same.

use clap::Parser;
use multiproc::{Process, Result};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

/// Draws four different numbers from 1 to 100 in four processes.
#[derive(Parser)]
struct Options {
    /// Makes the draw repeatable [default: a new one each time]
    #[arg(long)]
    seed: Option<u64>,
}

/// Shuffles 1…100 by the seed that all processes have in common, and takes the entry that is this one's alone.
fn draw(process: usize, seed: u64) {
    let mut numbers: Vec<u32> = (1..=100).collect();
    numbers.shuffle(&mut StdRng::seed_from_u64(seed));
    println!("Process number {process}, random number generated : {}", numbers[process]);
}

fn main() -> Result<()> {
    multiproc::init();
    let seed = Options::parse().seed.unwrap_or_else(rand::random);

    let children: Result<Vec<_>> = (0..4).map(|process| Process::spawn(draw, (process, seed))).collect();
    for child in children? {
        child.join()?;
    }
    Ok(())
}
