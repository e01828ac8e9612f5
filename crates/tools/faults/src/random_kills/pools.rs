//! Random kills of pool workers.

use std::collections::BTreeSet;
use std::iter;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use multiproc::pool::{PoolBuilder, TaskHandle};
use multiproc::queue::{self, Sender};
use multiproc::{Error, Pool, SharedSlice};
use rand::RngExt;
use serde_bytes::ByteBuf;

use super::kill_round::KillRound;
use crate::event_log::{self, EventLog};

/// An item, the index that its error must name, if any, and its outcome.
type Outcome = (u64, Option<u64>, multiproc::Result<u64>);

/// The square, after some microseconds.
pub(super) fn square(number: u64) -> u64 {
    event_log::append(number);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_micros(number % 7 * 10) {
        std::hint::spin_loop();
    }
    number * number
}

/// A pool that appends each item to an event log when it runs.
fn pool(event_log: &EventLog, options: impl FnOnce(PoolBuilder) -> PoolBuilder) -> multiproc::Result<Pool> {
    options(Pool::builder().workers(2).initializer(event_log::open, (event_log.path(),))).build()
}

/// Each result must be right, or lost with a killed worker; and no item may run twice.
fn check(
    round: &mut KillRound,
    event_log: &EventLog,
    outcomes: impl IntoIterator<Item = Outcome>,
) -> Result<()> {
    let runs = event_log.counts()?;
    for (number, index, outcome) in outcomes {
        let ran = runs.get(&number).copied().unwrap_or(0);
        ensure!(ran <= 1, "item {number} has run {ran} times");
        match outcome {
            Ok(value) => {
                ensure!(value == number * number, "item {number} comes to {value}");
                ensure!(ran == 1, "item {number} has a result, and has not run");
            }
            Err(error) => {
                round.expect_killed(&error)?;
                ensure!(error.index() == index, "item {index:?}: {error}");
            }
        }
    }
    Ok(())
}

/// The pool must work after the kills. Ends it in one of three ways.
fn use_again(round: &mut KillRound, pool: Pool) -> Result<()> {
    round.wait_for_exits()?;
    let again: Vec<u64> = pool.map(|number: u64| number + 1, 0..10)?;
    ensure!(again.into_iter().eq(1..11), "afterwards, other results come");
    match round.rng.random_range(0..3) {
        0 => drop(pool),
        1 => pool.join(),
        _ => pool.terminate(),
    }
    Ok(())
}

pub(super) fn map(round: &mut KillRound) -> Result<()> {
    let event_log = EventLog::create()?;
    let pool = pool(&event_log, |pool| pool)?;
    let count = round.rng.random_range(100..500);
    if round.rng.random_bool(0.2) {
        let is_submitted = round.rng.random();
        let run = || {
            if is_submitted { pool.submit_map(square, 0..count)?.get() } else { pool.map(square, 0..count) }
        };
        match round.run(|| pool.worker_pids(), run) {
            Ok(squares) => {
                ensure!(squares.into_iter().eq((0..count).map(|number| number * number)), "others come");
            }
            Err(error) => round.expect_killed(&error)?,
        }
    } else {
        let outcomes = round.run(|| pool.worker_pids(), || pool.map_results(square, 0..count))?;
        ensure!(outcomes.len() as u64 == count, "{} of {count} results", outcomes.len());
        check(
            round,
            &event_log,
            (0..).zip(outcomes).map(|(number, outcome)| (number, Some(number), outcome)),
        )?;
    }
    use_again(round, pool)
}

pub(super) fn imap(round: &mut KillRound) -> Result<()> {
    let event_log = EventLog::create()?;
    let pool = pool(&event_log, |pool| pool)?;
    let count = round.rng.random_range(100..500);
    let outcomes: Vec<_> = round.run(|| pool.worker_pids(), || pool.imap(square, 0..count).collect());
    ensure!(outcomes.len() as u64 == count, "{} of {count} results", outcomes.len());
    check(round, &event_log, (0..).zip(outcomes).map(|(number, outcome)| (number, Some(number), outcome)))?;
    use_again(round, pool)
}

pub(super) fn imap_unordered(round: &mut KillRound) -> Result<()> {
    let event_log = EventLog::create()?;
    let pool = pool(&event_log, |pool| pool)?;
    let count = round.rng.random_range(100..500);
    let outcomes: Vec<_> =
        round.run(|| pool.worker_pids(), || pool.imap_unordered(square, 0..count).collect());
    let mut outcomes: Vec<Outcome> = outcomes.into_iter().map(by_its_number).collect();
    outcomes.sort_unstable_by_key(|(number, ..)| *number);
    let numbers = outcomes.iter().map(|(number, ..)| *number);
    ensure!(numbers.clone().eq(0..count), "these have come: {:?}", numbers.collect::<Vec<_>>());
    check(round, &event_log, outcomes)?;
    use_again(round, pool)
}

fn by_its_number(outcome: multiproc::Result<u64>) -> Outcome {
    let number = match &outcome {
        Ok(square) => square.isqrt(),
        Err(error) => error.index().unwrap_or(u64::MAX),
    };
    (number, Some(number), outcome)
}

pub(super) fn submit(round: &mut KillRound) -> Result<()> {
    let event_log = EventLog::create()?;
    let pool = pool(&event_log, |pool| pool)?;
    let count = round.rng.random_range(20..200);
    let outcomes = round.run(|| pool.worker_pids(), || submit_all(&pool, count));
    check(round, &event_log, outcomes)?;
    use_again(round, pool)
}

fn submit_all(pool: &Pool, count: u64) -> Vec<Outcome> {
    let handles: Vec<_> = (0..count).map(|number| pool.submit(square, (number,))).collect();
    results(handles)
}

fn results(handles: Vec<multiproc::Result<TaskHandle<u64>>>) -> Vec<Outcome> {
    let get = |handle: multiproc::Result<TaskHandle<u64>>| handle.and_then(TaskHandle::get);
    (0..).zip(handles).map(|(number, handle)| (number, None, get(handle))).collect()
}

/// Large for a ring, or too large, there and back.
pub(super) fn large(round: &mut KillRound) -> Result<()> {
    let event_log = EventLog::create()?;
    let pool = pool(&event_log, |pool| pool)?;
    let count = round.rng.random_range(6..20_u8);
    let lengths = if round.rng.random() { 8_000..40_000 } else { 30_000..300_000 };
    let length = round.rng.random_range(lengths);
    let echo = |number: u64, bytes: ByteBuf| (square(number), bytes);
    let items = (0..count).map(|number| (u64::from(number), ByteBuf::from(vec![number; length])));
    let outcomes = round.run(|| pool.worker_pids(), || pool.starmap_results(echo, items))?;
    ensure!(outcomes.len() == usize::from(count), "{} of {count} results", outcomes.len());
    let mut numbers = Vec::new();
    for (number, outcome) in (0..count).zip(outcomes) {
        let is_whole = outcome.as_ref().map_or(true, |(_, bytes)| *bytes == vec![number; length]);
        ensure!(is_whole, "other bytes come back from item {number}");
        numbers.push((number.into(), Some(number.into()), outcome.map(|(square, _)| square)));
    }
    check(round, &event_log, numbers)?;
    for _ in 0..4 {
        // An idle worker gets them, and each is of another function.
        let bytes = ByteBuf::from(vec![1; length]);
        ensure!(pool.apply(|bytes: ByteBuf| bytes.len(), (bytes.clone(),))? == length, "another length");
        ensure!(pool.apply(|bytes: ByteBuf| bytes, (bytes.clone(),))? == bytes, "other bytes come back");
    }
    use_again(round, pool)
}

/// Each item sends its number into a queue, whose receiver ends when all items are done.
pub(super) fn descriptors(round: &mut KillRound) -> Result<()> {
    let event_log = EventLog::create()?;
    let pool = pool(&event_log, |pool| pool)?;
    let count = round.rng.random_range(4..30);
    let (sender, receiver) = queue::bounded(64)?;
    let send = |numbers: Sender<u64>, number: u64| {
        numbers.send(number).map(|()| square(number)).map_err(Error::from)
    };
    let (came, outcomes) = round.run(
        || pool.worker_pids(),
        || {
            let handles: Vec<_> =
                (0..count).map(|number| pool.submit(send, (sender.clone(), number))).collect();
            drop(sender);
            let came: multiproc::Result<Vec<u64>> = receiver.into_iter().collect();
            let get = |handle: multiproc::Result<TaskHandle<_>>| handle.and_then(TaskHandle::get).flatten();
            (came, handles.into_iter().map(get).collect::<Vec<_>>())
        },
    );
    let came = came?;
    let unique: BTreeSet<_> = came.iter().copied().collect();
    ensure!(unique.len() == came.len(), "one has come twice: {came:?}");
    for (number, _) in (0..).zip(&outcomes).filter(|(_, outcome)| outcome.is_ok()) {
        ensure!(unique.contains(&number), "item {number} was sent, and has not come");
    }
    check(round, &event_log, (0..).zip(outcomes).map(|(number, outcome)| (number, None, outcome)))?;
    use_again(round, pool)
}

/// Each item reads one of some slices of memory, more than a worker keeps.
pub(super) fn sharing(round: &mut KillRound) -> Result<()> {
    let event_log = EventLog::create()?;
    let pool = pool(&event_log, |pool| pool)?;
    let (count, turn) = (round.rng.random_range(10..300), round.rng.random_range(1..20));
    let slices: Vec<_> =
        (0..12_u64).map(|of| SharedSlice::from_slice(&[of; 100])).collect::<multiproc::Result<_>>()?;
    let read = |slice: SharedSlice<u64>, of: u64, number: u64| {
        if slice[..] == [of; 100] { square(number) } else { u64::MAX }
    };
    let turns = slices.iter().zip(0..).cycle().flat_map(|slice| iter::repeat_n(slice, turn));
    let items = turns.zip(0..count).map(|((slice, of), number)| (slice.clone(), of, number));
    let outcomes = round.run(|| pool.worker_pids(), || pool.starmap_results(read, items))?;
    check(round, &event_log, (0..).zip(outcomes).map(|(number, outcome)| (number, Some(number), outcome)))?;
    use_again(round, pool)
}

/// Closed before they are done.
pub(super) fn recycled(round: &mut KillRound) -> Result<()> {
    let event_log = EventLog::create()?;
    let tasks = round.rng.random_range(1..8);
    let pool = pool(&event_log, |pool| pool.chunk_size(1).max_tasks_per_worker(tasks))?;
    let count = tasks * 6;
    let outcomes = round.run(
        || pool.worker_pids(),
        || {
            let handles: Vec<_> = (0..count).map(|number| pool.submit(square, (number,))).collect();
            pool.close();
            results(handles)
        },
    );
    pool.join();
    check(round, &event_log, outcomes)
}

/// Two, each used by a thread of its own.
pub(super) fn several(round: &mut KillRound) -> Result<()> {
    let ledgers = [EventLog::create()?, EventLog::create()?];
    let [one, other] = [pool(&ledgers[0], |pool| pool)?, pool(&ledgers[1], |pool| pool.workers(1))?];
    let count = round.rng.random_range(20..100);
    let (ones, others) = round.run(
        || [one.worker_pids(), other.worker_pids()].concat(),
        || {
            std::thread::scope(|scope| {
                let ones = scope.spawn(|| submit_all(&one, count));
                let others = other.map_results(square, 0..count);
                (ones.join(), others)
            })
        },
    );
    let Ok(ones) = ones else { bail!("a thread that has used a pool has panicked") };
    check(round, &ledgers[0], ones)?;
    check(round, &ledgers[1], (0..).zip(others?).map(|(number, outcome)| (number, Some(number), outcome)))?;
    use_again(round, one)?;
    use_again(round, other)
}

/// Dropped or terminated with many pending tasks.
pub(super) fn ending(round: &mut KillRound) -> Result<()> {
    let event_log = EventLog::create()?;
    let pool = pool(&event_log, |pool| pool)?;
    let (drops, nap) = (round.rng.random_bool(0.5), round.rng.random_range(0..3000));
    let handles: Vec<_> = (0..300).map(|number| pool.submit(square, (number,))).collect();
    let pids = pool.worker_pids();
    let outcomes = round.run(
        || pids.clone(),
        || {
            std::thread::sleep(Duration::from_micros(nap));
            if drops {
                drop(pool);
            } else {
                pool.terminate();
            }
            results(handles)
        },
    );
    // The pool ends running items with a signal, and cancels the others.
    let is_ended = |error: &Error| error.is_cancelled() || matches!(error.signal(), Some(9 | 15));
    let (ended, others): (Vec<_>, _) =
        outcomes.into_iter().partition(|(_, _, outcome)| outcome.as_ref().is_err_and(is_ended));
    let runs = event_log.counts()?;
    for (number, _, outcome) in ended {
        let ran = runs.get(&number).copied().unwrap_or(0);
        let is_cancelled = outcome.is_err_and(|error| error.is_cancelled());
        ensure!(
            ran == 0 || (ran == 1 && !is_cancelled),
            "item {number} has run {ran} times, cancelled: {is_cancelled}"
        );
    }
    check(round, &event_log, others)
}
