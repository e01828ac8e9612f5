//! A pool of three workers computes nine cubes.

use multiproc::Pool;

fn cube(number: u64) -> u64 {
    number.pow(3)
}

fn main() -> multiproc::Result<()> {
    multiproc::init();

    let pool = Pool::new(3)?;
    let cubes = pool.map(cube, 1..=9)?;
    println!("{cubes:?}");
    Ok(())
}
