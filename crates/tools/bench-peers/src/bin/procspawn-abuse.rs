//! What procspawn makes of the abuse of `cargo xtask faults --peers`: as in crates/tools/faults/src/abuse.rs.

use std::env;

use anyhow::{Context, Result, bail};
use faults::witness::{self, Cube, ITEMS};
use procspawn::{JoinHandle, Pool, ProcConfig, SpawnError};

const DEATH_AT_BIRTH: &str = "death-at-birth";

fn main() -> Result<()> {
    // A child has its parent's arguments.
    let abuse = env::args().nth(1).context("the command line is the name of an abuse")?;
    let mut config = ProcConfig::new();
    if abuse == DEATH_AT_BIRTH {
        config.config_callback(witness::die_at_birth);
    }
    config.init();
    match abuse.as_str() {
        "worker-killed" => in_a_map(witness::killed),
        "task-exits" => in_a_map(witness::exits),
        "undecodable" => in_a_map(witness::undecodable),
        "parent-killed" => parent_killed(),
        DEATH_AT_BIRTH => death_at_birth(),
        other => bail!("there is no abuse `{other}`"),
    }
}

fn in_a_map(task: fn(u64) -> Cube) -> Result<()> {
    let pool = Pool::new(2)?;
    let results = map(&pool, task);
    witness::say_settled(witness::tell(&results)?)?;
    witness::say_usable(map(&pool, witness::cube).iter().all(Result::is_ok));
    Ok(())
}

/// There is no map, so the caller submits all items and joins them.
fn map(pool: &Pool, task: fn(u64) -> Cube) -> Vec<Result<Cube, SpawnError>> {
    let calls: Vec<_> = (0..ITEMS).map(|item| pool.spawn(item, task)).collect();
    calls.into_iter().map(JoinHandle::join).collect()
}

fn parent_killed() -> Result<()> {
    let pool = Pool::new(2)?;
    let _calls = [pool.spawn(0, witness::busy), pool.spawn(1, witness::busy)];
    witness::await_presence(2);
    witness::kill_self()
}

fn death_at_birth() -> Result<()> {
    witness::strike();
    let pool = Pool::new(2)?;
    let results = map(&pool, witness::cube);
    witness::say_settled(witness::tell(&results)?)
}
