//! **Task handles**: results as they arrive, callbacks, and what a handle tells.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use multiproc::{Pool, Result, as_completed};

use crate::futures::{blocked_task, square};
use crate::support::{Outcome, TEST_TIMEOUT, eventually, trials};

trials![
    as_completed_returns_results_as_they_arrive,
    as_completed_of_a_used_handle_ends,
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

fn callbacks_run_once_each_and_may_panic() -> Outcome {
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    let pool = Pool::new(2)?;
    pool.submit(square, (3,))?.on_done(|_| panic!("a callback that panics, on purpose"))?;
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
