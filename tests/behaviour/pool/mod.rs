//! **Pool**: workers that run tasks.

mod backoff;
mod bad_items;
mod broadcast;
mod cancellation;
mod descriptors;
mod encoded;
mod failures;
mod grace;
mod growth;
mod handles;
mod imap;
mod lifetime;
mod map;
mod map_reduce;
mod memories;
mod memory_limit;
mod order;
mod preload;
mod priority;
mod resize;
mod respawn;
mod retries;
mod runs;
mod state;
mod stats;
mod stuck;
mod submit_map;
mod timeouts;
mod workers;

use std::time::Duration;

use libtest_mimic::Trial;
use multiproc::pool::TaskHandle;
use multiproc::{Pool, Result, pipe};

use crate::support::{Latch, TEST_TIMEOUT, block};

pub(crate) fn trials() -> Vec<Trial> {
    let groups = [
        map::trials(),
        imap::trials(),
        bad_items::trials(),
        growth::trials(),
        handles::trials(),
        descriptors::trials(),
        encoded::trials(),
        failures::trials(),
        workers::trials(),
        lifetime::trials(),
        map_reduce::trials(),
        timeouts::trials(),
        broadcast::trials(),
        cancellation::trials(),
        grace::trials(),
        memories::trials(),
        memory_limit::trials(),
        retries::trials(),
        backoff::trials(),
        resize::trials(),
        respawn::trials(),
        order::trials(),
        preload::trials(),
        priority::trials(),
        state::trials(),
        stats::trials(),
        stuck::trials(),
        submit_map::trials(),
        runs::trials(),
    ];
    groups.into_iter().flatten().collect()
}

fn square(number: u64) -> u64 {
    number * number
}

/// A task that has begun, and blocks its worker until the latch is dropped.
fn blocked_task(pool: &Pool) -> Result<(TaskHandle<()>, Latch)> {
    let (latch, theirs) = pipe()?;
    let task = pool.submit(block, (theirs,))?;
    assert!(latch.poll(TEST_TIMEOUT)?, "the task did not begin");
    latch.recv()?;
    Ok((task, latch))
}

/// Item 0 waits until the other end of its latch is dropped. Any other returns at once, and drops its latch.
fn zero_waits((number, latch): (u32, Option<Latch>)) -> u32 {
    if number == 0 {
        let _ = latch.unwrap().recv();
    }
    number
}

/// A short time, and one that no test waits for.
const SHORT: Duration = Duration::from_millis(100);
const HOUR: Duration = Duration::from_secs(3600);
