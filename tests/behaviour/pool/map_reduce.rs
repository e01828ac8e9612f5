//! `map_reduce`: results that are merged in the workers.

use std::panic::AssertUnwindSafe;
use std::thread;
use std::time::Duration;

use multiproc::{Pool, SharedSlice};
use nix::sys::signal::{Signal, raise};

use super::square;
use crate::support::{Outcome, trials};

trials![
    what_is_behind_the_end_of_an_input_is_not_taken,
    batches_of_large_items_have_few,
    the_sum_of_any_number_of_items_is_right,
    results_are_merged_in_the_order_of_the_items,
    a_panic_names_its_item,
    a_panic_of_the_merge_is_an_error,
    a_death_names_the_items_of_its_batch_and_the_pool_goes_on,
    a_batch_runs_again_if_the_call_says_so,
    a_time_limit_is_that_of_an_item,
    items_may_hold_descriptors,
    an_input_that_panics_reaches_the_caller,
];

fn add(left: u64, right: u64) -> u64 {
    left + right
}

fn join(left: String, right: String) -> String {
    left + &right
}

fn the_sum_of_any_number_of_items_is_right() -> Outcome {
    let pool = Pool::new(3)?;
    for count in [0, 1, 2, 3, 10, 1_000, 100_000] {
        let sum = (0..count).map(square).reduce(add);
        assert_eq!(pool.map_reduce(square, add, 0..count)?, sum, "{count} items");
        let endless = (0..).take_while(|&n| n < count); // of unknown length
        assert_eq!(pool.map_reduce(square, add, endless)?, sum, "{count} items");
    }
    Ok(())
}

fn what_is_behind_the_end_of_an_input_is_not_taken() -> Outcome {
    let pool = Pool::new(2)?;
    for end in [1, 500, 1_003, 1_777] {
        let items = || (0..3_000).map_while(|number| (number != end).then_some(number));
        let sum = items().map(square).reduce(add);
        assert_eq!(pool.map_reduce(square, add, items())?, sum, "{end} items");
    }
    Ok(())
}

/// However fast they are: the program has some of the batches for each worker.
fn batches_of_large_items_have_few() -> Outcome {
    let pool = Pool::new(1)?;
    let length = |text: String| if text.starts_with('x') { std::process::abort() } else { text.len() };
    let items = (0..80).map(|number| if number == 70 { "x" } else { "-" }.repeat(1 << 20));
    let error = pool.map_reduce(length, |a: usize, b: usize| a + b, items).unwrap_err();
    let lost = error.items().unwrap();
    assert!(lost.contains(&70) && (1..=4).contains(&(lost.end - lost.start)), "{lost:?}");
    Ok(())
}

fn results_are_merged_in_the_order_of_the_items() -> Outcome {
    let pool = Pool::new(3)?;
    let digits = |number: u64| {
        thread::sleep(Duration::from_micros(number * 37 % 400));
        number.to_string() + ","
    };
    let expected: String = (0..2_000).map(|number| number.to_string() + ",").collect();
    assert_eq!(pool.map_reduce(digits, join, 0..2_000)?, Some(expected));
    Ok(())
}

fn a_panic_names_its_item() -> Outcome {
    let pool = Pool::new(2)?;
    let pids = pool.worker_pids();
    let fall = |number: u64| if number == 777 { panic!("shelf {number} fell") } else { number };
    let error = pool.map_reduce(fall, add, 0..1_000).unwrap_err();
    assert!(error.is_panic() && error.to_string().contains("shelf 777 fell"), "{error}");
    assert_eq!((error.index(), error.items()), (Some(777), Some(777..778)));
    assert!(error.pid().is_some_and(|pid| pids.contains(&pid)), "{error}");
    assert_eq!(pool.worker_pids(), pids);
    Ok(())
}

fn a_panic_of_the_merge_is_an_error() -> Outcome {
    let pool = Pool::new(2)?;
    let error = pool.map_reduce(square, |_: u64, _: u64| panic!("no sum"), 0..100).unwrap_err();
    assert!(error.is_panic() && error.to_string().contains("no sum"), "{error}");
    Ok(())
}

fn a_death_names_the_items_of_its_batch_and_the_pool_goes_on() -> Outcome {
    let pool = Pool::new(2)?;
    let die = |number: u64| if number == 5_000 { raise(Signal::SIGKILL).map_or(0, |()| 0) } else { number };
    let error = pool.map_reduce(die, add, 0..10_000).unwrap_err();
    let items = error.items().unwrap_or_default();
    assert!(error.signal() == Some(9) && items.contains(&5_000), "{error}: {items:?}");
    let count = items.end - items.start;
    assert_eq!(error.index().is_some(), count == 1);
    if count > 1 {
        let text = format!("while running tasks {} to {}", items.start, items.end - 1);
        assert!(error.to_string().contains(&text), "{error}");
    }
    assert_eq!(pool.map_reduce(square, add, 0..10)?, Some(285));
    Ok(())
}

fn a_batch_runs_again_if_the_call_says_so() -> Outcome {
    let pool = Pool::new(2)?;
    let first_workers = pool.worker_pids();
    let die_once = |(number, first_workers): (u64, Vec<u32>)| {
        if number == 3_000 && first_workers.contains(&std::process::id()) {
            let _ = raise(Signal::SIGKILL);
        }
        number
    };
    let items = (0..5_000).map(|number| (number, first_workers.clone()));
    // The retry may run on the other one of the first workers.
    assert_eq!(pool.options().retries(2).map_reduce(die_once, add, items)?, Some((0..5_000).sum()));
    assert_ne!(pool.worker_pids(), first_workers);
    Ok(())
}

fn a_time_limit_is_that_of_an_item() -> Outcome {
    let pool = Pool::new(2)?;
    let pause = |millis: u64| {
        thread::sleep(Duration::from_millis(millis));
        millis
    };
    let call = pool.options().timeout(Duration::from_secs(20));
    assert_eq!(call.map_reduce(pause, add, vec![1; 200])?, Some(200));
    let call = pool.options().timeout(Duration::from_millis(300));
    let error = call.map_reduce(pause, add, [3_600_000, 0, 0, 0]).unwrap_err();
    assert!(error.is_timeout() && error.index() == Some(0), "{error}");
    Ok(())
}

fn items_may_hold_descriptors() -> Outcome {
    let numbers = SharedSlice::from_slice(&(0..1_000).collect::<Vec<u64>>())?;
    let pool = Pool::new(2)?;
    let part = |(numbers, at): (SharedSlice<u64>, usize)| numbers[at..at + 10].iter().sum::<u64>();
    let items = (0..1_000).step_by(10).map(|at| (numbers.clone(), at));
    assert_eq!(pool.map_reduce(part, add, items)?, Some(499_500));
    Ok(())
}

fn an_input_that_panics_reaches_the_caller() -> Outcome {
    let pool = Pool::new(2)?;
    let input = (0..100).map(|number| if number == 50 { panic!("no more") } else { number });
    let panic =
        std::panic::catch_unwind(AssertUnwindSafe(|| pool.map_reduce(square, add, input))).unwrap_err();
    assert_eq!(panic.downcast_ref(), Some(&"no more"));
    assert_eq!(pool.map_reduce(square, add, 0..10)?, Some(285));
    Ok(())
}
