//! 32 tasks, done by a pool of four workers and by a process each: how many processes, and how long?

use std::collections::HashSet;
use std::time::Instant;

use multiproc::{Pool, Process};

/// Stands for a short task; tells which process has done it.
fn task(_number: u32) -> u32 {
    std::process::id()
}

fn main() -> multiproc::Result<()> {
    multiproc::init();

    let start = Instant::now();
    let pool = Pool::new(4)?;
    let pids = pool.map(task, 0..32)?;
    report("in a pool", &pids, start);

    let start = Instant::now();
    let mut children = Vec::new();
    for number in 0..32 {
        children.push(Process::spawn(task, (number,))?);
    }
    let mut pids = Vec::new();
    for child in children {
        pids.push(child.join()?);
    }
    report("by a process each", &pids, start);
    Ok(())
}

fn report(how: &str, pids: &[u32], start: Instant) {
    let processes: HashSet<_> = pids.iter().collect();
    println!("{} tasks {how}: {} processes, {:.1?}", pids.len(), processes.len(), start.elapsed());
}
