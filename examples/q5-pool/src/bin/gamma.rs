//! Workers call a function of a library: any function of plain values will do.

use multiproc::Pool;
use statrs::function::gamma::gamma;

fn main() -> multiproc::Result<()> {
    multiproc::init();

    let points = [0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0];
    let pool = Pool::new(4)?;
    for (x, value) in points.iter().zip(pool.map(gamma, points)?) {
        println!("Gamma({x}) = {value:.8}");
    }
    Ok(())
}
