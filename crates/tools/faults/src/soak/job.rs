//! The jobs of children and workers, and their expected results.

use std::thread;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use multiproc::queue::{Receiver, Sender};
use multiproc::{Connection, Error, Pool, Process, SharedSlice};
use rand::RngExt;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

/// Sender, number, and some bytes.
pub(super) type Item = (u64, u64, ByteBuf);

#[derive(Serialize, Deserialize)]
pub(super) enum Job {
    /// A value, after this many microseconds.
    Value(u64, u64),
    /// The number of these bytes.
    Length(ByteBuf),
    /// The sum of these.
    Sum(SharedSlice<u64>),
    /// The value, once the other end is gone.
    Wait(Connection<(), ()>, u64),
    /// Puts this many items into a queue.
    Send(Sender<Item>, u64, u64),
    /// Takes this many items out of a queue; returns the sum of their numbers.
    Take(Receiver<Item>, u64),
    /// The sum of the numbers up to this, computed by a pool of the job.
    Pool(u64),
    /// The result of that job in a child of the job.
    Child(Box<Job>),
    Panic,
    Exit(i32),
}

/// The expected result of an undisturbed job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expected {
    Value(u64),
    Panic,
    Exit(i32),
    /// This value, or an error because a queue has lost its other ends.
    Or(u64),
}

/// A random job without channels. If `may_fail`, some jobs fail.
pub(super) fn any(rng: &mut StdRng, may_fail: bool) -> multiproc::Result<(Job, Expected)> {
    let number = rng.random_range(0..1000);
    let nap = rng.random_range(0..2000);
    Ok(match rng.random_range(0..if may_fail { 24 } else { 22 }) {
        0..10 => (Job::Value(0, number), Expected::Value(number)),
        10..16 => (Job::Value(nap, number), Expected::Value(number)),
        16..18 => {
            let most = if rng.random() { 40_000 } else { 400_000_u32 }; // in a ring, or mostly beside it
            let length = rng.random_range(0..most);
            (Job::Length(ByteBuf::from(vec![1; length as usize])), Expected::Value(length.into()))
        }
        18..20 => {
            let numbers: Vec<u64> = (0..number).collect();
            (Job::Sum(SharedSlice::from_slice(&numbers)?), Expected::Value(numbers.iter().sum()))
        }
        20 => (Job::Pool(number), Expected::Value((0..number).sum())),
        21 => (Job::Child(Box::new(Job::Value(nap, number))), Expected::Value(number)),
        22 => (Job::Panic, Expected::Panic),
        _ => (Job::Exit(7), Expected::Exit(7)),
    })
}

/// Runs the job.
pub(super) fn perform(job: Job) -> u64 {
    let tried = |job: Job| -> multiproc::Result<u64> {
        match job {
            Job::Value(micros, value) => {
                thread::sleep(Duration::from_micros(micros));
                Ok(value)
            }
            Job::Length(bytes) => Ok(bytes.len() as u64),
            Job::Sum(numbers) => Ok(numbers.iter().sum()),
            Job::Wait(gate, value) => match gate.recv() {
                Err(error) if error.is_disconnected() => Ok(value),
                sent => sent.map(|()| value),
            },
            Job::Send(items, own, count) => {
                (0..count).try_for_each(|number| items.send(item(own, number)))?;
                Ok(count)
            }
            Job::Take(items, count) => (0..count).map(|_| items.recv().map(|(_, number, _)| number)).sum(),
            Job::Pool(end) => Ok(Pool::new(2)?.map(|number: u64| number, 0..end)?.into_iter().sum()),
            Job::Child(job) => Process::spawn(perform, (*job,))?.join(),
            Job::Panic => std::panic::resume_unwind(Box::new(PANIC)), // which says nothing to standard error
            Job::Exit(code) => std::process::exit(code),
        }
    };
    tried(job).unwrap_or_else(|error| panic!("a job fails: {error}"))
}

const PANIC: &str = "as it must";

/// Most are small.
pub(super) fn item(own: u64, number: u64) -> Item {
    let [low, ..] = number.to_le_bytes();
    let length = if (own + number) % 50 == 49 { 300_000 } else { usize::from(low) };
    (own, number, ByteBuf::from(vec![low; length]))
}

impl Expected {
    /// Checks a result.
    pub(super) fn check(self, result: &Result<u64, Error>) -> Result<()> {
        match (self, result) {
            (Self::Value(expected) | Self::Or(expected), Ok(value)) => {
                ensure!(*value == expected, "{value} comes, and {expected} is expected");
            }
            (Self::Panic, Err(error)) if error.is_panic() => {
                ensure!(error.to_string().ends_with(PANIC), "{error}");
            }
            (Self::Exit(expected), Err(error)) => ensure!(error.exit_code() == Some(expected), "{error}"),
            (Self::Or(_), Err(error)) if error.is_panic() => {}
            (_, Err(error)) => bail!("{self:?} is expected: {error}"),
            (_, Ok(value)) => bail!("{self:?} is expected, and {value} comes"),
        }
        Ok(())
    }

    pub(super) fn is_failure(self) -> bool {
        !matches!(self, Self::Value(_))
    }
}
