//! Two processes that sleep at the same time: together they take as long as one.

use std::thread::sleep;
use std::time::{Duration, Instant};

use multiproc::{Process, Result};

fn do_something(seconds: u64) {
    println!("Sleeping for {seconds} seconds");
    sleep(Duration::from_secs(seconds));
    println!("Finished sleeping: {seconds}");
}

fn main() -> Result<()> {
    multiproc::init();

    let start = Instant::now();
    let first = Process::spawn(do_something, (3,))?;
    let second = Process::spawn(do_something, (3,))?;
    first.join()?;
    second.join()?;
    println!("Program finished in {:.3} seconds", start.elapsed().as_secs_f64());
    Ok(())
}
