//! One handle for the results of many items.

use std::iter;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use multiproc::pool::RetryPolicy;
use multiproc::sync::Atomic;
use multiproc::{Pool, Result, pipe};

use super::{HOUR, blocked_task, square, zero_waits};
use crate::support::{BadValue, Latch, Outcome, TEST_TIMEOUT, eventually, trials};

trials![
    results_are_those_of_a_map,
    it_returns_before_the_items_have_run,
    the_first_error_in_input_order_is_the_result,
    an_item_that_cannot_be_sent_is_an_error_and_none_has_begun,
    a_panic_of_the_input_reaches_the_caller_and_none_has_begun,
    a_cancelled_map_ends_what_runs_and_withdraws_the_rest,
    a_map_that_is_cancelled_as_it_ends_is_either,
    a_map_can_be_cancelled_while_an_item_waits_to_run_again,
    items_of_a_worker_that_dies_run_again_if_asked,
    every_map_of_a_pool_that_ends_has_a_result,
    a_map_counts_as_one_pending_task,
    callbacks_and_as_completed_take_a_map,
    it_works_in_inline_mode,
];

fn results_are_those_of_a_map() -> Outcome {
    let pool = Pool::new(2)?;
    let squares = pool.submit_map(square, 0..100_000)?;
    let lengths = pool.submit_map(|text: String| text.len(), ["", "a", "bb"].map(str::to_owned))?;
    let large = pool.submit_map(|text: String| text, (0..4).map(|n| "x".repeat(n * 100_000)))?;
    let nothing = pool.submit_map(square, iter::empty())?;
    let units = pool.submit_map(|(): ()| (), iter::repeat_n((), 1000))?;
    let sums = pool.submit_starmap(|left: u8, right: u8| left + right, [(1, 2), (3, 4)])?;
    assert_eq!(sums.get()?, [3, 7]);
    assert_eq!(units.get()?.len(), 1000);
    assert!(nothing.is_ready() && nothing.get()?.is_empty());
    assert_eq!(large.get()?, (0..4).map(|n| "x".repeat(n * 100_000)).collect::<Vec<_>>());
    assert_eq!(lengths.get()?, [0, 1, 2]);
    assert_eq!(squares.get()?, (0..100_000).map(square).collect::<Vec<_>>());
    Ok(())
}

fn it_returns_before_the_items_have_run() -> Outcome {
    let pool = Pool::new(2)?;
    let (latch, theirs) = pipe()?;
    let mut zeros = pool.submit_map(zero_waits, [(0, Some(theirs)), (1, None), (2, None)])?;
    assert_eq!(pool.apply(square, (3,))?, 9); // the items before it have begun
    assert!(!zeros.is_ready());
    assert!(zeros.get_timeout(Duration::from_millis(10))?.is_none());
    drop(latch);
    assert_eq!(zeros.get_timeout(TEST_TIMEOUT)?, Some(vec![0, 1, 2]));
    assert!(zeros.get().is_err(), "it was taken");
    Ok(())
}

fn the_first_error_in_input_order_is_the_result() -> Outcome {
    let pool = Pool::new(2)?;
    let runs = Atomic::new(0_u64)?;
    let run = |number: u64, runs: Atomic<u64>| {
        runs.fetch_add(1, Relaxed);
        assert!(number % 10 != 7, "seven");
    };
    let items = (0..50).map(|number| (number, runs.clone()));
    let error = pool.submit_starmap(run, items)?.get().unwrap_err();
    assert!(error.is_panic(), "{error}");
    assert_eq!((error.index(), runs.load(Relaxed)), (Some(7), 50));
    Ok(())
}

fn an_item_that_cannot_be_sent_is_an_error_and_none_has_begun() -> Outcome {
    let pool = Pool::new(1)?;
    let items =
        (0..100).map(|number| if number == 42 { BadValue::Unencodable } else { BadValue::Fine(number) });
    let error = pool.submit_map(|_: BadValue| (), items).unwrap_err();
    assert_eq!(error.index(), Some(42), "{error}");
    assert_eq!(pool.apply(square, (3,))?, 9);
    assert_eq!(pool.stats().total().tasks_done, 1);
    Ok(())
}

fn a_panic_of_the_input_reaches_the_caller_and_none_has_begun() -> Outcome {
    let pool = Pool::new(1)?;
    let input = (0..10).map(|number| if number == 5 { panic!("the input") } else { number });
    let call = std::panic::AssertUnwindSafe(|| pool.submit_map(square, input));
    assert!(std::panic::catch_unwind(call).is_err());
    assert_eq!(pool.apply(square, (3,))?, 9);
    assert_eq!(pool.stats().total().tasks_done, 1);
    Ok(())
}

/// Blocks until the other end is dropped.
fn block_first(end: Option<Latch>) {
    if let Some(end) = end {
        let _ = end.send(());
        let _ = end.recv();
    }
}

fn a_cancelled_map_ends_what_runs_and_withdraws_the_rest() -> Outcome {
    let pool = Pool::new(2)?;
    let (first, their_first) = pipe()?;
    let (second, their_second) = pipe()?;
    let (late, their_late) = pipe::<(), ()>()?;
    let items = [Some(their_first), Some(their_second)].into_iter();
    let map = pool.submit_map(
        block_first,
        items.chain(iter::repeat_with(|| None).take(100)).chain([Some(their_late)]),
    )?;
    first.recv()?;
    second.recv()?;
    assert!(map.is_running() && !map.is_ready());
    assert!(map.cancel());
    assert!(!map.cancel(), "it is cancelled already");
    let error = map.get().unwrap_err();
    assert!(error.is_cancelled(), "{error}");
    for latch in [first, second] {
        assert!(latch.poll(Duration::ZERO)?, "the item still runs");
        assert!(latch.recv().unwrap_err().is_disconnected());
    }
    assert!(late.recv().is_err(), "a withdrawn item has run");
    assert_eq!(pool.map(square, [1, 2, 3])?, [1, 4, 9]);
    Ok(())
}

/// The delay before the cancellation approaches the running time of the map.
fn a_map_that_is_cancelled_as_it_ends_is_either() -> Outcome {
    let pool = Pool::new(2)?;
    let mut time = Duration::from_micros(300);
    for _ in 0..200 {
        let (begun, map) = (Instant::now(), pool.submit_map(square, 0..1000)?);
        while begun.elapsed() < time {
            std::hint::spin_loop();
        }
        let is_cancelled = map.cancel();
        match map.get() {
            Ok(squares) => {
                assert_eq!((squares.len(), is_cancelled), (1000, false));
                time = time.saturating_sub(Duration::from_micros(20));
            }
            Err(error) => {
                assert_eq!((error.is_cancelled(), is_cancelled), (true, true), "{error}");
                time += Duration::from_micros(20);
            }
        }
        assert_eq!(pool.apply(square, (5,))?, 25);
    }
    Ok(())
}

fn a_map_can_be_cancelled_while_an_item_waits_to_run_again() -> Outcome {
    let pool = Pool::new(1)?;
    let die_at_one = |number: u64| if number == 1 { std::process::abort() } else { number };
    let map = pool.options().retry(RetryPolicy::new(1).backoff(HOUR, HOUR)).submit_map(die_at_one, 0..3)?;
    eventually("an item waits", || pool.stats().total().tasks_retried == 1);
    pool.apply(square, (3,))?; // all other items have their results
    assert!(!map.is_ready());
    assert!(map.cancel());
    assert!(map.get().unwrap_err().is_cancelled());
    Ok(())
}

fn items_of_a_worker_that_dies_run_again_if_asked() -> Outcome {
    let pool = Pool::new(2)?;
    let deaths = Atomic::new(0_u64)?;
    let die_once = |number: u64, deaths: Atomic<u64>| {
        if number == 500 && deaths.fetch_add(1, Relaxed) == 0 {
            std::process::abort();
        }
        number
    };
    let items = || (0..1000).map(|number| (number, deaths.clone()));
    let error = pool.submit_starmap(die_once, items())?.get().unwrap_err();
    assert_eq!((error.signal(), error.index()), (Some(6), Some(500)), "{error}");
    deaths.store(0, Relaxed);
    let numbers = pool.options().retries(1).submit_starmap(die_once, items())?;
    assert_eq!(numbers.get()?, (0..1000).collect::<Vec<_>>());
    Ok(())
}

fn every_map_of_a_pool_that_ends_has_a_result() -> Outcome {
    let pool = Pool::new(1)?;
    let (running, latch) = blocked_task(&pool)?;
    let waiting = pool.submit_map(square, 0..1000)?;
    pool.close();
    assert!(pool.submit_map(square, 0..10).unwrap_err().is_closed());
    drop(latch);
    running.get()?;
    assert_eq!(waiting.get()?.len(), 1000);

    let pool = Pool::new(1)?;
    let (_running, _latch) = blocked_task(&pool)?;
    let waiting = pool.submit_map(square, 0..1000)?;
    drop(pool);
    assert!(waiting.get().unwrap_err().is_cancelled());
    Ok(())
}

fn a_map_counts_as_one_pending_task() -> Outcome {
    let pool = Pool::builder().workers(1).max_pending(1).build()?;
    let (latch, theirs) = pipe()?;
    let zeros = pool.submit_map(zero_waits, [(1, None), (0, Some(theirs)), (2, None)])?;
    assert!(pool.try_submit(square, (3,)).unwrap_err().error().is_full());
    drop(latch);
    assert_eq!(zeros.get()?, [1, 0, 2]);
    assert_eq!(pool.try_submit(square, (3,)).map_err(|refused| refused.to_string())?.get()?, 9);
    Ok(())
}

fn callbacks_and_as_completed_take_a_map() -> Outcome {
    let pool = Pool::new(1)?;
    let (running, latch) = blocked_task(&pool)?;
    let (sender, results) = mpsc::channel();
    pool.submit_map(square, 0..100)?.on_done(move |result| sender.send(result).unwrap())?;
    let maps = [pool.submit_map(square, 0..3)?, pool.submit_map(square, 3..5)?];
    let mut completed = multiproc::as_completed(maps);
    assert!(completed.next_timeout(Duration::ZERO).is_none());
    drop(latch);
    running.get()?;
    let mut squares: Vec<_> =
        completed.map(|(index, squares)| Ok((index, squares?))).collect::<Result<_>>()?;
    squares.sort();
    assert_eq!(squares, [(0, vec![0, 1, 4]), (1, vec![9, 16])]);
    assert_eq!(results.recv_timeout(TEST_TIMEOUT)??.len(), 100);
    Ok(())
}

fn it_works_in_inline_mode() -> Outcome {
    let pool = Pool::builder().inline(true).build()?;
    assert_eq!(pool.submit_map(square, 0..100)?.get()?, (0..100).map(square).collect::<Vec<_>>());
    assert!(pool.submit_map(|(): ()| -> () { panic!("here") }, [(), ()])?.get().unwrap_err().is_panic());
    assert!(pool.submit_map(square, iter::empty())?.get()?.is_empty());
    Ok(())
}
