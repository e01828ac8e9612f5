//! Workers that are replaced because they have grown.

use std::collections::HashSet;
use std::process::id;
use std::thread::sleep;
use std::time::{Duration, Instant};

use multiproc::pool::{NoState, PoolBuilder};
use multiproc::{Pool, StartMethod};

use crate::support::{Outcome, TEST_TIMEOUT, eventually, trials};

trials![
    a_worker_that_has_grown_is_replaced_and_no_task_fails,
    a_worker_that_grows_in_a_task_finishes_it,
    what_a_worker_has_before_its_first_task_does_not_count,
    a_preloaded_state_does_not_count,
    a_worker_that_has_grown_in_its_last_task_is_replaced_while_it_is_idle,
    a_limit_of_zero_is_an_error,
];

const MEBIBYTE: usize = 1 << 20;

/// Never gives the memory back; returns the worker's pid.
fn leak(mebibytes: usize) -> u32 {
    vec![1_u8; mebibytes * MEBIBYTE].leak();
    id()
}

fn limited(workers: usize) -> PoolBuilder<NoState> {
    Pool::builder().workers(workers).max_growth_per_worker(32 << 20)
}

fn a_worker_that_has_grown_is_replaced_and_no_task_fails() -> Outcome {
    let pool = limited(2).build()?;
    let leak_slowly = |mebibytes: usize| {
        sleep(Duration::from_millis(5));
        leak(mebibytes)
    };
    let pids: HashSet<u32> = pool.map(leak_slowly, [2; 200])?.into_iter().collect();
    assert!(pids.len() > 2, "{pids:?}");
    let total = pool.stats().total();
    assert_eq!((total.tasks_done, total.tasks_failed, total.died), (200, 0, 0));
    Ok(())
}

fn a_worker_that_has_grown_in_its_last_task_is_replaced_while_it_is_idle() -> Outcome {
    let pool = limited(1).build()?;
    for round in 0..3 {
        let grown = if round == 0 { pool.apply(leak, (64,))? } else { pool.submit(leak, (64,))?.get()? };
        eventually("its successor is there", || pool.worker_pids().iter().any(|pid| *pid != grown));
    }
    Ok(())
}

fn a_worker_that_grows_in_a_task_finishes_it() -> Outcome {
    let pool = limited(1).build()?;
    let first = pool.worker_pids();
    let grow_and_wait = |replaced: multiproc::Connection<(), ()>| {
        leak(64);
        let _ = replaced.send(()); // it has grown
        let _ = replaced.recv();
        id()
    };
    let (ours, theirs) = multiproc::pipe()?;
    let task = pool.submit(grow_and_wait, (theirs,))?;
    assert!(ours.poll(TEST_TIMEOUT)?);
    ours.recv()?;
    eventually("it takes no more tasks", || pool.worker_pids() != first);
    // Its successor begins when it has ended: both have the same index.
    let mut next = pool.submit(id, ())?;
    assert_eq!(next.get_timeout(Duration::from_millis(300))?, None);
    drop(ours);
    assert_eq!(task.get()?, first[0]);
    assert_ne!(next.get()?, first[0]);
    Ok(())
}

/// Runs tasks for much longer than the pool takes to measure its workers.
fn runs_on(mut task: impl FnMut() -> multiproc::Result<u32>) -> Outcome {
    let first = task()?;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(500) {
        sleep(Duration::from_millis(5));
        assert_eq!(task()?, first, "the worker was replaced");
    }
    Ok(())
}

fn what_a_worker_has_before_its_first_task_does_not_count() -> Outcome {
    let pool = limited(1).initializer(leak, (64,)).build()?;
    runs_on(|| pool.apply(leak, (0,)))
}

fn a_preloaded_state_does_not_count() -> Outcome {
    let builder = limited(1).start_method(StartMethod::ForkServer);
    let pool = builder.preload(|| vec![1_u8; 64 * MEBIBYTE], ()).build()?;
    let read = |bytes: &mut Vec<u8>| {
        assert!(bytes.iter().step_by(4096).all(|&byte| byte == 1));
        id()
    };
    runs_on(|| pool.apply(read, ()))
}

fn a_limit_of_zero_is_an_error() -> Outcome {
    let error = Pool::builder().max_growth_per_worker(0).build().unwrap_err();
    assert!(error.to_string().contains("`max_growth_per_worker` must be at least 1"), "{error}");
    Ok(())
}
