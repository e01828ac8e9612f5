//! Workers return a line of text each; the parent prints the lines in the order of the input.

use multiproc::Pool;

fn describe(number: u64) -> String {
    format!("Square of {number} is {} and it's Cube is {}", number.pow(2), number.pow(3))
}

fn main() -> multiproc::Result<()> {
    multiproc::init();

    let pool = Pool::new(4)?;
    for line in pool.imap(describe, 1..=5) {
        println!("{}", line?);
    }
    Ok(())
}
