//! Four processes, each of which prints its label: all are started, then all are joined.

use multiproc::{Process, Result};

fn print_label(label: String) {
    println!("This is the process {label}");
}

fn main() -> Result<()> {
    multiproc::init();

    let mut children = Vec::new();
    for label in ["1", "2", "3", "4"] {
        children.push(Process::spawn(print_label, (label.to_owned(),))?);
    }
    for child in children {
        child.join()?;
    }
    Ok(())
}
