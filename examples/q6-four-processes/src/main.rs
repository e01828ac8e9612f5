//! Four processes, each of which prints a different number.

use multiproc::{Process, Result};

fn print_number(number: u32) {
    println!("{number}");
}

fn main() -> Result<()> {
    multiproc::init(); // in a child process, runs `print_number` and never returns

    let mut children = Vec::new();
    for number in 1..=4 {
        children.push(Process::spawn(print_number, (number,))?);
    }
    for child in children {
        child.join()?;
    }
    Ok(())
}
