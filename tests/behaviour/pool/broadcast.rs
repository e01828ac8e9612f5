//! **Broadcast**: a function that every worker runs, and every later one before its first task.

use std::process::id;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::thread;
use std::time::Duration;

use multiproc::pool::State;
use multiproc::{Pool, SharedSlice, TaskError, current, pipe};
use nix::sys::signal::Signal;

use super::{HOUR, SHORT, blocked_task};
use crate::support::{Outcome, block, eventually, send_signal, trials};

trials![
    every_worker_runs_it_once_and_the_results_are_in_the_order_of_the_workers,
    workers_that_are_not_ready_run_it_too,
    replacements_run_it_before_their_first_task,
    workers_of_a_resized_pool_run_it,
    it_is_no_task_of_a_worker_with_a_limit_of_tasks,
    a_pool_without_workers_has_later_ones_run_it,
    broadcasts_run_in_order,
    a_busy_worker_runs_it_before_what_waits,
    a_worker_that_leaves_runs_it,
    a_worker_killed_before_it_has_begun_is_an_error_and_its_replacement_runs_it,
    a_death_and_a_panic_are_errors_of_one_worker,
    a_panic_in_a_later_worker_is_the_error_of_every_call,
    an_error_that_it_returns_is_a_result,
    descriptors_and_large_arguments_travel,
    more_descriptors_than_a_new_worker_can_get_are_refused,
    a_pool_that_ends_ends_it,
    a_closed_pool_and_bad_arguments_are_errors,
    tasks_see_it_whichever_workers_are_killed,
    inline_the_caller_runs_it,
];

/// Of each worker.
static TOTAL: AtomicU64 = AtomicU64::new(0);

/// Returns the process, its index, and the total before.
fn add(number: u64) -> (u32, Option<usize>, u64) {
    (id(), current().worker_index(), TOTAL.fetch_add(number, Relaxed))
}

fn total() -> u64 {
    TOTAL.load(Relaxed)
}

/// The total in the worker that runs each of many tasks.
fn totals(pool: &Pool) -> multiproc::Result<Vec<u64>> {
    pool.map(|_: u32| total(), 0..200)
}

fn every_worker_runs_it_once_and_the_results_are_in_the_order_of_the_workers() -> Outcome {
    let pool = Pool::new(3)?;
    for before in [0, 10, 20] {
        let results = pool.broadcast(add, (10,))?.into_iter().collect::<Result<Vec<_>, _>>()?;
        let mut pids: Vec<u32> = results.iter().map(|result| result.0).collect();
        assert!(results.iter().all(|result| result.2 == before), "{results:?}");
        assert!(results.iter().enumerate().all(|(at, result)| result.1 == Some(at)), "{results:?}");
        pids.sort_unstable();
        let mut workers = pool.worker_pids();
        workers.sort_unstable();
        assert_eq!(pids, workers);
    }
    assert_eq!(totals(&pool)?, [30; 200]);
    Ok(())
}

fn workers_that_are_not_ready_run_it_too() -> Outcome {
    let (latch, theirs) = pipe()?;
    let pool = Pool::builder().workers(1).initializer(block, (theirs,)).build()?;
    thread::scope(|scope| {
        let results = scope.spawn(|| pool.broadcast(add, (10,)));
        latch.recv()?; // it is in its initializer
        drop(latch);
        let results = results.join().unwrap()?;
        assert_eq!(results.len(), 1);
        assert_eq!(results[0].as_ref().unwrap().2, 0);
        assert_eq!(pool.apply(total, ())?, 10);
        Ok(())
    })
}

fn replacements_run_it_before_their_first_task() -> Outcome {
    let pool: Pool<State<u64>> = Pool::builder().workers(2).state(|start: u64| start, (1,)).build()?;
    let results = pool.broadcast(|state: &mut u64, by: u64| std::mem::replace(state, *state * by), (10,))?;
    assert!(results.iter().all(|before| before.as_ref().is_ok_and(|&before| before == 1)), "{results:?}");
    for _ in 0..3 {
        pool.worker_pids().into_iter().for_each(|pid| send_signal(pid, Signal::SIGKILL));
        let states = pool.options().retries(20).map(|state: &mut u64, _: u32| *state, 0..100)?;
        assert_eq!(states, [10; 100]);
    }
    Ok(())
}

fn workers_of_a_resized_pool_run_it() -> Outcome {
    let pool = Pool::new(1)?;
    assert_eq!(pool.broadcast(add, (10,))?.len(), 1);
    pool.resize(3)?;
    eventually("there are three", || pool.worker_pids().len() == 3);
    let results = pool.broadcast(add, (5,))?;
    assert!(results.len() == 3 && results.iter().all(|result| result.as_ref().unwrap().2 == 10));
    assert_eq!(totals(&pool)?, [15; 200]);
    Ok(())
}

fn it_is_no_task_of_a_worker_with_a_limit_of_tasks() -> Outcome {
    let pool = Pool::builder().workers(1).max_tasks_per_worker(2).build()?;
    let (first, ..) = pool.apply(add, (0,))?;
    let (second, ..) = pool.broadcast(add, (10,))?.remove(0)?;
    assert_eq!(pool.apply(add, (0,))?.0, first);
    assert_eq!(first, second);
    for _ in 0..6 {
        let (pid, _, total) = pool.apply(add, (0,))?;
        assert!(pid != first && total == 10, "{total}");
    }
    Ok(())
}

fn a_pool_without_workers_has_later_ones_run_it() -> Outcome {
    let pool = Pool::builder().workers(2).idle_timeout(Duration::from_millis(1)).build()?;
    eventually("they have ended", || pool.worker_pids().is_empty());
    assert!(pool.broadcast(add, (10,))?.is_empty());
    assert_eq!(totals(&pool)?, [10; 200]);
    Ok(())
}

fn broadcasts_run_in_order() -> Outcome {
    let append = |number: u64| TOTAL.store(total() * 10 + number, Relaxed);
    let pool = Pool::builder().workers(2).initializer(append, (1,)).build()?;
    for number in [2, 3, 4] {
        assert_eq!(pool.broadcast(append, (number,))?.len(), 2);
    }
    pool.resize(4)?;
    eventually("there are four", || pool.worker_pids().len() == 4);
    let all = pool.broadcast(total, ())?.into_iter().collect::<Result<Vec<_>, _>>()?;
    assert_eq!(all, [1234; 4]);
    Ok(())
}

fn a_busy_worker_runs_it_before_what_waits() -> Outcome {
    let pool = Pool::new(1)?;
    let (busy, latch) = blocked_task(&pool)?;
    thread::scope(|scope| {
        let results = scope.spawn(|| pool.broadcast(add, (10,)));
        thread::sleep(SHORT);
        assert!(!results.is_finished()); // it waits for the task
        let after = pool.submit(total, ())?;
        drop(latch);
        busy.get()?;
        assert_eq!((results.join().unwrap()?.len(), after.get()?), (1, 10));
        Ok(())
    })
}

fn a_worker_that_leaves_runs_it() -> Outcome {
    let pool = Pool::new(2)?;
    let ((first, latch), (second, other)) = (blocked_task(&pool)?, blocked_task(&pool)?);
    thread::scope(|scope| {
        let results = scope.spawn(|| pool.broadcast(add, (10,)));
        thread::sleep(SHORT); // long enough that it usually has begun; otherwise there is one result
        pool.resize(1)?;
        drop((latch, other));
        let results = results.join().unwrap()?;
        assert!((1..=2).contains(&results.len()), "{}", results.len());
        assert!(results.iter().all(Result::is_ok), "{results:?}");
        first.get()?;
        second.get()?;
        assert_eq!(totals(&pool)?, [10; 200]);
        Ok(())
    })
}

fn a_worker_killed_before_it_has_begun_is_an_error_and_its_replacement_runs_it() -> Outcome {
    let pool = Pool::new(1)?;
    let pid = pool.worker_pids()[0];
    let (busy, latch) = blocked_task(&pool)?;
    thread::scope(|scope| {
        let results = scope.spawn(|| pool.broadcast(add, (10,)));
        eventually("it waits for the worker", || pool.stats().pending == 2);
        send_signal(pid, Signal::SIGKILL);
        assert_eq!(busy.get().unwrap_err().signal(), Some(9));
        let results = results.join().unwrap()?;
        let [Err(death)] = &results[..] else { panic!("{results:?}") };
        assert_eq!((death.signal(), death.pid(), death.index()), (Some(9), Some(pid), None), "{death}");
        drop(latch);
        let (replacement, _, before) = pool.apply(add, (0,))?;
        assert_ne!(replacement, pid);
        assert_eq!(before, 10, "the replacement has run it once");
        Ok(())
    })
}

fn a_death_and_a_panic_are_errors_of_one_worker() -> Outcome {
    let pool = Pool::new(3)?;
    let pids = pool.broadcast(id, ())?.into_iter().collect::<Result<Vec<_>, _>>()?;
    let strike = |abort: u32, panic: u32| {
        TOTAL.store(7, Relaxed);
        if id() == abort {
            std::process::abort();
        }
        assert!(id() != panic, "not here");
    };
    let results = pool.broadcast(strike, (pids[2], pids[0]))?;
    assert!(results[0].as_ref().is_err_and(multiproc::Error::is_panic), "{results:?}");
    assert!(results[1].is_ok(), "{results:?}");
    let death = results[2].as_ref().unwrap_err();
    assert_eq!((death.signal(), death.pid(), death.index()), (Some(6), Some(pids[2]), None));
    assert_eq!(totals(&pool)?, [7; 200]);
    Ok(())
}

fn a_panic_in_a_later_worker_is_the_error_of_every_call() -> Outcome {
    let pool = Pool::new(1)?;
    let panics_elsewhere = |pid: u32| assert!(id() == pid, "another worker");
    pool.broadcast(panics_elsewhere, (pool.worker_pids()[0],))?.remove(0)?;
    assert_eq!(pool.apply(total, ())?, 0);
    pool.resize(2)?;
    eventually("it has failed", || {
        pool.apply(total, ()).is_err_and(|error| error.to_string().contains("another worker"))
    });
    Ok(())
}

fn an_error_that_it_returns_is_a_result() -> Outcome {
    let pool = Pool::new(2)?;
    let fail = |why: String| -> Result<(), TaskError> { Err(why)? };
    for result in pool.broadcast(fail, ("no table".to_owned(),))? {
        assert_eq!(result?.unwrap_err().to_string(), "no table");
    }
    send_signal(pool.worker_pids()[0], Signal::SIGKILL);
    eventually("there is another worker", || pool.worker_pids().len() == 2 && pool.apply(total, ()).is_ok());
    Ok(())
}

fn more_descriptors_than_a_new_worker_can_get_are_refused() -> Outcome {
    let pool = Pool::new(1)?;
    let slice = SharedSlice::from_slice(&vec![1_u64; 10_000])?;
    let sum = |slice: SharedSlice<u64>| slice.iter().sum::<u64>();
    let mut accepted = 0;
    let error = loop {
        assert!(accepted < 300, "a packet takes no more than 253");
        match pool.broadcast(sum, (slice.clone(),)) {
            Ok(sums) => assert_eq!(sums.into_iter().collect::<Result<Vec<_>, _>>()?, [10_000]),
            Err(error) => break error,
        }
        accepted += 1;
    };
    assert!(error.to_string().contains("descriptors, which each new worker gets"), "{error}");
    pool.broadcast(add, (1,))?;
    pool.resize(2)?;
    eventually("the second worker", || pool.worker_pids().len() == 2);
    assert_eq!(totals(&pool)?, [1; 200]);
    Ok(())
}

fn descriptors_and_large_arguments_travel() -> Outcome {
    let pool = Pool::new(2)?;
    let (sender, receiver) = multiproc::queue::bounded::<(u32, usize)>(8)?;
    let report = |sender: multiproc::queue::Sender<(u32, usize)>, text: String| {
        sender.send((id(), text.len())).map_err(|error| error.to_string())
    };
    for result in pool.broadcast(report, (sender, "-".repeat(3 << 20)))? {
        result??;
    }
    pool.resize(3)?; // a later worker gets them, too
    let reports = [receiver.recv()?, receiver.recv()?, receiver.recv()?];
    assert!(reports.iter().all(|report| report.1 == 3 << 20), "{reports:?}");
    assert!(reports[0].0 != reports[1].0 && reports[1].0 != reports[2].0);
    Ok(())
}

fn a_pool_that_ends_ends_it() -> Outcome {
    let pool = Pool::builder().workers(2).shutdown_timeout(SHORT).build()?;
    let (busy, latch) = blocked_task(&pool)?;
    thread::scope(|scope| {
        let results = scope.spawn(|| pool.broadcast(thread::sleep, (HOUR,)));
        thread::sleep(SHORT); // otherwise it finds a pool that has ended
        pool.terminate();
        if let Ok(results) = results.join().unwrap() {
            assert!(results.iter().all(Result::is_err), "{results:?}");
        }
        drop(latch);
        assert!(busy.get().is_err());
        Ok(())
    })
}

/// Cannot be encoded.
#[derive(serde::Deserialize)]
struct Refuses;

impl serde::Serialize for Refuses {
    fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("it refuses"))
    }
}

fn a_closed_pool_and_bad_arguments_are_errors() -> Outcome {
    let pool = Pool::new(1)?;
    assert!(pool.broadcast(|_: Refuses| (), (Refuses,)).unwrap_err().to_string().contains("it refuses"));
    pool.resize(2)?;
    assert_eq!(totals(&pool)?, [0; 200]); // no worker was told to run it
    pool.close();
    assert!(pool.broadcast(add, (1,)).unwrap_err().is_closed());
    Ok(())
}

fn tasks_see_it_whichever_workers_are_killed() -> Outcome {
    let pool = Pool::new(3)?;
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let killer = scope.spawn(|| {
            // Fewer than a pool gives up after: on a busy machine each may hit a worker that starts.
            for _ in (0..15).take_while(|_| !done.load(Relaxed)) {
                if let Some(&pid) = pool.worker_pids().first() {
                    let _ = nix::sys::signal::kill(
                        nix::unistd::Pid::from_raw(pid.cast_signed()),
                        Signal::SIGKILL,
                    );
                }
                thread::sleep(Duration::from_millis(20));
            }
        });
        let checked = (1..=30_u64).try_for_each(|round| -> multiproc::Result<()> {
            pool.broadcast(|value: u64| TOTAL.store(value, Relaxed), (round,))?;
            let seen = pool.options().retries(100).map(|_: u32| total(), 0..20)?;
            assert_eq!(seen, [round; 20]);
            Ok(())
        });
        done.store(true, Relaxed);
        killer.join().unwrap();
        Ok(checked?)
    })
}

fn inline_the_caller_runs_it() -> Outcome {
    let pool = Pool::builder().inline(true).state(|| 5_u64, ()).build()?;
    let results = pool.broadcast(|state: &mut u64| (id(), std::mem::replace(state, 6)), ())?;
    assert_eq!(results.len(), 1);
    assert_eq!(results[0].as_ref().unwrap(), &(id(), 5));
    assert_eq!(pool.apply(|state: &mut u64| *state, ())?, 6);
    Ok(())
}
