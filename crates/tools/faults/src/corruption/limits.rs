//! Pools with limits of which the memory is overwritten: retries after a pause, a grace, a bound on what is
//! submitted, and workers that end when they are idle.

use std::time::Duration;

use anyhow::Result;
use multiproc::pool::{Canceller, RetryPolicy, TaskHandle};
use multiproc::{Pool, as_completed};
use nix::sys::signal::{Signal, raise};
use tests::corrupter::Random;

use super::bounds::Bounds;
use super::pools::{SHUTDOWN, WORK, end_pool};
use super::{Rest, nap};

/// How many tasks may be pending.
const MOST: usize = 10;
const IDLE: Duration = Duration::from_millis(2);
const GRACE: Duration = Duration::from_millis(20);

fn nap_or_die(number: u64) -> u64 {
    if number % 10 == 3 {
        let _ = raise(Signal::SIGKILL);
    }
    nap(number)
}

pub(super) fn use_limits(_: &mut Random, bounds: &Bounds) -> Result<Rest> {
    let builder = Pool::builder().workers(2).shutdown_timeout(SHUTDOWN);
    let builder = builder.max_pending(MOST).idle_timeout(IDLE);
    let pool = bounds.within(WORK, "PoolBuilder::build", || builder.build())??;
    Ok(Box::new(move |random, bounds| {
        for _ in 0..3 {
            submit_and_cancel(&pool, random, bounds)?;
        }
        end_pool(pool, random, bounds)
    }))
}

fn submit_and_cancel(pool: &Pool, random: &mut Random, bounds: &Bounds) -> Result<()> {
    let policy = RetryPolicy::new(2).backoff(Duration::from_millis(1), Duration::from_millis(4));
    let options = pool.options().retry(policy).grace(GRACE);
    let mut handles = Vec::new();
    for number in 0..random.below(40) {
        let submit = || options.submit(nap_or_die, (number,));
        handles.extend(bounds.within(WORK, "CallOptions::submit to a pool with a limit", submit)?);
    }
    let cancellers: Vec<Canceller> = handles.iter().step_by(5).map(TaskHandle::canceller).collect();
    let mut results = as_completed(handles);
    for canceller in cancellers {
        bounds.at_once("Canceller::cancel", || canceller.cancel())?;
    }
    while bounds.within(WORK, "AsCompleted::next", || results.next())?.is_some() {}
    Ok(())
}
