//! Nine tasks of two seconds on five workers: two rounds, so four seconds instead of eighteen.

use std::thread::sleep;
use std::time::Duration;

use multiproc::Pool;

/// Prints without a line end; the library flushes the output after a task.
fn square(number: u64) -> u64 {
    sleep(Duration::from_secs(2));
    print!(" {}", number * number);
    number * number
}

fn main() -> multiproc::Result<()> {
    multiproc::init();

    let pool = Pool::new(5)?;
    let squares = pool.map(square, [3, 4, 5, 6, 6, 7, 87, 8, 8])?;
    println!();
    println!("{squares:?}");
    Ok(())
}
