//! Four processes, each of which prints a different number.

use multiproc::{Process, Result};

fn print_number(number: u32) {
    println!("{number}");
}

fn main() -> Result<()> {
    multiproc::init();

    let children: Result<Vec<_>> = (1..=4).map(|number| Process::spawn(print_number, (number,))).collect();
    for child in children? {
        child.join()?;
    }
    Ok(())
}
