//! Four tasks of different lengths in a pool of four: they end in the order of their lengths.

use std::thread::sleep;
use std::time::Duration;

use multiproc::Pool;

fn work(name: String, seconds: u64) {
    println!(" Process {name} waiting {seconds} seconds");
    sleep(Duration::from_secs(seconds));
    println!(" Process {name} Finished.");
}

fn main() -> multiproc::Result<()> {
    multiproc::init();

    let pool = Pool::new(4)?;
    let tasks = [("A", 5), ("B", 2), ("C", 1), ("D", 3)];
    pool.starmap(work, tasks.map(|(name, seconds)| (name.to_owned(), seconds)))?;
    Ok(())
}
