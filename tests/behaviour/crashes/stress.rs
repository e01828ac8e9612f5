//! Crashes of each kind at random, in several processes and several threads at once, some while the handler of
//! another runs: nothing hangs, and nothing is lost.
//!
//! `CRASHES=200 cargo test -p tests -- crashes::stress` has so many of each kind.

use std::env;
use std::process::abort;
use std::thread;
use std::time::Duration;

use fastrand::Rng;
use multiproc::{Error, Pool, Process, Result};
use serde::{Deserialize, Serialize};
use tests::crashes::{first_level, ignore, overflow_the_stack};

use crate::support::{Outcome, TEST_TIMEOUT, trials};

trials![crashes_of_processes_lose_nothing, crashes_of_workers_lose_nothing, crashes_of_threads_lose_nothing];

/// How many of each kind.
fn crashes() -> Outcome<usize> {
    Ok(env::var("CRASHES").map_or(Ok(20), |crashes| crashes.parse())?)
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
enum Kind {
    Segfault,
    Abort,
    Overflow,
    Panic,
}

const KINDS: [Kind; 4] = [Kind::Segfault, Kind::Abort, Kind::Overflow, Kind::Panic];

/// A crash of this kind, with a number below the size of a page, after some microseconds.
type Crash = (Kind, usize, u64);

impl Kind {
    fn random(self, number: usize, rng: &mut Rng) -> Crash {
        (self, number % 4096, rng.u64(..300))
    }

    fn signal(self) -> Option<i32> {
        match self {
            Self::Segfault => Some(11),
            Self::Abort | Self::Overflow => Some(6),
            Self::Panic => None,
        }
    }
}

#[inline(never)]
fn abort_here() {
    abort()
}

fn crash((kind, number, delay): Crash) {
    thread::sleep(Duration::from_micros(delay));
    match kind {
        Kind::Segfault => ignore(first_level(number)),
        Kind::Abort => abort_here(),
        Kind::Overflow => ignore(overflow_the_stack(0)),
        Kind::Panic => panic!("number {number}"),
    }
}

/// The error has the crash's signal or message, and its own report.
fn assert_is_of(error: &Error, (kind, number, _): Crash) {
    assert_eq!(error.signal(), kind.signal(), "{kind:?}: {error}");
    match kind {
        Kind::Panic => {
            assert!(error.is_panic() && error.to_string().ends_with(&format!("number {number}")), "{error}");
        }
        Kind::Segfault => assert_eq!(report(error), (11, Some(number as u64)), "{error}"),
        Kind::Abort => assert_eq!(report(error), (6, None), "{error}"),
        Kind::Overflow => assert_eq!(report(error).0, 11, "{error}"),
    }
}

/// The signal and the address in a crash's report. To read them in the error's encoding takes a thousandth of
/// the time that its backtrace takes.
fn report(error: &Error) -> (u64, Option<u64>) {
    const CRASH: usize = 6; // among the fields of an error
    let error = serde_json::to_value(error).unwrap();
    let [signal, address] = [0, 1].map(|field| error[CRASH][field].as_u64());
    (signal.unwrap_or_else(|| panic!("no report")), address)
}

fn join(mut child: Process<()>) -> Error {
    match child.join_timeout(TEST_TIMEOUT) {
        Err(error) => error,
        Ok(result) => panic!("{:?} does not crash: {result:?}", child.pid()),
    }
}

fn crashes_of_processes_lose_nothing() -> Outcome {
    let per_thread = crashes()?.div_ceil(4);
    let crash_some = |seed: usize| -> Result<()> {
        let mut rng = Rng::with_seed(seed as u64);
        for round in 0..per_thread {
            let mut kinds = KINDS;
            rng.shuffle(&mut kinds);
            let crashes = kinds.map(|kind| kind.random(round * 4 + seed, &mut rng));
            let children = crashes.map(|each| (each, Process::spawn(crash, (each,))));
            for (each, child) in children {
                assert_is_of(&join(child?), each);
            }
        }
        Ok(())
    };
    thread::scope(|scope| {
        let threads = [0, 1, 2, 3].map(|seed| scope.spawn(move || crash_some(seed)));
        threads.into_iter().try_for_each(|thread| thread.join().unwrap())
    })?;
    Ok(())
}

fn crashes_of_workers_lose_nothing() -> Outcome {
    let mut rng = Rng::with_seed(5);
    let mut items: Vec<_> = (0..crashes()?)
        .flat_map(|round| KINDS.map(|kind| Some(kind.random(round, &mut rng))).into_iter().chain([None; 8]))
        .collect();
    rng.shuffle(&mut items);
    let run = |item: Option<Crash>| item.map(crash).is_none();
    let pool = Pool::new(4)?;
    for (index, result) in pool.map_results(run, items.iter().copied())?.into_iter().enumerate() {
        match (items[index], result) {
            (None, result) => assert!(result?),
            (Some(each), result) => {
                let error = result.unwrap_err();
                assert_eq!(error.index(), Some(index as u64));
                assert_is_of(&error, each);
            }
        }
    }
    Ok(())
}

/// The first to crash is reported, and the others let it finish.
fn crashes_of_threads_lose_nothing() -> Outcome {
    let crash_together = |crashes: Vec<Crash>| {
        let threads: Vec<_> = crashes.into_iter().map(|each| thread::spawn(move || crash(each))).collect();
        for thread in threads {
            thread.join().unwrap();
        }
    };
    let mut rng = Rng::with_seed(6);
    for round in 0..crashes()? {
        let crashes: Vec<_> =
            (0..rng.usize(2..=4)).map(|_| KINDS[rng.usize(..3)].random(round, &mut rng)).collect();
        let error = join(Process::spawn(crash_together, (crashes.clone(),))?);
        assert!(crashes.iter().any(|(kind, ..)| kind.signal() == error.signal()), "{crashes:?}: {error}");
        let reported = report(&error);
        let is_of = |&(kind, number, _): &Crash| match kind {
            Kind::Segfault => reported == (11, Some(number as u64)),
            Kind::Overflow => reported.0 == 11,
            _ => reported == (6, None),
        };
        assert!(crashes.iter().any(is_of), "{crashes:?}: {reported:?}");
    }
    Ok(())
}
