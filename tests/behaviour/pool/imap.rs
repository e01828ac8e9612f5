//! `imap` and `imap_unordered`: order, look-ahead, and inputs that are slow or panic.

use std::any::Any;
use std::cell::Cell;
use std::iter::once;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use multiproc::{Pool, Result, pipe};

use super::{HOUR, SHORT, square, zero_waits};
use crate::support::{Outcome, TEST_TIMEOUT, trials};

trials![
    imap_keeps_order_and_ends,
    imap_unordered_gives_each_result_once_and_as_soon_as_it_is_there,
    imap_takes_its_input_only_so_far_ahead,
    imap_does_not_run_ahead_of_a_slow_first_item,
    a_result_comes_before_more_of_a_slow_input_is_taken,
    an_input_may_wait_for_the_result_before_it,
    a_timed_wait_gives_what_is_there_and_ends_no_task,
    a_timed_wait_of_a_closed_pool_gives_its_error,
    a_pool_that_was_closed_meanwhile_gives_one_error,
    no_more_of_the_input_is_taken_than_the_buffer_holds,
    the_number_of_results_left_is_known_if_that_of_the_input_is,
    an_imap_dropped_midway_leaves_the_pool_usable,
    an_input_iterator_that_panics_at_the_start,
    an_input_iterator_that_panics_midway,
];

fn imap_keeps_order_and_ends() -> Outcome {
    let pool = Pool::new(2)?;
    assert!(pool.imap(square, 0..1000).map(Result::unwrap).eq((0..1000).map(square)));
    let (latch, theirs) = pipe()?;
    let mut results = pool.imap(zero_waits, [(0, Some(theirs)), (1, None), (2, Some(latch))]);
    let numbers: Vec<u32> = results.by_ref().collect::<Result<_>>()?;
    assert_eq!(numbers, [0, 1, 2], "although the first ended last");
    assert!(results.next().is_none());
    Ok(())
}

fn imap_unordered_gives_each_result_once_and_as_soon_as_it_is_there() -> Outcome {
    let pool = Pool::new(2)?;
    let mut squares: Vec<u64> = pool.imap_unordered(square, 0..1000).collect::<Result<_>>()?;
    squares.sort_unstable();
    assert!(squares.into_iter().eq((0..1000).map(square)));

    let (latch, theirs) = pipe()?;
    let mut results = pool.imap_unordered(zero_waits, [(0, Some(theirs)), (1, None), (2, None)]);
    let mut early = [results.next().transpose()?, results.next().transpose()?];
    early.sort_unstable();
    assert_eq!(early, [Some(1), Some(2)], "the first item waits at its latch");
    drop(latch);
    assert_eq!(results.next().transpose()?, Some(0));
    assert!(results.next().is_none());
    Ok(())
}

fn a_timed_wait_gives_what_is_there_and_ends_no_task() -> Outcome {
    let pool = Pool::new(2)?;
    for is_ordered in [true, false] {
        let (latch, theirs) = pipe()?;
        let items = [(0, Some(theirs)), (1, None), (2, None)];
        let mut results =
            if is_ordered { pool.imap(zero_waits, items) } else { pool.imap_unordered(zero_waits, items) };
        if !is_ordered {
            let mut early = [results.next_timeout(TEST_TIMEOUT), results.next_timeout(TEST_TIMEOUT)]
                .map(|result| result.unwrap().unwrap());
            early.sort_unstable();
            assert_eq!(early, [1, 2]);
        }
        for time in [Duration::ZERO, SHORT] {
            assert!(results.next_timeout(time).is_none(), "the first item waits at its latch");
            assert_eq!(results.size_hint().0, if is_ordered { 3 } else { 1 });
        }
        drop(latch);
        assert_eq!(results.next_timeout(TEST_TIMEOUT).transpose()?, Some(0));
        let rest: Vec<u32> = results.by_ref().collect::<Result<_>>()?;
        assert_eq!(rest, if is_ordered { vec![1, 2] } else { vec![] });
        assert!(results.next_timeout(HOUR).is_none(), "it is at its end");
        assert_eq!(results.size_hint(), (0, Some(0)));
    }
    Ok(())
}

fn a_timed_wait_of_a_closed_pool_gives_its_error() -> Outcome {
    let pool = Pool::new(1)?;
    pool.close();
    let mut results = pool.imap(square, 0..3);
    assert!(results.next_timeout(HOUR).unwrap().unwrap_err().is_closed());
    assert!(results.next_timeout(HOUR).is_none());
    Ok(())
}

fn a_pool_that_was_closed_meanwhile_gives_one_error() -> Outcome {
    for inline in [false, true] {
        let pool = Pool::builder().workers(1).inline(inline).build()?;
        let results = pool.imap(square, vec![1]);
        assert_eq!(results.len(), 1);
        pool.close();
        let results: Vec<_> = results.collect();
        assert!(results.len() == 1 && results[0].as_ref().unwrap_err().is_closed(), "{results:?}");
    }
    Ok(())
}

fn the_number_of_results_left_is_known_if_that_of_the_input_is() -> Outcome {
    let pool = Pool::new(2)?;
    let mut lists = [pool.imap(square, vec![7; 100]), pool.imap_unordered(square, vec![7; 100])];
    for results in &mut lists {
        for left in (0..100).rev() {
            assert_eq!(results.len(), left + 1);
            results.next().unwrap()?;
        }
        assert!(results.len() == 0 && results.next().is_none());
    }
    assert_eq!(pool.imap(square, 0..).size_hint().0, usize::MAX);
    let filtered = pool.imap(square, (0..10).filter(|number| *number > 5));
    assert_eq!(filtered.size_hint(), (0, Some(10)));
    pool.close();
    let mut refused = pool.imap(square, vec![1, 2]);
    assert_eq!(refused.len(), 1, "the error");
    assert!(refused.next().unwrap().unwrap_err().is_closed());
    assert!(refused.len() == 0 && refused.next().is_none());
    Ok(())
}

/// More items than this ahead of the results are too many for two workers and chunks of three.
const FAR_AHEAD: u32 = 100;

fn imap_takes_its_input_only_so_far_ahead() -> Outcome {
    let pool = Pool::builder().workers(2).chunk_size(3).build()?;
    let taken = Cell::new(0);
    let endless = (0..).inspect(|_| taken.set(taken.get() + 1));
    for (given, result) in (0..500).zip(pool.imap(square, endless)) {
        assert_eq!(result?, square(given.into()));
        assert!(taken.get() < given + FAR_AHEAD, "{taken:?} items were taken for {given} results");
    }
    Ok(())
}

fn imap_does_not_run_ahead_of_a_slow_first_item() -> Outcome {
    let pool = Pool::builder().workers(2).chunk_size(3).build()?;
    let (latch, theirs) = pipe()?;
    let endless = once((0, Some(theirs))).chain((1..).map(|number| (number, None)));
    let taken = AtomicU32::new(0);
    let endless = endless.inspect(|_| {
        taken.fetch_add(1, SeqCst);
    });
    // The first item waits until too many others were taken, or until a time limit.
    let open_later = || {
        let start = Instant::now();
        while taken.load(SeqCst) < FAR_AHEAD && start.elapsed() < Duration::from_millis(100) {
            thread::yield_now();
        }
        drop(latch);
    };
    thread::scope(|scope| {
        scope.spawn(open_later);
        assert_eq!(pool.imap(zero_waits, endless).next().transpose()?, Some(0));
        assert!(taken.load(SeqCst) < FAR_AHEAD, "{taken:?} items were taken for the first result");
        Ok(())
    })
}

/// An item every 1.5 s, for as many workers as it would take too long to wait for them all to have one.
fn a_result_comes_before_more_of_a_slow_input_is_taken() -> Outcome {
    let pool = Pool::new(8)?;
    let taken = Cell::new(0);
    let slow = || {
        taken.set(0);
        std::iter::from_fn(|| {
            thread::sleep(Duration::from_millis(1500));
            taken.set(taken.get() + 1);
            Some(7)
        })
    };
    assert_eq!(pool.imap(square, slow()).next().transpose()?, Some(49));
    assert!(taken.get() < 8, "{taken:?} items were taken before the first result was given");
    assert_eq!(pool.imap_unordered(square, slow()).next().transpose()?, Some(49));
    assert!(taken.get() < 8, "{taken:?} items were taken before the first result was given");
    Ok(())
}

fn an_input_may_wait_for_the_result_before_it() -> Outcome {
    let pool = Pool::new(3)?;
    let (answers, input) = channel();
    let questions = || {
        answers.send(0).unwrap();
        std::iter::from_fn(|| Some(input.recv_timeout(TEST_TIMEOUT).unwrap())) // sent after the previous result
    };
    let call = pool.options().buffer_size(1);
    for (number, result) in (0..200).zip(call.imap(square, questions())) {
        assert_eq!(result?, square(number));
        answers.send(number + 1).unwrap();
    }
    let _ = input.try_recv();
    for (number, result) in (0..200).zip(call.imap_unordered(square, questions())) {
        assert_eq!(result?, square(number));
        answers.send(number + 1).unwrap();
    }
    Ok(())
}

fn no_more_of_the_input_is_taken_than_the_buffer_holds() -> Outcome {
    let pool = Pool::new(2)?;
    for size in [1, 2, 5, 1000] {
        let taken = Cell::new(0);
        let numbers = (0..3_000).inspect(|_| taken.set(taken.get() + 1));
        for (given, result) in (0..).zip(pool.options().buffer_size(size).imap(square, numbers)) {
            assert_eq!(result?, square(given));
            let ahead = taken.get() - usize::try_from(given)?;
            assert!(ahead <= size, "{ahead} items of {size}");
        }
        assert_eq!(taken.get(), 3_000);
    }
    let error = pool.options().buffer_size(0).imap(square, [1]).next().unwrap().unwrap_err();
    assert!(error.to_string().contains("`buffer_size` must be at least 1"), "{error}");
    Ok(())
}

fn an_imap_dropped_midway_leaves_the_pool_usable() -> Outcome {
    let pool = Pool::new(2)?;
    for _ in 0..20 {
        let mut results = pool.imap(square, 0..);
        assert_eq!(results.next().transpose()?, Some(0));
        drop(results);
        assert_eq!(pool.map(square, 0..3)?, [0, 1, 4]);
    }
    Ok(())
}

/// Numbers from 0 on; a panic instead of number `end`.
fn numbers_until(end: u64) -> impl Iterator<Item = u64> {
    (0..).inspect(move |&number| assert!(number < end, "out of numbers"))
}

fn panic_of<T>(call: impl FnOnce() -> T) -> String {
    let payload: Box<dyn Any + Send> = catch_unwind(AssertUnwindSafe(call)).err().unwrap();
    (*payload.downcast_ref::<&str>().unwrap()).to_owned()
}

fn an_input_iterator_that_panics_at_the_start() -> Outcome {
    input_that_panics_after(0)
}

fn an_input_iterator_that_panics_midway() -> Outcome {
    input_that_panics_after(5)?;
    input_that_panics_after(2000)
}

/// Earlier items arrive from `imap`, then the panic reaches the caller; the pool stays usable.
fn input_that_panics_after(end: u64) -> Outcome {
    let pool = Pool::new(2)?;
    assert_eq!(panic_of(|| pool.map(square, numbers_until(end))), "out of numbers");
    assert_eq!(panic_of(|| pool.map_results(square, numbers_until(end))), "out of numbers");

    let mut arrived = Vec::new();
    let collect = || pool.imap(square, numbers_until(end)).for_each(|result| arrived.push(result.unwrap()));
    assert_eq!(panic_of(collect), "out of numbers");
    assert!(arrived.into_iter().eq((0..end).map(square)));

    let mut arrived = Vec::new();
    let collect =
        || pool.imap_unordered(square, numbers_until(end)).for_each(|result| arrived.push(result.unwrap()));
    assert_eq!(panic_of(collect), "out of numbers");
    arrived.sort_unstable();
    assert!(arrived.into_iter().eq((0..end).map(square)));

    assert_eq!(pool.map(square, 0..3)?, [0, 1, 4]);
    Ok(())
}
