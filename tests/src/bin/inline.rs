//! A program that is run with `MULTIPROC_INLINE`, and may `exit` in a task.

use std::process::{exit, id};

use multiproc::{Pool, Process, Result};

fn main() -> Result<()> {
    multiproc::init();
    let pool = Pool::new(2);
    if let Err(error) = &pool {
        println!("{error}");
    }
    let pool = pool?;
    let is_here = pool.apply(id, ())? == id() && Process::spawn(id, ())?.join()? == id();
    println!("{}", if is_here { "here" } else { "elsewhere" });
    if std::env::args().nth(1).is_some() {
        pool.apply(|| -> () { exit(3) }, ())?;
    }
    Ok(())
}
