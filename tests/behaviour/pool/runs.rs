//! Items so small that a worker claims many of them at once: what ends one of them ends no other.

use std::sync::OnceLock;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::Duration;

use multiproc::sync::Atomic;
use multiproc::{Pool, Result};
use nix::sys::signal::{Signal, raise};
use nix::time::{ClockId, clock_gettime};

use super::{HOUR, square};
use crate::support::{Outcome, eventually, send_signal, trials, wait_for_state};

trials![
    a_death_among_small_items_fails_just_one,
    a_panic_among_small_items_fails_just_one,
    a_time_limit_among_small_items_fails_just_one,
    small_items_behind_a_slow_one_do_not_wait_for_it,
    a_small_item_behind_a_stopped_one_can_be_cancelled,
    values_of_each_size_arrive_in_order,
];

/// How often each item has begun.
static BEGUN: OnceLock<Atomic<[u32]>> = OnceLock::new();

fn count_in(begun: Atomic<[u32]>) {
    BEGUN.set(begun).unwrap_or_else(|_| panic!("set twice"));
}

fn begin(number: u64) -> usize {
    let index = usize::try_from(number).unwrap();
    BEGUN.get().unwrap()[index].fetch_add(1, Relaxed);
    index
}

const ITEMS: usize = 200_000;

fn is_unlucky(index: usize) -> bool {
    index % 17_977 == 9_000
}

fn die_if_unlucky(number: u64) -> u64 {
    if is_unlucky(begin(number)) {
        raise(Signal::SIGKILL).unwrap();
    }
    square(number)
}

fn panic_if_unlucky(number: u64) -> u64 {
    assert!(!is_unlucky(begin(number)), "{number} is unlucky");
    square(number)
}

/// Each item begins once; the unlucky ones alone fail.
fn run_all(function: fn(&Pool) -> Result<Vec<Result<u64>>>) -> Result<(Vec<multiproc::Error>, bool)> {
    let begun = Atomic::from_slice(&vec![0_u32; ITEMS])?;
    let pool = Pool::builder().workers(2).initializer(count_in, (begun.clone(),)).build()?;
    let before = pool.worker_pids();
    let outcomes = function(&pool)?;
    assert_eq!(outcomes.len(), ITEMS);
    let mut errors = Vec::new();
    for (index, outcome) in outcomes.into_iter().enumerate() {
        assert_eq!(begun[index].load(Relaxed), 1, "item {index}");
        assert_eq!(outcome.is_err(), is_unlucky(index), "item {index}: {outcome:?}");
        match outcome {
            Ok(value) => assert_eq!(value, square(index as u64)),
            Err(error) => {
                assert_eq!(error.index(), Some(index as u64));
                errors.push(error);
            }
        }
    }
    Ok((errors, pool.worker_pids() == before))
}

fn a_death_among_small_items_fails_just_one() -> Outcome {
    let (errors, _) = run_all(|pool| pool.map_results(die_if_unlucky, 0..ITEMS as u64))?;
    assert!(errors.iter().all(|error| error.signal() == Some(9)), "{errors:?}");
    Ok(())
}

fn a_panic_among_small_items_fails_just_one() -> Outcome {
    let (errors, are_the_same) = run_all(|pool| pool.map_results(panic_if_unlucky, 0..ITEMS as u64))?;
    assert!(errors.iter().all(multiproc::Error::is_panic), "{errors:?}");
    assert!(are_the_same, "the workers live");
    Ok(())
}

/// The others run before it with the same workers, without a limit, and after it.
fn a_time_limit_among_small_items_fails_just_one() -> Outcome {
    let sleep = |number: u64| {
        if number == 1_234 {
            thread::sleep(HOUR);
        }
        square(number)
    };
    let pool = Pool::new(2)?;
    pool.map(square, 0..100_000)?;
    let outcomes = pool.options().timeout(Duration::from_secs(2)).map_results(sleep, 0..3_000)?;
    for (number, outcome) in (0..).zip(outcomes) {
        match outcome {
            Ok(value) => assert_eq!(value, square(number)),
            Err(error) => assert!(error.is_timeout() && number == 1_234, "{number}: {error}"),
        }
    }
    Ok(())
}

/// The time since boot, which is the same in all processes, in nanoseconds.
fn clock() -> u64 {
    let time: Duration = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap().into();
    u64::try_from(time.as_nanos()).unwrap()
}

const SLOW: u64 = 50_013;

/// Returns its end time.
fn be_slow_once(number: u64) -> u64 {
    if number == SLOW {
        thread::sleep(Duration::from_secs(3));
    }
    clock()
}

fn small_items_behind_a_slow_one_do_not_wait_for_it() -> Outcome {
    let ends = Pool::new(2)?.map(be_slow_once, 0..100_000)?;
    let slow = ends[usize::try_from(SLOW)?];
    let late = ends.iter().filter(|&&end| end > slow).count();
    assert_eq!(late, 0, "items that waited for the slow one");
    Ok(())
}

/// Item 0 stops its worker.
fn stop_at_0(number: u64) -> u64 {
    if begin(number) == 0 {
        raise(Signal::SIGSTOP).unwrap();
    }
    square(number)
}

fn a_small_item_behind_a_stopped_one_can_be_cancelled() -> Outcome {
    let begun = Atomic::from_slice(&vec![0_u32; 100_000])?;
    let pool = Pool::builder().workers(1).initializer(count_in, (begun.clone(),)).build()?;
    pool.map(stop_at_0, 1..100_000)?; // they are small, so the next ones are claimed together
    let worker = pool.worker_pids()[0];
    send_signal(worker, Signal::SIGSTOP);
    wait_for_state(worker, 'T');
    let tasks: Vec<_> = (0..9).map(|number| pool.submit(stop_at_0, (number,))).collect::<Result<_>>()?;
    send_signal(worker, Signal::SIGCONT);
    eventually("item 0 has begun", || begun[0].load(Relaxed) == 1);
    wait_for_state(worker, 'T');
    assert!(tasks[4].cancel(), "it has not begun");
    assert_eq!(begun[4].load(Relaxed), 1, "in the call before, and not again");
    send_signal(worker, Signal::SIGCONT);
    for (number, task) in (0..).zip(tasks) {
        match task.get() {
            Ok(value) => assert_eq!((value, number == 4), (square(number), false)),
            Err(error) => assert!(error.is_cancelled() && number == 4, "{number}: {error}"),
        }
    }
    assert_eq!(pool.worker_pids(), [worker], "a worker that runs another item is not killed");
    Ok(())
}

/// Items and results lie side by side in arrays, of which each begins at a multiple of 8.
fn values_of_each_size_arrive_in_order() -> Outcome {
    let pool = Pool::new(2)?;
    let low: Vec<u8> = pool.map(|number: u32| number.to_le_bytes()[0], 0..100_000)?;
    assert!(low.into_iter().zip((0..=255_u8).cycle()).all(|(byte, expected)| byte == expected));
    let is_odd = pool.map(|number: u16| number % 2 == 1, 0..60_000)?;
    assert!((0..60_000).zip(is_odd).all(|(number, is_odd)| (number % 2 == 1) == is_odd));
    let wide = pool.map(|number: u8| u128::from(number) << 100, (0..=255).cycle().take(50_000))?;
    assert!((0..=255_u8).cycle().zip(wide).all(|(number, wide)| u128::from(number) << 100 == wide));
    let letters =
        pool.map(|is_upper: bool| if is_upper { 'Ä' } else { 'ä' }, (0..20_000).map(|n| n % 3 == 0))?;
    assert!((0..).zip(letters).all(|(n, letter)| letter == if n % 3 == 0 { 'Ä' } else { 'ä' }));
    let texts: Vec<String> =
        pool.imap(|number: i64| number.to_string(), -9..20_000).collect::<Result<_>>()?;
    assert!((-9..20_000).zip(texts).all(|(number, text)| number.to_string() == text));
    Ok(())
}
