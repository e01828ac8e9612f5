//! Workers of pools.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use multiproc::pool::{PoolBuilder, TaskHandle};
use multiproc::queue::{self, Sender};
use multiproc::{Error, Pool};
use rand::RngExt;
use serde_bytes::ByteBuf;

use super::fire::Fire;
use crate::ledger::{self, Ledger};

/// What became of an item, and which place an error must name, if one.
type Fate = (u64, Option<u64>, multiproc::Result<u64>);

/// The square, after some microseconds.
pub(super) fn square(number: u64) -> u64 {
    ledger::enter(number);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_micros(number % 7 * 10) {
        std::hint::spin_loop();
    }
    number * number
}

/// A pool in which each item is entered into a ledger when it runs.
fn pool(ledger: &Ledger, options: impl FnOnce(PoolBuilder) -> PoolBuilder) -> multiproc::Result<Pool> {
    options(Pool::builder().workers(2).initializer(ledger::open, (ledger.path(),))).build()
}

/// Each result must be right, or lost with a worker that was killed; and no item has run twice.
fn check(fire: &mut Fire, ledger: &Ledger, fates: impl IntoIterator<Item = Fate>) -> Result<()> {
    let runs = ledger.counts()?;
    for (number, place, fate) in fates {
        let ran = runs.get(&number).copied().unwrap_or(0);
        ensure!(ran <= 1, "item {number} has run {ran} times");
        match fate {
            Ok(value) => {
                ensure!(value == number * number, "item {number} comes to {value}");
                ensure!(ran == 1, "item {number} has a result, and has not run");
            }
            Err(error) => {
                fire.answers_for(&error)?;
                ensure!(error.index() == place, "item {place:?}: {error}");
            }
        }
    }
    Ok(())
}

/// The pool must do its work when those are dead that were killed; ends it in one of three ways.
fn use_again(fire: &mut Fire, pool: Pool) -> Result<()> {
    fire.await_deaths()?;
    let again: Vec<u64> = pool.map(|number: u64| number + 1, 0..10)?;
    ensure!(again.into_iter().eq(1..11), "afterwards, other results come");
    match fire.dice.random_range(0..3) {
        0 => drop(pool),
        1 => pool.join(),
        _ => pool.terminate(),
    }
    Ok(())
}

pub(super) fn map(fire: &mut Fire) -> Result<()> {
    let ledger = Ledger::create()?;
    let pool = pool(&ledger, |pool| pool)?;
    let count = fire.dice.random_range(100..500);
    if fire.dice.random_bool(0.2) {
        match fire.over(|| pool.worker_pids(), || pool.map(square, 0..count)) {
            Ok(squares) => {
                ensure!(squares.into_iter().eq((0..count).map(|number| number * number)), "others come");
            }
            Err(error) => fire.answers_for(&error)?,
        }
    } else {
        let fates = fire.over(|| pool.worker_pids(), || pool.map_results(square, 0..count))?;
        ensure!(fates.len() as u64 == count, "{} of {count} results", fates.len());
        check(fire, &ledger, (0..).zip(fates).map(|(number, fate)| (number, Some(number), fate)))?;
    }
    use_again(fire, pool)
}

pub(super) fn imap(fire: &mut Fire) -> Result<()> {
    let ledger = Ledger::create()?;
    let pool = pool(&ledger, |pool| pool)?;
    let count = fire.dice.random_range(100..500);
    let fates: Vec<_> = fire.over(|| pool.worker_pids(), || pool.imap(square, 0..count).collect());
    ensure!(fates.len() as u64 == count, "{} of {count} results", fates.len());
    check(fire, &ledger, (0..).zip(fates).map(|(number, fate)| (number, Some(number), fate)))?;
    use_again(fire, pool)
}

pub(super) fn imap_unordered(fire: &mut Fire) -> Result<()> {
    let ledger = Ledger::create()?;
    let pool = pool(&ledger, |pool| pool)?;
    let count = fire.dice.random_range(100..500);
    let fates: Vec<_> = fire.over(|| pool.worker_pids(), || pool.imap_unordered(square, 0..count).collect());
    let mut fates: Vec<Fate> = fates.into_iter().map(by_its_number).collect();
    fates.sort_unstable_by_key(|(number, ..)| *number);
    let numbers = fates.iter().map(|(number, ..)| *number);
    ensure!(numbers.clone().eq(0..count), "these have come: {:?}", numbers.collect::<Vec<_>>());
    check(fire, &ledger, fates)?;
    use_again(fire, pool)
}

fn by_its_number(fate: multiproc::Result<u64>) -> Fate {
    let number = match &fate {
        Ok(square) => square.isqrt(),
        Err(error) => error.index().unwrap_or(u64::MAX),
    };
    (number, Some(number), fate)
}

pub(super) fn submit(fire: &mut Fire) -> Result<()> {
    let ledger = Ledger::create()?;
    let pool = pool(&ledger, |pool| pool)?;
    let count = fire.dice.random_range(20..200);
    let fates = fire.over(|| pool.worker_pids(), || submit_all(&pool, count));
    check(fire, &ledger, fates)?;
    use_again(fire, pool)
}

fn submit_all(pool: &Pool, count: u64) -> Vec<Fate> {
    let handles: Vec<_> = (0..count).map(|number| pool.submit(square, (number,))).collect();
    results(handles)
}

fn results(handles: Vec<multiproc::Result<TaskHandle<u64>>>) -> Vec<Fate> {
    let get = |handle: multiproc::Result<TaskHandle<u64>>| handle.and_then(TaskHandle::get);
    (0..).zip(handles).map(|(number, handle)| (number, None, get(handle))).collect()
}

/// Too large for a ring, there and back.
pub(super) fn large(fire: &mut Fire) -> Result<()> {
    let ledger = Ledger::create()?;
    let pool = pool(&ledger, |pool| pool)?;
    let count = fire.dice.random_range(6..20_u8);
    let length = fire.dice.random_range(30_000..300_000);
    let echo = |number: u64, bytes: ByteBuf| (square(number), bytes);
    let items = (0..count).map(|number| (u64::from(number), ByteBuf::from(vec![number; length])));
    let fates = fire.over(|| pool.worker_pids(), || pool.starmap_results(echo, items))?;
    ensure!(fates.len() == usize::from(count), "{} of {count} results", fates.len());
    let mut numbers = Vec::new();
    for (number, fate) in (0..count).zip(fates) {
        let is_whole = fate.as_ref().map_or(true, |(_, bytes)| *bytes == vec![number; length]);
        ensure!(is_whole, "other bytes come back from item {number}");
        numbers.push((number.into(), Some(number.into()), fate.map(|(square, _)| square)));
    }
    check(fire, &ledger, numbers)?;
    use_again(fire, pool)
}

/// Each sends its number into a queue, whose receiver comes to the end when all of them are done.
pub(super) fn descriptors(fire: &mut Fire) -> Result<()> {
    let ledger = Ledger::create()?;
    let pool = pool(&ledger, |pool| pool)?;
    let count = fire.dice.random_range(4..30);
    let (sender, receiver) = queue::bounded(64)?;
    let send = |numbers: Sender<u64>, number: u64| {
        numbers.send(number).map(|()| square(number)).map_err(Error::from)
    };
    let (came, fates) = fire.over(
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
    for (number, _) in (0..).zip(&fates).filter(|(_, fate)| fate.is_ok()) {
        ensure!(unique.contains(&number), "item {number} was sent, and has not come");
    }
    check(fire, &ledger, (0..).zip(fates).map(|(number, fate)| (number, None, fate)))?;
    use_again(fire, pool)
}

/// Closed before they are done.
pub(super) fn recycled(fire: &mut Fire) -> Result<()> {
    let ledger = Ledger::create()?;
    let tasks = fire.dice.random_range(1..8);
    let pool = pool(&ledger, |pool| pool.chunk_size(1).max_tasks_per_worker(tasks))?;
    let count = tasks * 6;
    let fates = fire.over(
        || pool.worker_pids(),
        || {
            let handles: Vec<_> = (0..count).map(|number| pool.submit(square, (number,))).collect();
            pool.close();
            results(handles)
        },
    );
    pool.join();
    check(fire, &ledger, fates)
}

/// Two, each used by a thread of its own.
pub(super) fn several(fire: &mut Fire) -> Result<()> {
    let ledgers = [Ledger::create()?, Ledger::create()?];
    let [one, other] = [pool(&ledgers[0], |pool| pool)?, pool(&ledgers[1], |pool| pool.workers(1))?];
    let count = fire.dice.random_range(20..100);
    let (ones, others) = fire.over(
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
    check(fire, &ledgers[0], ones)?;
    check(fire, &ledgers[1], (0..).zip(others?).map(|(number, fate)| (number, Some(number), fate)))?;
    use_again(fire, one)?;
    use_again(fire, other)
}

/// Dropped or terminated while much waits.
pub(super) fn ending(fire: &mut Fire) -> Result<()> {
    let ledger = Ledger::create()?;
    let pool = pool(&ledger, |pool| pool)?;
    let (drops, nap) = (fire.dice.random_bool(0.5), fire.dice.random_range(0..3000));
    let handles: Vec<_> = (0..300).map(|number| pool.submit(square, (number,))).collect();
    let pids = pool.worker_pids();
    let fates = fire.over(
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
    // What was running is ended by a signal that the pool sends; what was not begun is withdrawn.
    let is_ended = |error: &Error| error.is_cancelled() || matches!(error.signal(), Some(9 | 15));
    let (ended, others): (Vec<_>, _) =
        fates.into_iter().partition(|(_, _, fate)| fate.as_ref().is_err_and(is_ended));
    let runs = ledger.counts()?;
    for (number, _, fate) in ended {
        let ran = runs.get(&number).copied().unwrap_or(0);
        let is_cancelled = fate.is_err_and(|error| error.is_cancelled());
        ensure!(
            ran == 0 || (ran == 1 && !is_cancelled),
            "item {number} has run {ran} times, cancelled: {is_cancelled}"
        );
    }
    check(fire, &ledger, others)
}
