//! A pool of four workers squares a list of numbers; the results keep its order.

use multiproc::Pool;

fn square(number: u64) -> u64 {
    number * number
}

fn main() -> multiproc::Result<()> {
    multiproc::init();

    let pool = Pool::new(4)?;
    let squares = pool.map(square, [4, 6, 2, 5, 9])?;
    println!("{squares:?}");
    Ok(())
}
