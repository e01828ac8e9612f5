//! A pool with a preloaded state that a broadcast changes, and whose number of workers changes.

use anyhow::{Result, ensure};
use multiproc::failpoints::now;
use multiproc::pool::State;
use multiproc::{Pool, StartMethod};

use super::{AllowedFailures, Observed};

type Table = Vec<u64>;

fn make(length: u64) -> Table {
    (0..length).map(|number| number * number).collect()
}

fn add_to_all(table: &mut Table, number: u64) {
    for entry in table {
        *entry += number;
    }
}

fn look_up(table: &mut Table, index: usize) -> u64 {
    table[index]
}

/// Every task finds the broadcast done, in whichever worker.
pub(super) fn broadcast(allowed: AllowedFailures) -> Result<Observed> {
    let mut observed = Observed::default();
    let builder = Pool::builder().workers(2).start_method(StartMethod::ForkServer);
    let pool = builder.preload(make, (100,)).build();
    // Beside the items, a death costs the pool if it was that of the function that makes the state, and its result
    // of the broadcast if it was that of a worker.
    let deaths = u32::from(allowed.killed_at.is_some());
    let allowed = AllowedFailures { deaths, ..allowed };
    let Some(pool) = observed.tolerate(pool, allowed)? else { return Ok(observed) };
    let changed = pool.broadcast(add_to_all, (1,));
    let Some(changed) = observed.tolerate(changed, allowed)? else { return Ok(observed) };
    for result in changed {
        observed.tolerate(result, allowed)?;
    }
    for workers in [3, 1] {
        if observed.tolerate(pool.resize(workers), allowed)?.is_some() {
            check_all(&pool, &mut observed, allowed)?;
        }
    }
    observed.settled = Some(now());
    pool.join();
    Ok(observed)
}

fn check_all(pool: &Pool<State<Table>>, observed: &mut Observed, allowed: AllowedFailures) -> Result<()> {
    let results = pool.map_results(look_up, 0..100);
    let Some(results) = observed.tolerate(results, allowed)? else { return Ok(()) };
    for (number, result) in (0..).zip(results) {
        let value = observed.tolerate(result, allowed)?;
        ensure!(value.is_none_or(|value| value == number * number + 1), "entry {number} is {value:?}");
    }
    Ok(())
}
