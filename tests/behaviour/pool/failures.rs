//! Tasks that fail, and workers that die: one death, one error.

use std::collections::BTreeSet;
use std::sync::{Once, OnceLock};
use std::thread;
use std::time::Duration;

use multiproc::queue::{Sender, bounded};
use multiproc::{Connection, Error, Pool, Result, pipe};
use nix::sys::signal::{Signal, raise};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{blocked_task, square};
use crate::support::{Latch, Outcome, eventually, send_signal, trials};

trials![
    a_panics_place_and_message_arrive_and_the_worker_lives,
    the_first_failing_items_error_is_that_of_map,
    exit_and_abort_in_a_task_are_its_error,
    a_stack_overflow_in_a_task_is_its_error,
    a_killed_worker_fails_exactly_the_task_it_was_running,
    a_worker_killed_while_others_run_harms_none_of_them,
    a_killed_idle_worker_is_replaced_and_no_task_fails,
    workers_killed_at_random_fail_one_task_each,
    a_task_runs_at_most_once,
    a_worker_killed_while_it_decodes_an_argument_fails_that_task,
    a_worker_killed_while_it_encodes_a_large_result_fails_that_task,
    a_task_that_closes_what_is_not_its_own_does_not_hang_its_caller,
    a_task_that_forks_answers_once,
];

fn a_panics_place_and_message_arrive_and_the_worker_lives() -> Outcome {
    let pool = Pool::new(2)?;
    let pids = pool.worker_pids();
    let fall = |shelf: u32| if shelf == 3 { panic!("shelf {shelf} fell") } else { shelf };
    let place = format!("{}:{}:", file!(), line!() - 1);
    let outcomes = pool.map_results(fall, 0..6)?;
    let error = outcomes[3].as_ref().unwrap_err();
    assert!(error.is_panic());
    assert_eq!(error.index(), Some(3));
    assert!(pids.contains(&error.pid().unwrap()));
    let text = error.to_string();
    assert!(text.contains("shelf 3 fell") && text.contains(&place), "{text}");
    assert_eq!(outcomes.iter().flatten().copied().collect::<Vec<_>>(), [0, 1, 2, 4, 5]);
    assert_eq!(pool.worker_pids(), pids);
    Ok(())
}

/// Items 1 and 0 fail, in this order.
fn the_first_failing_items_error_is_that_of_map() -> Outcome {
    let pool = Pool::new(2)?;
    let (latch, theirs) = pipe()?;
    let fail = |(number, latch): (u32, Option<Latch>)| -> () {
        super::zero_waits((number, latch));
        panic!("item {number}");
    };
    let error = pool.map(fail, [(0, Some(theirs)), (1, Some(latch))]).unwrap_err();
    assert_eq!(error.index(), Some(0));
    assert!(error.to_string().contains("item 0"), "{error}");
    Ok(())
}

fn exit_and_abort_in_a_task_are_its_error() -> Outcome {
    let leave = |number: u64| match number {
        1 => std::process::exit(7),
        2 => std::process::abort(),
        4 => std::process::exit(0),
        _ => square(number),
    };
    let ends = |outcome: &Result<u64>| {
        outcome.clone().map_err(|error| (error.exit_code(), error.signal(), error.index()))
    };
    for chunk_size in [1, 6] {
        let pool = Pool::builder().workers(2).chunk_size(chunk_size).build()?;
        let outcomes: Vec<_> = pool.map_results(leave, 0..6)?.iter().map(ends).collect();
        let exit = |code, index| Err((Some(code), None, Some(index)));
        assert_eq!(outcomes, [Ok(0), exit(7, 1), Err((None, Some(6), Some(2))), Ok(9), exit(0, 4), Ok(25)]);
        assert_eq!(pool.apply(leave, (1,)).unwrap_err().exit_code(), Some(7));
        assert_eq!(pool.apply(leave, (3,))?, 9);
    }
    Ok(())
}

fn a_stack_overflow_in_a_task_is_its_error() -> Outcome {
    fn dig(depth: u64) -> u64 {
        if depth == 0 { 0 } else { 1 + dig(std::hint::black_box(depth) - 1) }
    }
    let pool = Pool::new(2)?;
    let outcomes = pool.map_results(dig, [10, u64::MAX, 20])?;
    assert_eq!((outcomes[0].clone()?, outcomes[2].clone()?), (10, 20));
    let error = outcomes[1].as_ref().unwrap_err();
    assert!(error.signal().is_some() && error.index() == Some(1), "{error}");
    Ok(())
}

fn die_at_42(number: u64) -> u64 {
    if number == 42 {
        raise(Signal::SIGKILL).unwrap();
    }
    square(number)
}

fn a_killed_worker_fails_exactly_the_task_it_was_running() -> Outcome {
    for chunk_size in [1, 10, 100] {
        let pool = Pool::builder().workers(3).chunk_size(chunk_size).build()?;
        let before = pool.worker_pids();
        for (number, outcome) in (0..).zip(pool.map_results(die_at_42, 0..100)?) {
            match outcome {
                Ok(value) => assert_eq!((value, number != 42), (square(number), true)),
                Err(error) => was_killed_at_42(&error, number),
            }
        }
        eventually("the worker is replaced", || pool.worker_pids().len() == 3);
        let after = pool.worker_pids();
        assert_eq!(after.iter().filter(|pid| before.contains(pid)).count(), 2);
        was_killed_at_42(&pool.map(die_at_42, 0..100).unwrap_err(), 42);
        assert!(pool.map(square, 0..100)?.into_iter().eq((0..100).map(square)));
    }
    Ok(())
}

fn was_killed_at_42(error: &Error, number: u64) {
    let pid = error.pid().unwrap();
    assert_eq!((number, error.index(), error.signal()), (42, Some(42), Some(9)), "{error}");
    assert_eq!(error.to_string(), format!("worker {pid} was killed by SIGKILL while running task 42"));
}

/// A task that sends its process id, then waits.
fn tell_and_wait(teller: Connection<u32, ()>) {
    teller.send(std::process::id()).unwrap();
    let _ = teller.recv();
}

fn a_worker_killed_while_others_run_harms_none_of_them() -> Outcome {
    let pool = Pool::new(3)?;
    let (first, latch) = blocked_task(&pool)?;
    let (ours, theirs) = pipe()?;
    let victim = pool.submit(tell_and_wait, (theirs,))?;
    let pid = ours.recv()?;
    let waiting: Vec<_> = (0..50).map(|number| pool.submit(square, (number,))).collect::<Result<_>>()?;
    assert!(pool.worker_pids().contains(&pid));
    send_signal(pid, Signal::SIGKILL);
    let error = victim.get().unwrap_err();
    assert_eq!((error.signal(), error.pid(), error.index()), (Some(9), Some(pid), None));
    assert_eq!(error.to_string(), format!("worker {pid} was killed by SIGKILL while running its task"));
    for (number, task) in (0..).zip(waiting) {
        assert_eq!(task.get()?, square(number));
    }
    drop(latch);
    Ok(first.get()?)
}

fn a_killed_idle_worker_is_replaced_and_no_task_fails() -> Outcome {
    let pool = Pool::new(2)?;
    for _ in 0..10 {
        // Idle workers live until the pool ends, so the id cannot have been reused.
        let victim = pool.worker_pids()[0];
        send_signal(victim, Signal::SIGKILL);
        assert!(pool.map(square, 0..100)?.into_iter().eq((0..100).map(square)));
        eventually("the worker is replaced", || {
            let pids = pool.worker_pids();
            pids.len() == 2 && !pids.contains(&victim)
        });
    }
    Ok(())
}

/// Each worker dies some milliseconds after its first task began.
fn workers_killed_at_random_fail_one_task_each() -> Outcome {
    // Not in an initializer: on a busy machine, one worker after the other would die without a task.
    static DIE_SOON: Once = Once::new();
    let work = |number| {
        DIE_SOON.call_once(|| {
            let time = Duration::from_millis(5 + u64::from(std::process::id() % 10));
            thread::spawn(move || {
                thread::sleep(time);
                raise(Signal::SIGKILL).unwrap();
            });
        });
        thread::sleep(Duration::from_micros(300));
        square(number)
    };
    let pool = Pool::new(3)?;
    let outcomes = pool.map_results(work, 0..500)?;
    assert_eq!(outcomes.len(), 500);
    let mut dead = BTreeSet::new();
    for (number, outcome) in (0..).zip(outcomes) {
        match outcome {
            Ok(value) => assert_eq!(value, square(number)),
            Err(error) => {
                assert_eq!((error.signal(), error.index()), (Some(9), Some(number)), "{error}");
                assert!(dead.insert(error.pid()), "a death was two tasks' error: {error}");
            }
        }
    }
    Ok(())
}

static LOG: OnceLock<Sender<u32>> = OnceLock::new();

fn open_log(log: Sender<u32>) {
    LOG.set(log).unwrap();
}

/// Every seventh task kills its worker, once it has made its entry.
fn append_to_log(number: u32) -> u32 {
    LOG.get().unwrap().send(number).unwrap();
    if number % 7 == 3 {
        raise(Signal::SIGKILL).unwrap();
    }
    number
}

fn a_task_runs_at_most_once() -> Outcome {
    for chunk_size in [1, 5, 200] {
        let (log, entries) = bounded(100)?;
        let reader = thread::spawn(move || entries.into_iter().collect::<Result<Vec<u32>>>());
        let builder = Pool::builder().workers(3).chunk_size(chunk_size);
        let pool = builder.initializer(open_log, (log,)).build()?;
        let outcomes = pool.map_results(append_to_log, 0..200)?;
        drop(pool);
        let mut entries = reader.join().unwrap()?;
        entries.sort_unstable();
        assert!(entries.into_iter().eq(0..200), "each task has run once, also those that died of it");
        for (number, outcome) in (0..).zip(outcomes) {
            assert_eq!(
                outcome.map_err(|error| error.signal()),
                if number % 7 == 3 { Err(Some(9)) } else { Ok(number) }
            );
        }
    }
    Ok(())
}

/// A value whose decoding kills the process.
struct DeadlyToDecode;

impl Serialize for DeadlyToDecode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_unit()
    }
}

impl<'de> Deserialize<'de> for DeadlyToDecode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Not where it is sent: there, made-up values of its type are decoded.
        if multiproc::parent().is_some() {
            raise(Signal::SIGKILL).unwrap();
        }
        <()>::deserialize(deserializer).map(|()| Self)
    }
}

fn a_worker_killed_while_it_decodes_an_argument_fails_that_task() -> Outcome {
    let pool = Pool::builder().workers(2).chunk_size(5).build()?;
    let items = (0..20).map(|number| (number, (number == 7).then_some(DeadlyToDecode)));
    for (number, outcome) in (0..).zip(pool.map_results(|item: (u32, Option<DeadlyToDecode>)| item.0, items)?)
    {
        match outcome {
            Ok(value) => assert_eq!((value, number != 7), (number, true)),
            Err(error) => {
                assert_eq!((error.signal(), error.index(), number), (Some(9), Some(7), 7), "{error}");
            }
        }
    }
    Ok(())
}

/// A value whose encoding kills the process, if the flag is set.
#[derive(Deserialize)]
struct Large {
    bytes: Vec<u8>,
    deadly: u8,
}

impl Serialize for Large {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.deadly == 4 {
            raise(Signal::SIGKILL).unwrap();
        }
        (&self.bytes, self.deadly).serialize(serializer)
    }
}

fn a_worker_killed_while_it_encodes_a_large_result_fails_that_task() -> Outcome {
    let pool = Pool::new(2)?;
    let make = |number: u8| Large { bytes: vec![number; 100_000], deadly: number % 5 };
    for (number, outcome) in (0..).zip(pool.map_results(make, 0..20)?) {
        match outcome {
            Ok(value) => assert!(value.bytes == vec![number; 100_000] && number % 5 != 4),
            Err(error) => {
                assert_eq!(
                    (error.signal(), error.index(), number % 5),
                    (Some(9), Some(number.into()), 4),
                    "{error}"
                );
            }
        }
    }
    Ok(())
}

fn a_task_that_closes_what_is_not_its_own_does_not_hang_its_caller() -> Outcome {
    let pool = Pool::new(2)?;
    let close_all = || {
        for descriptor in 3..20 {
            let _ = nix::unistd::close(descriptor);
        }
    };
    let _ = pool.apply(close_all, ()); // may succeed or fail
    assert_eq!(pool.map(square, 0..3)?, [0, 1, 4]);
    Ok(())
}

fn a_task_that_forks_answers_once() -> Outcome {
    let fork = |number: u32| (number, tests::fork_and_wait());
    for chunk_size in [1, 5] {
        let pool = Pool::builder().workers(2).chunk_size(chunk_size).build()?;
        let pids = pool.worker_pids();
        assert!(pool.map(fork, 0..10)?.into_iter().eq((0..10).map(|number| (number, true))));
        assert_eq!(pool.worker_pids(), pids);
    }
    Ok(())
}
