//! Processes that sleep at the same time: together they take as long as one.

use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::Parser;
use multiproc::{Process, Result};

/// Sleeps in several processes at once and says how long that took.
#[derive(Parser)]
struct Options {
    /// How long each process sleeps, in seconds
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// How many processes sleep
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=1000))]
    processes: u32,
}

fn do_something(seconds: u64) -> u64 {
    println!("Sleeping for {seconds} seconds");
    sleep(Duration::from_secs(seconds));
    seconds
}

fn main() -> anyhow::Result<()> {
    multiproc::init();
    let Options { seconds, processes } = Options::parse();

    let start = Instant::now();
    let sleepers: Result<Vec<_>> = (0..processes).map(|_| Process::spawn(do_something, (seconds,))).collect();
    for sleeper in sleepers? {
        println!("Finished sleeping: {}", sleeper.join()?);
    }
    println!("Program finished in {:.3} seconds", start.elapsed().as_secs_f64());
    Ok(())
}
