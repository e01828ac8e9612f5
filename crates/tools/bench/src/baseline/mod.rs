//! The hand-written baseline: forked processes and shared memory, without any safety. No death is reported,
//! nothing is typed, and a process killed at the wrong moment deadlocks the others.
//!
//! This may use `unsafe` freely.

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
use bench::measure::{Scale, back_to_back, from_sleep, rate, repeated};
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
        entry(BASELINE, &case::START_1GIB, |scale| {
            let ballast = ballast(1024 * MIB);
            let measured = repeated(scale, 30, || fork(|| ())?.join());
            drop(ballast);
            measured
        }),
        entry(BASELINE, &case::START_X4, |scale| {
            repeated(scale, 300, || {
                let children: Result<Vec<Child>> = (0..4).map(|_| fork(|| ())).collect();
                children?.into_iter().try_for_each(Child::join)
            })
        }),
        entry(BASELINE, &case::MAP, |scale| map(scale, 1_000_000, 4096)),
        entry(BASELINE, &case::MAP_10M, |scale| map(scale, 10_000_000, 4096)),
        entry(BASELINE, &case::MAP_CHUNK1, |scale| map(scale, 100_000, 1)),
        entry(BASELINE, &case::APPLY_HOT, |scale| turns_hot(scale, Waiting::Spin)),
        entry("bare futex", &case::APPLY_HOT, |scale| turns_hot(scale, Waiting::Futex)),
        entry(BASELINE, &case::APPLY_SLEEP, turns_from_sleep),
        entry(BASELINE, &case::QUEUE_8B, |scale| ring::words(scale, 1)),
        entry(BASELINE, &case::QUEUE_8B_BATCH, |scale| ring::words(scale, bench::stream::BATCH)),
        entry(BASELINE, &case::QUEUE_64B, |scale| Ok(ring::bytes(scale, 64)?.millions())),
        entry(BASELINE, &case::QUEUE_1KIB, |scale| Ok(ring::bytes(scale, 1024)?.millions())),
        entry(BASELINE, &case::QUEUE_1MIB, |scale| Ok(ring::bytes(scale, MIB)?.gigabytes(MIB))),
        entry("memcpy, one process", &case::QUEUE_1MIB, memcpy),
        entry(BASELINE, &case::PING_HOT, |scale| turns_hot(scale, Waiting::Spin)),
        entry("bare futex", &case::PING_HOT, |scale| turns_hot(scale, Waiting::Futex)),
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

fn start(scale: Scale) -> Result<Measured> {
    repeated(scale, 500, || fork(|| ())?.join())
}

fn map(scale: Scale, items: usize, chunk: usize) -> Result<Measured> {
    let pool = Pool::start(2, items)?;
    let map = || {
        pool.map(items, chunk);
        Ok(())
    };
    rate(scale, real(items), map, |()| work::check_cubes(items as u64, pool.results(items)))
}

fn turns_hot(scale: Scale, waiting: Waiting) -> Result<Measured> {
    let ping_pong = PingPong::start(waiting)?;
    back_to_back(scale, || ping_pong.take())
}

/// Both sides sleep in a futex, without spinning before.
fn turns_from_sleep(scale: Scale) -> Result<Measured> {
    let ping_pong = PingPong::start(Waiting::Futex)?;
    from_sleep(scale, || ping_pong.take())
}

/// The bandwidth of copying 1 MiB that stays in the cache.
fn memcpy(scale: Scale) -> Result<Measured> {
    let from = work::bytes(MIB);
    let mut to = vec![0; MIB];
    let measured = back_to_back(scale, || {
        black_box(&mut to).copy_from_slice(black_box(&from));
        Ok(())
    })?;
    ensure!(from == to, Wrong("a copy differs from what was copied".to_owned()));
    Ok(Measured { value: real(MIB) / measured.value / 1e3, ..measured })
}

/// Two processes that have the bytes already and do nothing but add them up.
fn sums(scale: Scale) -> Result<Measured> {
    let block = work::bytes(BLOCK);
    let expected = work::sum(&block);
    let half = SUMS / 2;
    let total = || (0..half).map(|_| work::sum(black_box(&block))).sum::<u64>();
    let add = || assert_eq!(total(), expected * half as u64);
    let both = || [fork(add)?, fork(add)?].into_iter().try_for_each(Child::join);
    rate(scale, SUMS_AMOUNT, both, Ok)
}
