//! Workers that die as soon as they start.

use std::thread;
use std::time::{Duration, Instant};

use multiproc::Pool;
use multiproc::queue::{Receiver, Sender, bounded};
use nix::sys::signal::{Signal, raise};

use super::{SHORT, square};
use crate::support::{Outcome, eventually, trials};

trials![
    workers_that_die_at_birth_beside_one_that_lives_end_in_an_error,
    workers_that_die_as_soon_as_they_are_ready_are_not_replaced_at_once_without_end,
];

/// Dies, unless it is the first worker to take the only token.
fn die_unless_first(places: Receiver<()>, births: Sender<u64>) {
    births.send(std::process::id().into()).unwrap();
    if places.try_recv().is_err() {
        raise(Signal::SIGKILL).unwrap();
    }
}

fn workers_that_die_at_birth_beside_one_that_lives_end_in_an_error() -> Outcome {
    let (place, places) = bounded(1)?;
    let (births, born) = bounded(10_000)?;
    place.send(())?;
    let pool = Pool::builder().workers(2).initializer(die_unless_first, (places, births)).build()?;
    let mut error = None;
    eventually("the pool gives up", || {
        error = pool.map(square, 0..3).err();
        error.is_some()
    });
    let text = error.unwrap().to_string();
    assert!(text.ends_with("was killed by SIGKILL before it was ready for work"), "{text}");
    drop(pool);
    let born = born.into_iter().count();
    assert!((1..=50).contains(&born), "{born} workers were started");
    Ok(())
}

fn workers_that_die_as_soon_as_they_are_ready_are_not_replaced_at_once_without_end() -> Outcome {
    let die_soon = |births: Sender<u64>| {
        births.send(0).unwrap();
        thread::spawn(|| {
            thread::sleep(Duration::from_millis(3));
            raise(Signal::SIGKILL).unwrap();
        });
    };
    let (births, born) = bounded(100_000)?;
    let start = Instant::now();
    let pool = Pool::builder().workers(2).initializer(die_soon, (births,)).build()?;
    thread::sleep(10 * SHORT);
    drop(pool);
    let rounds = start.elapsed().as_millis() / 100;
    let born = born.into_iter().count() as u128;
    // In each round two, and one for each that is seen to be dying before it is dead.
    assert!(born <= 24 + 4 * (rounds + 1), "{born} workers were started");
    Ok(())
}
