//! Tasks begin in the order in which they were submitted, whatever one of them takes; and withdrawing them
//! costs little.

use std::collections::VecDeque;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use multiproc::pool::TaskHandle;
use multiproc::queue::{Receiver, Sender, bounded};
use multiproc::{Pool, Result};
use nix::time::{ClockId, clock_gettime};

use super::{blocked_task, square};
use crate::support::{Outcome, TEST_TIMEOUT, trials};

trials![
    a_submitted_task_behind_a_slow_one_is_not_overtaken_by_all_that_come_later,
    an_item_of_a_map_behind_a_slow_one_is_not_overtaken_by_all_that_come_later,
    an_item_of_an_imap_behind_a_slow_one_is_not_overtaken_by_all_that_come_later,
    what_is_behind_a_slow_item_begins_long_before_what_is_at_the_end,
    to_cancel_many_tasks_takes_no_longer_than_some_times_to_submit_them,
];

/// The latch of the slow item, and the sender for each other item that has ended.
static HELD: OnceLock<(Receiver<()>, Sender<u64>)> = OnceLock::new();

fn hold(latch: Receiver<()>, done: Sender<u64>) {
    let _ = HELD.set((latch, done));
}

/// Item 0 is slow.
fn work(number: u64) {
    let (latch, done) = HELD.get().unwrap();
    match number {
        0 => latch.recv().unwrap(),
        _ => done.send(number).unwrap(),
    }
}

fn nap(millis: u64) {
    thread::sleep(Duration::from_millis(millis));
}

/// Submits tasks of which the first is slow, while other calls keep the pool busy. All but the first must
/// end.
fn under_steady_load(submit: fn(&Pool) -> Result<()>) -> Outcome {
    let (open, latch) = bounded(1)?;
    let (done, ended) = bounded(100)?;
    let pool = Pool::builder().workers(2).initializer(hold, (latch, done)).build()?;
    for _ in 0..5 {
        let is_over = AtomicBool::new(false);
        let came = thread::scope(|scope| {
            scope.spawn(|| {
                let mut flow = VecDeque::new();
                while !is_over.load(Ordering::Relaxed) {
                    while flow.len() < 8 {
                        flow.push_back(pool.submit(nap, (2,)).unwrap());
                    }
                    flow.pop_front().map_or(Ok(()), TaskHandle::get).unwrap();
                }
            });
            let tasks = scope.spawn(|| submit(&pool));
            let came = (0..3).map_while(|_| ended.recv_timeout(TEST_TIMEOUT).ok()).count();
            open.send(()).unwrap();
            tasks.join().unwrap().unwrap();
            is_over.store(true, Ordering::Relaxed);
            came
        });
        assert_eq!(came, 3, "the others wait for the slow one");
    }
    Ok(())
}

fn a_submitted_task_behind_a_slow_one_is_not_overtaken_by_all_that_come_later() -> Outcome {
    under_steady_load(|pool| {
        let tasks: Vec<_> = (0..4).map(|number| pool.submit(work, (number,))).collect::<Result<_>>()?;
        tasks.into_iter().try_for_each(TaskHandle::get)
    })
}

fn an_item_of_a_map_behind_a_slow_one_is_not_overtaken_by_all_that_come_later() -> Outcome {
    under_steady_load(|pool| pool.map(work, 0..4).map(drop))
}

fn an_item_of_an_imap_behind_a_slow_one_is_not_overtaken_by_all_that_come_later() -> Outcome {
    under_steady_load(|pool| pool.imap(work, 0..4).collect())
}

/// Returns its start time.
fn first_is_slow(number: u64) -> Duration {
    let begun = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap().into();
    nap(if number == 0 { 2_000 } else { 2 });
    begun
}

/// While one worker has the slow item, the other runs the rest.
fn what_is_behind_a_slow_item_begins_long_before_what_is_at_the_end() -> Outcome {
    let pool = Pool::new(2)?;
    let submitted: Vec<_> =
        (0..400).map(|number| pool.submit(first_is_slow, (number,))).collect::<Result<_>>()?;
    let submitted = submitted.into_iter().map(TaskHandle::get).collect::<Result<Vec<_>>>()?;
    for begun in [submitted, pool.map(first_is_slow, 0..400)?] {
        let early = begun[1..10].iter().max();
        let later = begun.iter().filter(|begun| early > Some(begun)).count();
        assert!(later < 200, "{later} of 400 began before one of the first ten");
    }
    Ok(())
}

fn to_cancel_many_tasks_takes_no_longer_than_some_times_to_submit_them() -> Outcome {
    let pool = Pool::new(1)?;
    let (slow, latch) = blocked_task(&pool)?;
    let ratio = || -> Result<f64> {
        let start = Instant::now();
        let tasks: Vec<_> =
            (0..40_000).map(|number| pool.submit(square, (number,))).collect::<Result<_>>()?;
        let submitted = start.elapsed();
        let start = Instant::now();
        assert!(tasks.iter().all(TaskHandle::cancel));
        let cancelled = start.elapsed();
        assert!(tasks.into_iter().all(|task| task.get().is_err_and(|error| error.is_cancelled())));
        Ok(cancelled.as_secs_f64() / submitted.as_secs_f64())
    };
    // Other load may slow down one of the two.
    let ratios = [ratio()?, ratio()?, ratio()?];
    assert!(ratios.iter().any(|&ratio| ratio < 10.0), "{ratios:?}");
    drop(latch);
    Ok(slow.get()?)
}
