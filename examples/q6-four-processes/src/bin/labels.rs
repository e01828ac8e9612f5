//! First all are started, then all are joined: they run at the same time, and their lines come in any order.

use multiproc::{Process, Result};

fn print_label(label: String) {
    println!("This is the process {label}");
}

fn main() -> Result<()> {
    multiproc::init();

    let start = |number: u32| Process::spawn(print_label, (number.to_string(),));
    let children: Result<Vec<_>> = (1..=4).map(start).collect();
    for child in children? {
        child.join()?;
    }
    Ok(())
}
