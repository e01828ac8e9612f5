//! Retries that come after a pause, and within a budget.

use std::time::{Duration, Instant};

use multiproc::pool::RetryPolicy;
use multiproc::{Error, Pool, Result};
use nix::sys::signal::{Signal, raise};
use nix::time::{ClockId, clock_gettime};

use super::retries::{LoggedPool, append_and_maybe_die};
use super::{HOUR, SHORT, square};
use crate::support::{Outcome, TEST_TIMEOUT, alone, eventually, send_signal, trials};

trials![
    a_pausing_item_occupies_no_worker_and_holds_up_no_other,
    results_keep_their_order_and_each_item_runs_once_more_per_death,
    an_item_that_always_kills_pauses_longer_each_time,
    a_budget_is_that_of_all_items_of_a_call,
    what_ends_an_item_ends_its_pause,
    a_call_that_returns_early_leaves_no_pausing_item,
    a_closed_pool_runs_a_pausing_item_again,
    a_pause_ends_without_a_waiting_caller_and_without_a_worker,
    a_pause_costs_no_cpu_time,
];

fn die(_: u64) -> u64 {
    raise(Signal::SIGKILL).unwrap();
    0
}

fn after(pause: Duration) -> RetryPolicy {
    RetryPolicy::new(5).backoff(pause, pause)
}

/// All tasks of the pool have a result or pause.
fn wait_until_pausing(pool: &Pool, deaths: u64) {
    eventually("the worker's death is settled", || pool.stats().total().tasks_retried >= deaths);
}

fn a_pausing_item_occupies_no_worker_and_holds_up_no_other() -> Outcome {
    let pool = Pool::new(1)?;
    let mut pausing = pool.options().retry(after(HOUR)).submit(die, (1,))?;
    wait_until_pausing(&pool, 1);
    for round in 0..3 {
        let behind: Vec<_> = (0..20).map(|number| pool.submit(square, (number,))).collect::<Result<_>>()?;
        assert!(pool.map(square, 0..100)?.into_iter().eq((0..100).map(square)));
        for (number, task) in (0..).zip(behind) {
            assert_eq!(task.get()?, square(number), "{round}");
        }
        assert_eq!(pool.stats().pending, 1);
        assert!(!pausing.is_running() && !pausing.is_ready());
        pool.worker_pids().into_iter().for_each(|pid| send_signal(pid, Signal::SIGKILL));
    }
    assert!(pausing.get_timeout(SHORT)?.is_none());
    assert!(pausing.cancel() && pausing.get().unwrap_err().is_cancelled());
    assert_eq!(pool.stats().pending, 0);
    Ok(())
}

fn results_keep_their_order_and_each_item_runs_once_more_per_death() -> Outcome {
    const PAUSE: Duration = Duration::from_millis(20);
    for chunk_size in [1, 7, 100] {
        let builder = Pool::builder().workers(3).chunk_size(chunk_size);
        let LoggedPool { pool, entries, _deaths } = LoggedPool::new(builder, 3)?;
        let begun = Instant::now();
        let squares = pool
            .options()
            .retry(after(PAUSE))
            .imap(append_and_maybe_die, 0..50)
            .collect::<Result<Vec<_>>>()?;
        assert!(squares.into_iter().eq((0..50).map(square)));
        assert!(begun.elapsed() >= PAUSE);
        pool.join();
        let mut numbers = entries.into_iter().collect::<Result<Vec<_>>>()?;
        assert_eq!(numbers.len(), 53);
        numbers.sort_unstable();
        numbers.dedup();
        assert!(numbers.into_iter().eq(0..50));
    }
    Ok(())
}

fn an_item_that_always_kills_pauses_longer_each_time() -> Outcome {
    let (first, max) = (Duration::from_millis(30), Duration::from_millis(100));
    let pool = Pool::new(2)?;
    let begun = Instant::now();
    let policy = RetryPolicy::new(3).backoff(first, max);
    let outcomes = pool.options().retry(policy).map_results(|n| if n == 7 { die(n) } else { n }, 0..20)?;
    assert!(begun.elapsed() >= first + 2 * first + max);
    let error = outcomes[7].as_ref().unwrap_err();
    assert_eq!((error.signal(), error.index(), error.attempts().len()), (Some(9), Some(7), 3), "{error}");
    assert!(error.attempts().iter().all(|death| (death.signal(), death.index()) == (Some(9), Some(7))));
    assert_eq!(outcomes.iter().flatten().count(), 19);
    Ok(())
}

fn a_budget_is_that_of_all_items_of_a_call() -> Outcome {
    let pool = Pool::new(2)?;
    let policy = after(Duration::from_millis(1)).budget(7);
    for _ in 0..2 {
        let outcomes = pool.options().retry(policy).map_results(die, 0..5)?;
        let attempts = outcomes.iter().map(|outcome| outcome.as_ref().unwrap_err().attempts().len());
        assert_eq!(attempts.sum::<usize>(), 7, "{outcomes:?}");
    }
    assert_eq!(pool.stats().total().tasks_retried, 14);
    Ok(())
}

fn what_ends_an_item_ends_its_pause() -> Outcome {
    type End = fn(Pool, multiproc::pool::TaskHandle<u64>) -> Result<Error>;
    let ends: [End; 4] = [
        |_pool, task| {
            assert!(task.cancel() && !task.cancel());
            Ok(task.get().unwrap_err())
        },
        |_pool, task| {
            let canceller = task.canceller();
            let waiting = std::thread::spawn(move || task.get());
            assert!(canceller.cancel());
            Ok(waiting.join().unwrap().unwrap_err())
        },
        |pool, task| {
            drop(pool);
            Ok(task.get().unwrap_err())
        },
        |pool, task| {
            pool.terminate();
            Ok(task.get().unwrap_err())
        },
    ];
    for (number, end) in ends.into_iter().enumerate() {
        let pool = Pool::new(1)?;
        let task = pool.options().retry(after(HOUR)).submit(die, (1,))?;
        wait_until_pausing(&pool, 1);
        let error = end(pool, task)?;
        assert!(error.is_cancelled(), "{number}: {error}");
        assert_eq!(error.to_string(), "the task was cancelled before it ran again", "{number}");
        assert_eq!(error.attempts().len(), 1, "{number}: {error:?}");
    }
    Ok(())
}

fn a_call_that_returns_early_leaves_no_pausing_item() -> Outcome {
    let pool = Pool::new(1)?;
    let mut results = pool.options().retry(after(HOUR)).imap_unordered(die, 0..4);
    eventually("one of them has died", || {
        results.next_timeout(Duration::ZERO).is_none() && pool.stats().total().tasks_retried > 0
    });
    assert!(pool.stats().pending > 0);
    drop(results);
    eventually("none is left", || pool.stats().pending == 0);
    pool.join();
    Ok(())
}

fn a_closed_pool_runs_a_pausing_item_again() -> Outcome {
    let LoggedPool { pool, entries: _entries, _deaths } = LoggedPool::new(Pool::builder().workers(2), 1)?;
    let task = pool.options().retry(after(2 * SHORT)).submit(append_and_maybe_die, (5,))?;
    wait_until_pausing(&pool, 1);
    pool.join();
    assert!(task.is_ready());
    assert_eq!(task.get()?, 25);
    Ok(())
}

fn a_pause_ends_without_a_waiting_caller_and_without_a_worker() -> Outcome {
    let builder = Pool::builder().workers(1).idle_timeout(Duration::from_millis(1));
    let LoggedPool { pool, entries, _deaths } = LoggedPool::new(builder, 1)?;
    let pause = 5 * SHORT;
    let task = pool.options().retry(after(pause)).submit(append_and_maybe_die, (5,))?;
    assert_eq!(entries.recv_timeout(TEST_TIMEOUT)?, 5);
    let begun = Instant::now();
    // On a busy machine the pause may be over first.
    eventually("no worker is left", || pool.worker_pids().is_empty() || begun.elapsed() > pause);
    assert_eq!(entries.recv_timeout(TEST_TIMEOUT)?, 5);
    assert_eq!(task.get()?, 25);
    Ok(())
}

/// The time that all threads of this process have run.
fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).unwrap().into()
}

fn a_pause_costs_no_cpu_time() -> Outcome {
    alone(|| {
        let pool = Pool::new(1)?;
        let mut task = pool.options().retry(after(HOUR)).submit(die, (1,))?;
        wait_until_pausing(&pool, 1);
        let before = cpu_time();
        assert!(task.get_timeout(5 * SHORT)?.is_none());
        std::thread::sleep(5 * SHORT);
        let used = cpu_time().saturating_sub(before);
        assert!(used < SHORT, "{used:?}");
        Ok(())
    })
}
