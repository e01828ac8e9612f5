//! **Task handles**: results as they arrive, callbacks, and what a handle tells.

use std::panic::panic_any;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;
use std::{iter, thread};

use multiproc::{Connection, Pool, Result, as_completed, pipe};
use nix::sys::signal::Signal;

use crate::futures::{blocked_task, square};
use crate::support::{METHODS, Outcome, TEST_TIMEOUT, block, eventually, send_signal, trials};

trials![
    as_completed_returns_results_as_they_arrive,
    as_completed_of_a_used_handle_ends,
    the_first_failure_is_found_while_other_tasks_run,
    a_death_is_one_result_of_as_completed,
    as_completed_ends_with_its_pool,
    callbacks_run_once_each_and_may_panic,
    a_callback_learns_of_each_end_and_may_use_the_pool,
    a_handle_tells_whether_its_task_runs,
];

fn as_completed_returns_results_as_they_arrive() -> Outcome {
    let pools = [Pool::new(1)?, Pool::new(1)?];
    let (slow, latch) = blocked_task(&pools[0])?;
    let quick = pools[1].submit(drop, ((),))?;
    let mut results = as_completed([slow, quick]);
    let (index, result) = results.next().unwrap();
    assert_eq!((index, results.len()), (1, 1));
    result?;
    assert!(results.next_timeout(Duration::from_millis(10)).is_none());
    drop(latch);
    let (index, result) = results.next_timeout(TEST_TIMEOUT).unwrap();
    assert_eq!(index, 0);
    result?;
    assert!(results.next().is_none());

    let (slow, latch) = blocked_task(&pools[0])?;
    let (index, left) = as_completed([slow]).into_pending().next().unwrap();
    drop(latch);
    left.get()?;
    assert_eq!(index, 0);
    Ok(())
}

fn as_completed_of_a_used_handle_ends() -> Outcome {
    let pool = Pool::new(1)?;
    let mut used = pool.submit(square, (3,))?;
    assert_eq!(used.get_timeout(TEST_TIMEOUT)?, Some(9));
    let mut results = as_completed([used]);
    assert!(results.next().unwrap().1.is_err());
    assert!(results.next().is_none());
    Ok(())
}

/// Python's `FIRST_EXCEPTION`.
fn the_first_failure_is_found_while_other_tasks_run() -> Outcome {
    for method in METHODS {
        let pool = Pool::builder().workers(2).start_method(method).build()?;
        let (slow, latch) = blocked_task(&pool)?;
        let panics = |(): ()| -> () { panic!("on purpose") };
        let tasks = [slow, pool.submit(drop, ((),))?, pool.submit(panics, ((),))?];
        let mut results = as_completed(tasks);
        let (index, failed) = results.find(|(_, result)| result.is_err()).unwrap();
        assert_eq!((index, failed.unwrap_err().is_panic()), (2, true));
        let (index, slow) = results.into_pending().next().unwrap();
        assert!(index == 0 && slow.is_running());
        drop(latch);
        slow.get()?;
    }
    Ok(())
}

/// Tells its process id, and blocks its worker until the other end is dropped.
fn tell_pid_and_block(end: Connection<u32, ()>) -> u64 {
    let _ = end.send(std::process::id());
    let _ = end.recv();
    0
}

fn square_or_die(number: u64) -> u64 {
    if number.is_multiple_of(5) {
        std::process::abort();
    }
    square(number)
}

fn a_death_is_one_result_of_as_completed() -> Outcome {
    for method in METHODS {
        let pool = Pool::builder().workers(2).start_method(method).build()?;
        let (latch, theirs) = pipe::<(), u32>()?;
        let victim = pool.submit(tell_pid_and_block, (theirs,))?;
        let pid = latch.recv()?;
        let others = (1..20).map(|number| pool.submit(square_or_die, (number,)));
        let mut results = as_completed(iter::once(Ok(victim)).chain(others).collect::<Result<Vec<_>>>()?);
        let first = results.next_timeout(TEST_TIMEOUT).unwrap();
        assert_ne!(first.0, 0);
        send_signal(pid, Signal::SIGKILL);
        let mut all: Vec<_> = iter::once(first).chain(&mut results).collect();
        all.sort_by_key(|&(index, _)| index);
        assert!(results.next().is_none());

        for (expected, (index, result)) in all.iter().enumerate() {
            assert_eq!(*index, expected);
            let signal = result.as_ref().map_err(multiproc::Error::signal);
            match index {
                0 => assert_eq!(signal, Err(Some(9))),
                5 | 10 | 15 => assert_eq!(signal, Err(Some(6))),
                _ => assert_eq!(signal, Ok(&square(*index as u64))),
            }
        }
        assert_eq!(all.len(), 20);
        assert_eq!(all[0].1.as_ref().unwrap_err().pid(), Some(pid));
    }
    Ok(())
}

fn as_completed_ends_with_its_pool() -> Outcome {
    for method in METHODS {
        let pool = Pool::builder().workers(1).start_method(method).build()?;
        let (running, _latch) = blocked_task(&pool)?;
        let (_others, theirs): (Vec<_>, Vec<_>) =
            (0..5).map(|_| pipe()).collect::<Result<Vec<_>>>()?.into_iter().unzip();
        let waiting = theirs.into_iter().map(|end| pool.submit(block, (end,)));
        let results = as_completed(iter::once(Ok(running)).chain(waiting).collect::<Result<Vec<_>>>()?);
        let reader = thread::spawn(|| results.collect::<Vec<_>>());
        thread::sleep(Duration::from_millis(20)); // it may wait by now; the outcome is the same if not
        pool.terminate();
        let mut all = reader.join().unwrap();
        all.sort_by_key(|&(index, _)| index);
        assert!(all.iter().map(|&(index, _)| index).eq(0..6), "{all:?}");
        assert!(all.iter().all(|(_, result)| result.is_err()), "{all:?}");
        assert!(all[1..].iter().all(|(_, result)| result.as_ref().unwrap_err().is_cancelled()), "{all:?}");
    }
    Ok(())
}

/// The payload of a panic that panics once more when it is dropped.
struct BadPayload;

impl Drop for BadPayload {
    fn drop(&mut self) {
        panic!("a payload that panics, on purpose");
    }
}

fn callbacks_run_once_each_and_may_panic() -> Outcome {
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    let pool = Pool::new(2)?;
    pool.submit(square, (3,))?.on_done(|_| panic!("a callback that panics, on purpose"))?;
    pool.submit(square, (3,))?.on_done(|_| panic_any(BadPayload))?;
    let (sender, squares) = mpsc::channel();
    for number in 0..50 {
        let sender = sender.clone();
        pool.submit(square, (number,))?.on_done(move |result| {
            CALLS.fetch_add(1, Ordering::Relaxed);
            let _ = sender.send(result);
        })?;
    }
    drop(sender);
    let squares: Vec<_> = squares.into_iter().collect::<Result<_>>()?; // until the last callback has run
    assert_eq!(squares.iter().sum::<u64>(), (0..50).map(square).sum::<u64>());
    assert_eq!(CALLS.load(Ordering::Relaxed), 50);
    Ok(())
}

fn a_callback_learns_of_each_end_and_may_use_the_pool() -> Outcome {
    let pool = Arc::new(Pool::new(1)?);
    let (sender, ends) = mpsc::channel();
    let tell = || {
        let sender = sender.clone();
        move |result: Result<u64>| sender.send(result).unwrap()
    };
    let next = || ends.recv_timeout(TEST_TIMEOUT).unwrap();

    let arrived = pool.submit(square, (3,))?;
    eventually("it has arrived", || arrived.is_ready());
    arrived.on_done(tell())?;
    assert_eq!(next()?, 9);

    let mut taken = pool.submit(square, (3,))?;
    assert_eq!(taken.get_timeout(TEST_TIMEOUT)?, Some(9));
    taken.on_done(tell())?;
    let error = next().unwrap_err();
    assert!(error.to_string().contains("already taken"), "{error}");

    let (again, tell_again) = (Arc::clone(&pool), tell());
    let submit = move |result: Result<u64>| {
        let squared = again.submit(square, (result.unwrap(),)).unwrap();
        squared.on_done(tell_again).unwrap();
    };
    pool.submit(square, (3,))?.on_done(submit)?;
    assert_eq!(next()?, 81);

    let abort = |_: u64| -> u64 { std::process::abort() };
    pool.submit(abort, (1,))?.on_done(tell())?;
    assert_eq!(next().unwrap_err().signal(), Some(6));

    let (_running, _latch) = blocked_task(&pool)?;
    let cancelled = pool.submit(square, (4,))?;
    let canceller = cancelled.canceller();
    cancelled.on_done(tell())?;
    canceller.cancel();
    assert!(next().unwrap_err().is_cancelled());

    pool.submit(square, (5,))?.on_done(tell())?;
    pool.terminate();
    let error = next().unwrap_err();
    assert!(error.is_cancelled(), "{error}");
    Ok(())
}

fn a_handle_tells_whether_its_task_runs() -> Outcome {
    let pool = Pool::new(1)?;
    let (running, latch) = blocked_task(&pool)?;
    let waiting = pool.submit(square, (3,))?;
    assert!(running.is_running() && !waiting.is_running());
    drop(latch);
    eventually("it has ended", || running.is_ready());
    assert!(!running.is_running());
    assert_eq!(waiting.get()?, 9);
    Ok(())
}
