//! The six faults of `cargo xtask faults --peers`, inflicted on procspawn, as in
//! crates/tools/faults/src/peers.rs.

use std::env;

use anyhow::{Context, Result, bail};
use faults::report::{self, Cube, ITEMS};
use procspawn::{JoinHandle, Pool, ProcConfig, SpawnError};

const DEATH_AT_START: &str = "death-at-start";

fn main() -> Result<()> {
    // A child has its parent's arguments.
    let fault = env::args().nth(1).context("the command line is the name of a fault")?;
    let mut config = ProcConfig::new();
    if fault == DEATH_AT_START {
        config.config_callback(report::die_at_start);
    }
    config.init();
    match fault.as_str() {
        "worker-killed" => in_a_map(report::killed),
        "task-exits" => in_a_map(report::exits),
        "undecodable" => in_a_map(report::undecodable),
        "parent-killed" => parent_killed(),
        DEATH_AT_START => death_at_start(),
        other => bail!("there is no fault `{other}`"),
    }
}

fn in_a_map(task: fn(u64) -> Cube) -> Result<()> {
    let pool = Pool::new(2)?;
    let results = map(&pool, task);
    report::report_outcome(report::summarize(&results)?)?;
    report::report_reusable(map(&pool, report::cube).iter().all(Result::is_ok));
    Ok(())
}

/// There is no map, so the caller submits all items and joins them.
fn map(pool: &Pool, task: fn(u64) -> Cube) -> Vec<Result<Cube, SpawnError>> {
    let calls: Vec<_> = (0..ITEMS).map(|item| pool.spawn(item, task)).collect();
    calls.into_iter().map(JoinHandle::join).collect()
}

fn parent_killed() -> Result<()> {
    let pool = Pool::new(2)?;
    let _calls = [pool.spawn(0, report::busy), pool.spawn(1, report::busy)];
    report::wait_for_check_ins(2);
    report::kill_self()
}

fn death_at_start() -> Result<()> {
    report::mark_fault();
    let pool = Pool::new(2)?;
    let results = map(&pool, report::cube);
    report::report_outcome(report::summarize(&results)?)
}
