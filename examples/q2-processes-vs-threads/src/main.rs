//! The same static, changed in four threads and in four processes: threads share it, each process has its own.

use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use multiproc::Process;

static COUNTER: AtomicU32 = AtomicU32::new(0);

fn count() -> u32 {
    COUNTER.fetch_add(1, Ordering::Relaxed) + 1
}

fn main() -> multiproc::Result<()> {
    multiproc::init();

    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(count);
        }
    });
    println!("after four threads: {}", COUNTER.load(Ordering::Relaxed));

    COUNTER.store(0, Ordering::Relaxed);
    let mut children = Vec::new();
    for _ in 0..4 {
        children.push(Process::spawn(count, ())?);
    }
    for child in children {
        println!("in one process: {}", child.join()?);
    }
    println!("after four processes: {}", COUNTER.load(Ordering::Relaxed));
    Ok(())
}
