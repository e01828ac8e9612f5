//! Children, what they have started, and the process from which they are forked.

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use multiproc::{Pool, Process};
use rand::RngExt;

use super::fire::Fire;
use super::pools::square;
use crate::ledger::{self, Ledger, Path};
use crate::victim;

/// Children of which some are brief, some take their time, and some have much to say.
pub(super) fn few(fire: &mut Fire) -> Result<()> {
    let work = |number: u8, length: usize, micros: u64| {
        thread::sleep(Duration::from_micros(micros));
        vec![number; length]
    };
    let count = fire.dice.random_range(3..7);
    let lengths: Vec<_> = (0..count).map(|_| [3, 3, 200_000][fire.dice.random_range(0..3)]).collect();
    let mut children = Vec::new();
    for (number, &length) in (0..).zip(&lengths) {
        children.push(Process::spawn(work, (number, length, fire.dice.random_range(0..3000)))?);
    }
    let pids: Vec<_> = children.iter().map(Process::pid).collect();
    let results: Vec<_> = fire.over(|| pids.clone(), || children.into_iter().map(Process::join).collect());
    for (number, (result, length)) in (0_u8..).zip(results.into_iter().zip(lengths)) {
        match result {
            Ok(bytes) => ensure!(bytes == vec![number; length], "other bytes come from child {number}"),
            Err(error) => fire.answers_for(&error)?,
        }
    }
    Ok(())
}

/// How many items the pool of a child is given.
const ITEMS: u64 = 60;

/// The fates of squares, by a pool of this process's own.
fn use_a_pool(path: Path) -> multiproc::Result<Vec<multiproc::Result<u64>>> {
    Pool::builder().workers(2).initializer(ledger::open, (path,)).build()?.map_results(square, 0..ITEMS)
}

/// What it has started dies with it.
pub(super) fn with_a_pool(fire: &mut Fire) -> Result<()> {
    nested(fire, |child| vec![child])
}

pub(super) fn of_a_child(fire: &mut Fire) -> Result<()> {
    nested(fire, |child| victim::children_of(child).into_iter().collect())
}

fn nested(fire: &mut Fire, candidates: fn(u32) -> Vec<u32>) -> Result<()> {
    let ledger = Ledger::create()?;
    let child = Process::spawn(use_a_pool, (ledger.path(),))?;
    let pid = child.pid();
    let fates = fire.over(|| candidates(pid), || child.join());
    let runs = ledger.counts()?;
    ensure!(runs.values().all(|&count| count == 1), "an item has run twice");
    let fates = match fates {
        Ok(fates) => fates?,
        Err(error) => return fire.answers_for(&error),
    };
    ensure!(fates.len() as u64 == ITEMS, "{} of {ITEMS} results", fates.len());
    for (number, fate) in (0..).zip(fates) {
        match fate {
            Ok(value) => {
                ensure!(value == number * number, "item {number} comes to {value}");
                ensure!(runs.contains_key(&number), "item {number} has a result, and has not run");
            }
            Err(error) => {
                fire.answers_for(&error)?;
                ensure!(error.index() == Some(number), "item {number}: {error}");
            }
        }
    }
    Ok(())
}

/// One that waits is not missed; one that has just been given its letter is a child that was killed.
pub(super) fn spares(fire: &mut Fire) -> Result<()> {
    let count = fire.dice.random_range(4..10);
    let work = |number: u64| Process::spawn(|number: u64| number * number, (number,)).and_then(Process::join);
    let fates: Vec<_> = fire.over(victim::spares, || (0..count).map(work).collect());
    for (number, fate) in (0..).zip(fates) {
        match fate {
            Ok(square) => ensure!(square == number * number, "child {number} says {square}"),
            Err(error) => fire.answers_for(&error)?,
        }
    }
    Ok(())
}

/// Nothing fails by its death: where it is missed, another takes its place.
pub(super) fn fork_server(fire: &mut Fire) -> Result<()> {
    let count = fire.dice.random_range(2..8);
    let work = || -> multiproc::Result<_> {
        let children: Vec<_> = (0..count)
            .map(|number| Process::spawn(|number: u64| number * number, (number,)))
            .collect::<multiproc::Result<_>>()?;
        let squares = Pool::new(2)?.map(|number: u64| number * number, 0..count)?;
        let joined: Vec<_> = children.into_iter().map(Process::join).collect::<multiproc::Result<_>>()?;
        Ok((squares, joined))
    };
    let (squares, joined) = fire.over(|| victim::fork_server().into_iter().collect(), work)?;
    ensure!(squares == joined, "the pool says {squares:?}, the children say {joined:?}");
    ensure!(joined.into_iter().eq((0..count).map(|number| number * number)), "other squares come");
    Ok(())
}
