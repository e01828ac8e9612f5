//! Time limits of items.
//!
//! On a busy machine an item with a short limit may miss it. So these tests accept that of any item; but
//! never two errors of one death.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::{Duration, Instant};

use multiproc::pool::TaskHandle;
use multiproc::{Pool, Result};
use nix::sys::signal::{Signal, raise};

use super::{HOUR, SHORT, blocked_task, square};
use crate::support::{Outcome, eventually, trials};

trials![
    an_item_that_takes_too_long_fails_alone,
    the_time_of_an_item_counts_from_its_beginning,
    a_timeout_needs_no_waiting_caller,
    a_stopped_worker_is_timed_out,
    an_item_without_a_timeout_runs_on_among_those_that_have_one,
    items_that_end_as_their_time_does_come_to_one_result_each,
    a_kill_never_hits_the_next_item,
    a_long_timeout_changes_nothing_and_none_at_all_is_refused,
    renewed_workers_with_deaths_and_timeouts_lose_nothing,
];

/// Each error is of its own item and of its own death.
fn each_is_a_death_of_its_own<R>(outcomes: &[Result<R>]) {
    let mut dead = BTreeSet::new();
    for (index, error) in
        (0..).zip(outcomes).filter_map(|(index, outcome)| Some((index, outcome.as_ref().err()?)))
    {
        assert_eq!(error.index(), Some(index), "{error}");
        assert!(dead.insert(error.pid().unwrap()), "two errors of one death: {error}");
    }
}

fn sleep_at_13(number: u64) -> u64 {
    if number == 13 {
        thread::sleep(HOUR);
    }
    square(number)
}

fn an_item_that_takes_too_long_fails_alone() -> Outcome {
    for chunk_size in [1, 100] {
        let pool = Pool::builder().workers(2).chunk_size(chunk_size).build()?;
        let outcomes = pool.options().timeout(SHORT).map_results(sleep_at_13, 0..100)?;
        assert_eq!(outcomes.len(), 100);
        each_is_a_death_of_its_own(&outcomes);
        for (number, outcome) in (0..).zip(&outcomes) {
            match outcome {
                Ok(value) => assert_eq!((*value, number != 13), (square(number), true)),
                Err(error) => assert!(error.is_timeout(), "{error}"),
            }
        }
        let error = outcomes[13].as_ref().unwrap_err();
        let pid = error.pid().unwrap();
        assert_eq!(
            error.to_string(),
            format!("worker {pid} was killed while running task 13, which took longer than 100ms")
        );
        eventually("the worker is replaced", || {
            let pids = pool.worker_pids();
            pids.len() == 2 && !pids.contains(&pid)
        });
        assert!(pool.map(square, 0..100)?.into_iter().eq((0..100).map(square)));
    }
    Ok(())
}

fn the_time_of_an_item_counts_from_its_beginning() -> Outcome {
    let pool = Pool::new(1)?;
    let (before, latch) = blocked_task(&pool)?;
    let late = pool.options().timeout(SHORT).submit(thread::sleep, (HOUR,))?;
    thread::sleep(3 * SHORT);
    assert!(!late.is_ready(), "it has not begun");
    let not_begun = Instant::now();
    drop(latch);
    assert!(late.get().unwrap_err().is_timeout());
    assert!(not_begun.elapsed() >= SHORT);
    Ok(before.get()?)
}

fn a_timeout_needs_no_waiting_caller() -> Outcome {
    let pool = Pool::new(1)?;
    let task = pool.options().timeout(SHORT).submit(thread::sleep, (HOUR,))?;
    let pids = pool.worker_pids();
    eventually("the worker is replaced", || {
        let now = pool.worker_pids();
        now.len() == 1 && now != pids
    });
    assert!(task.get().unwrap_err().is_timeout());
    Ok(())
}

fn a_stopped_worker_is_timed_out() -> Outcome {
    let pool = Pool::new(2)?;
    let stop = || raise(Signal::SIGSTOP).unwrap();
    let error = pool.options().timeout(SHORT).apply(stop, ()).unwrap_err();
    assert!(error.is_timeout(), "{error}");
    let text = format!("worker {} was killed while running its task, which took", error.pid().unwrap());
    assert!(error.to_string().starts_with(&text), "{error}");
    Ok(())
}

fn an_item_without_a_timeout_runs_on_among_those_that_have_one() -> Outcome {
    let pool = Pool::new(2)?;
    let (task, latch) = blocked_task(&pool)?;
    for _ in 0..3 {
        let timed = pool.options().timeout(SHORT);
        assert!(timed.apply(thread::sleep, (HOUR,)).unwrap_err().is_timeout());
    }
    // Some of these wait in the ring of the blocked worker.
    let timed: Vec<_> = (0..20)
        .map(|number| pool.options().timeout(HOUR).submit(square, (number,)))
        .collect::<Result<_>>()?;
    drop(latch);
    task.get()?;
    for (number, task) in (0..).zip(timed) {
        assert_eq!(task.get()?, square(number));
    }
    Ok(())
}

/// Some end before their time is checked, some between the check and the kill, and some never.
fn items_that_end_as_their_time_does_come_to_one_result_each() -> Outcome {
    let work = |number: u64| {
        thread::sleep(Duration::from_micros(1_000 + number * 7_919 % 2_000));
        square(number)
    };
    for chunk_size in [1, 20] {
        let pool = Pool::builder().workers(3).chunk_size(chunk_size).build()?;
        let outcomes = pool.options().timeout(Duration::from_millis(2)).map_results(work, 0..200)?;
        assert_eq!(outcomes.len(), 200);
        each_is_a_death_of_its_own(&outcomes);
        for (number, outcome) in (0..).zip(outcomes) {
            match outcome {
                Ok(value) => assert_eq!(value, square(number)),
                Err(error) => assert!(error.is_timeout(), "{error}"),
            }
        }
    }
    Ok(())
}

/// Behind each item whose time limit ends as it does there is one without a time limit.
fn a_kill_never_hits_the_next_item() -> Outcome {
    let nap = |micros: u64| thread::sleep(Duration::from_micros(micros));
    let pool = Pool::new(1)?;
    let timed = pool.options().timeout(Duration::from_millis(1));
    for round in 0..10 {
        let tasks: Vec<_> = (0..20)
            .map(|number| {
                Ok((timed.submit(nap, (900 + 10 * number + round,))?, pool.submit(square, (number,))?))
            })
            .collect::<Result<_>>()?;
        for (number, (timed, free)) in (0..).zip(tasks) {
            let error = timed.get().err();
            assert!(error.as_ref().is_none_or(multiproc::Error::is_timeout), "{error:?}");
            assert_eq!(free.get()?, square(number));
        }
    }
    Ok(())
}

fn a_long_timeout_changes_nothing_and_none_at_all_is_refused() -> Outcome {
    let pool = Pool::new(2)?;
    for timeout in [HOUR, Duration::MAX] {
        let call = pool.options().timeout(timeout);
        let squares: Vec<u64> = (0..1000).map(square).collect();
        assert_eq!(call.map(square, 0..1000)?, squares);
        assert_eq!(call.imap(square, 0..1000).collect::<Result<Vec<_>>>()?, squares);
        let large = call.map(|bytes: Vec<u8>| bytes, (0..5).map(|byte| vec![byte; 100_000]))?;
        assert!(large.into_iter().eq((0..5).map(|byte| vec![byte; 100_000])));
        let outcomes =
            call.map_results(|number: u64| if number == 3 { panic!("three") } else { number }, 0..5)?;
        assert!(outcomes[3].as_ref().is_err_and(multiproc::Error::is_panic));
        assert_eq!(outcomes.into_iter().flatten().collect::<Vec<_>>(), [0, 1, 2, 4]);
    }
    let call = pool.options().timeout(Duration::ZERO);
    let errors = [
        call.submit(square, (1,)).unwrap_err(),
        call.map(square, [1]).unwrap_err(),
        call.imap(square, [1]).next().unwrap().unwrap_err(),
    ];
    for error in errors {
        assert!(error.to_string().contains("`timeout` must be greater than zero"), "{error}");
    }
    Ok(())
}

fn renewed_workers_with_deaths_and_timeouts_lose_nothing() -> Outcome {
    let work = |number: u64| {
        match number % 10 {
            3 => thread::sleep(HOUR),
            7 => raise(Signal::SIGKILL).unwrap(),
            _ => {}
        }
        (square(number), std::process::id())
    };
    for chunk_size in [1, 8] {
        let pool = Pool::builder().workers(2).max_tasks_per_worker(3).chunk_size(chunk_size).build()?;
        let outcomes = pool.options().timeout(SHORT).retries(1).map_results(work, 0..40)?;
        assert_eq!(outcomes.len(), 40);
        each_is_a_death_of_its_own(&outcomes);
        let mut served = BTreeMap::new();
        for (number, outcome) in (0..).zip(outcomes) {
            let pid = match outcome {
                Ok((value, pid)) => {
                    assert_eq!((value, [3, 7].contains(&(number % 10))), (square(number), false));
                    pid
                }
                Err(error) => {
                    assert!(error.is_timeout() || (number % 10 == 7 && error.signal() == Some(9)), "{error}");
                    error.pid().unwrap()
                }
            };
            *served.entry(pid).or_insert(0) += 1;
        }
        assert!(served.values().all(|&tasks| tasks <= 3), "{served:?}");
        let tasks: Vec<TaskHandle<u64>> =
            (0..10).map(|number| pool.submit(square, (number,))).collect::<Result<_>>()?;
        pool.join();
        for (number, task) in (0..).zip(tasks) {
            assert_eq!(task.get()?, square(number));
        }
    }
    Ok(())
}
