//! Random kills of children, grandchildren and the fork server.

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use multiproc::{ErrorKind, Pool, Process};
use rand::RngExt;

use super::kill_round::KillRound;
use super::pools::square;
use crate::event_log::{self, EventLog, Path};
use crate::target;

/// Children of which some are short, some slow, and some return much.
pub(super) fn few(round: &mut KillRound) -> Result<()> {
    let work = |number: u8, length: usize, micros: u64| {
        thread::sleep(Duration::from_micros(micros));
        vec![number; length]
    };
    let count = round.rng.random_range(3..7);
    let lengths: Vec<_> = (0..count).map(|_| [3, 3, 200_000][round.rng.random_range(0..3)]).collect();
    let mut children = Vec::new();
    for (number, &length) in (0..).zip(&lengths) {
        children.push(Process::spawn(work, (number, length, round.rng.random_range(0..3000)))?);
    }
    let pids: Vec<_> = children.iter().map(Process::pid).collect();
    let results: Vec<_> = round.run(|| pids.clone(), || children.into_iter().map(Process::join).collect());
    for (number, (result, length)) in (0_u8..).zip(results.into_iter().zip(lengths)) {
        match result {
            Ok(bytes) => ensure!(bytes == vec![number; length], "other bytes come from child {number}"),
            Err(error) => round.expect_killed(&error)?,
        }
    }
    Ok(())
}

/// The number of items for the pool of a child.
const ITEMS: u64 = 60;

/// The outcomes of squares, computed by a pool of this process.
fn use_a_pool(path: Path) -> multiproc::Result<Vec<multiproc::Result<u64>>> {
    Pool::builder().workers(2).initializer(event_log::open, (path,)).build()?.map_results(square, 0..ITEMS)
}

/// The workers of a killed child die with it.
pub(super) fn with_a_pool(round: &mut KillRound) -> Result<()> {
    nested(round, |child| vec![child])
}

pub(super) fn of_a_child(round: &mut KillRound) -> Result<()> {
    nested(round, |child| target::children_of(child).into_iter().collect())
}

fn nested(round: &mut KillRound, candidates: fn(u32) -> Vec<u32>) -> Result<()> {
    let event_log = EventLog::create()?;
    let child = Process::spawn(use_a_pool, (event_log.path(),))?;
    let pid = child.pid();
    let outcomes = round.run(|| candidates(pid), || child.join());
    let runs = event_log.counts()?;
    ensure!(runs.values().all(|&count| count == 1), "an item has run twice");
    let outcomes = match outcomes {
        Ok(outcomes) => outcomes?,
        Err(error) => return round.expect_killed(&error),
    };
    ensure!(outcomes.len() as u64 == ITEMS, "{} of {ITEMS} results", outcomes.len());
    for (number, outcome) in (0..).zip(outcomes) {
        match outcome {
            Ok(value) => {
                ensure!(value == number * number, "item {number} comes to {value}");
                ensure!(runs.contains_key(&number), "item {number} has a result, and has not run");
            }
            Err(error) => {
                round.expect_killed(&error)?;
                ensure!(error.index() == Some(number), "item {number}: {error}");
            }
        }
    }
    Ok(())
}

/// Pre-forked children: an idle one is replaced; one with its bootstrap message is a killed child. A start that
/// three kills in a row have met is an error.
pub(super) fn preforked(round: &mut KillRound) -> Result<()> {
    let count = round.rng.random_range(4..10);
    let work = |number: u64| Process::spawn(|number: u64| number * number, (number,)).and_then(Process::join);
    let outcomes: Vec<_> = round.run(target::preforked, || (0..count).map(work).collect());
    for (number, outcome) in (0..).zip(outcomes) {
        match outcome {
            Ok(square) => ensure!(square == number * number, "child {number} says {square}"),
            Err(error) if round.count() >= 3 && error.kind() == ErrorKind::Start => {}
            Err(error) => round.expect_killed(&error)?,
        }
    }
    Ok(())
}

/// No start fails by the death of the fork server: another takes its place.
pub(super) fn fork_server(round: &mut KillRound) -> Result<()> {
    let count = round.rng.random_range(2..8);
    let work = || -> multiproc::Result<_> {
        let children: Vec<_> = (0..count)
            .map(|number| Process::spawn(|number: u64| number * number, (number,)))
            .collect::<multiproc::Result<_>>()?;
        let squares = Pool::new(2)?.map(|number: u64| number * number, 0..count)?;
        let joined: Vec<_> = children.into_iter().map(Process::join).collect::<multiproc::Result<_>>()?;
        Ok((squares, joined))
    };
    let (squares, joined) = round.run(|| target::fork_server().into_iter().collect(), work)?;
    ensure!(squares == joined, "the pool says {squares:?}, the children say {joined:?}");
    ensure!(joined.into_iter().eq((0..count).map(|number| number * number)), "other squares come");
    Ok(())
}
