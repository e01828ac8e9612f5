//! As many sleeping processes as the command line says.

mod options;

use std::thread::sleep;
use std::time::{Duration, Instant};

use multiproc::{Process, Result};
use options::Options;

fn do_something(seconds: u64) {
    println!("Sleeping for {seconds} seconds");
    sleep(Duration::from_secs(seconds));
    println!("Finished sleeping: {seconds}");
}

fn main() -> Result<()> {
    multiproc::init();
    let Options { seconds, processes } = options::parse();

    let start = Instant::now();
    let mut sleepers = Vec::new();
    for _ in 0..processes {
        sleepers.push(Process::spawn(do_something, (seconds,))?);
    }
    for sleeper in sleepers {
        sleeper.join()?;
    }
    println!("Program finished in {:.3} seconds", start.elapsed().as_secs_f64());
    Ok(())
}
