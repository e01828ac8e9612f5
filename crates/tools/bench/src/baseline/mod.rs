//! What can be had by hand: forked processes and shared memory, with no thought of safety. Nobody is told of
//! a death, nothing is typed, and what is killed at the wrong moment leaves everybody waiting.
//!
//! This may use `unsafe` freely. A benchmark is no place to learn how to do it well.

#![allow(unsafe_code, clippy::multiple_unsafe_ops_per_block)]
#![allow(clippy::cast_ptr_alignment)] // mappings are aligned to pages

mod counter;
mod memory;
mod ping_pong;
mod ring;
mod robust_mutex;

use std::hint::black_box;
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use bench::measure::{Effort, back_to_back, from_sleep, rate, repeated};
use bench::program::{Entry, Measured, Wrong, entry};
use bench::work::{self, BLOCK, MIB, SUMS, SUMS_AMOUNT, ballast, real};
use bench::{case, proc};

use self::counter::Pool;
use self::memory::{Child, fork};
use self::ping_pong::{PingPong, Waiting};

const BASELINE: &str = "baseline";

pub(crate) fn entries() -> Vec<Entry> {
    vec![
        entry(BASELINE, &case::START, start),
        entry(BASELINE, &case::START_1GIB, |effort| {
            let ballast = ballast(1024 * MIB);
            let measured = repeated(effort, 30, || fork(|| ())?.join());
            drop(ballast);
            measured
        }),
        entry(BASELINE, &case::START_X4, |effort| {
            repeated(effort, 300, || {
                let children: Result<Vec<Child>> = (0..4).map(|_| fork(|| ())).collect();
                children?.into_iter().try_for_each(Child::join)
            })
        }),
        entry(BASELINE, &case::MAP, |effort| map(effort, 1_000_000, 4096)),
        entry(BASELINE, &case::MAP_10M, |effort| map(effort, 10_000_000, 4096)),
        entry(BASELINE, &case::MAP_CHUNK1, |effort| map(effort, 100_000, 1)),
        entry(BASELINE, &case::APPLY_HOT, |effort| turns_hot(effort, Waiting::Spin)),
        entry("bare futex", &case::APPLY_HOT, |effort| turns_hot(effort, Waiting::Futex)),
        entry(BASELINE, &case::APPLY_SLEEP, turns_from_sleep),
        entry(BASELINE, &case::QUEUE_8B, |effort| ring::words(effort, 1)),
        entry(BASELINE, &case::QUEUE_8B_BATCH, |effort| ring::words(effort, bench::stream::BATCH)),
        entry(BASELINE, &case::QUEUE_64B, |effort| Ok(ring::bytes(effort, 64)?.millions())),
        entry(BASELINE, &case::QUEUE_1KIB, |effort| Ok(ring::bytes(effort, 1024)?.millions())),
        entry(BASELINE, &case::QUEUE_1MIB, |effort| Ok(ring::bytes(effort, MIB)?.gigabytes(MIB))),
        entry("memcpy, one process", &case::QUEUE_1MIB, memcpy),
        entry(BASELINE, &case::PING_HOT, |effort| turns_hot(effort, Waiting::Spin)),
        entry("bare futex", &case::PING_HOT, |effort| turns_hot(effort, Waiting::Futex)),
        entry(BASELINE, &case::PING_SLEEP, turns_from_sleep),
        entry("baseline (sum alone)", &case::SUM, sums),
        entry("baseline (sum alone)", &case::SUM_SHARED, sums),
        entry("robust pthread mutex", &case::LOCK, robust_mutex::lock),
        entry("robust pthread mutex", &case::LOCK_X2, robust_mutex::lock_by_two),
        entry(BASELINE, &case::PSS, |_| {
            let child = fork(|| thread::sleep(Duration::from_secs(60)))?;
            thread::sleep(Duration::from_millis(100));
            let measured = Measured::new(proc::proportional(child.pid())?);
            child.kill();
            Ok(measured)
        }),
    ]
}

fn start(effort: Effort) -> Result<Measured> {
    repeated(effort, 500, || fork(|| ())?.join())
}

fn map(effort: Effort, items: usize, chunk: usize) -> Result<Measured> {
    let pool = Pool::start(2, items)?;
    let map = || {
        pool.map(items, chunk);
        Ok(())
    };
    rate(effort, real(items), map, |()| work::check_cubes(items as u64, pool.results(items)))
}

fn turns_hot(effort: Effort, waiting: Waiting) -> Result<Measured> {
    let ping_pong = PingPong::start(waiting)?;
    back_to_back(effort, || ping_pong.take())
}

/// Both sides sleep in a futex, whatever comes before.
fn turns_from_sleep(effort: Effort) -> Result<Measured> {
    let ping_pong = PingPong::start(Waiting::Futex)?;
    from_sleep(effort, || ping_pong.take())
}

/// What memory itself does with 1 MiB that stays in the cache.
fn memcpy(effort: Effort) -> Result<Measured> {
    let from = work::bytes(MIB);
    let mut to = vec![0; MIB];
    let measured = back_to_back(effort, || {
        black_box(&mut to).copy_from_slice(black_box(&from));
        Ok(())
    })?;
    ensure!(from == to, Wrong("a copy differs from what was copied".to_owned()));
    Ok(Measured { value: real(MIB) / measured.value / 1e3, ..measured })
}

/// Two processes that have the bytes already and do nothing but add them up.
fn sums(effort: Effort) -> Result<Measured> {
    let block = work::bytes(BLOCK);
    let expected = work::sum(&block);
    let half = SUMS / 2;
    let total = || (0..half).map(|_| work::sum(black_box(&block))).sum::<u64>();
    let add = || assert_eq!(total(), expected * half as u64);
    let both = || [fork(add)?, fork(add)?].into_iter().try_for_each(Child::join);
    rate(effort, SUMS_AMOUNT, both, Ok)
}
