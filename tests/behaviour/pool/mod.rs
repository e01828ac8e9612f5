//! **Pool**: workers that run tasks.

mod calls;
mod failures;
mod handles;
mod lifetime;
mod limits;
mod map_reduce;
mod order;
mod stuck;
mod workers;

use libtest_mimic::Trial;
use multiproc::pool::TaskHandle;
use multiproc::{Pool, Result, pipe};

use crate::support::{Latch, PATIENCE, block};

pub(crate) fn trials() -> Vec<Trial> {
    let groups = [
        calls::trials(),
        handles::trials(),
        failures::trials(),
        workers::trials(),
        lifetime::trials(),
        limits::trials(),
        map_reduce::trials(),
        order::trials(),
        stuck::trials(),
    ];
    groups.into_iter().flatten().collect()
}

fn square(number: u64) -> u64 {
    number * number
}

/// Has a worker run a task that has begun, and stays until its gate is dropped.
fn blocked_task(pool: &Pool) -> Result<(TaskHandle<()>, Latch)> {
    let (gate, theirs) = pipe()?;
    let task = pool.submit(block, (theirs,))?;
    assert!(gate.poll(PATIENCE)?, "the task did not begin");
    gate.recv()?;
    Ok((task, gate))
}

/// Item 0 waits until the other end of its gate is gone. Any other ends at once, and what it holds is gone
/// then.
fn zero_waits((number, gate): (u32, Option<Latch>)) -> u32 {
    if number == 0 {
        let _ = gate.unwrap().recv();
    }
    number
}
