//! `apply`, `map` and `starmap`.

use std::sync::{Arc, Mutex};
use std::time::Duration;
use std::{fs, thread};

use multiproc::pool::{PoolBuilder, TaskHandle};
use multiproc::queue::{Sender, bounded};
use multiproc::{Connection, Error, Pool, Result, pipe};

use super::{blocked_task, square};
use crate::support::{Outcome, alone, eventually, trials};

trials![
    apply_gives_what_the_function_returns,
    apply_does_not_wake_the_pools_own_thread,
    map_equals_the_serial_result_at_any_chunk_size,
    map_of_a_million_items_is_right_to_the_last,
    starmap_hands_each_tuple_over_as_arguments,
    empty_input_ends_every_method_at_once,
    large_arguments_and_results_arrive_equal,
    several_threads_use_one_pool,
    ends_of_queues_and_pipes_are_arguments_of_tasks,
    a_result_that_takes_long_to_decode_delays_no_other_call,
];

fn apply_gives_what_the_function_returns() -> Outcome {
    let pool = Pool::new(2)?;
    assert_eq!(pool.apply(|| "nothing in, this out".to_owned(), ())?, "nothing in, this out");
    assert_eq!(
        pool.apply(|a: u8, b: String, c: Option<bool>| (c, b, a), (1, "two".to_owned(), None))?,
        (None, "two".to_owned(), 1)
    );
    Ok(())
}

/// A wake-up would take longer than the task, and the calling thread drives the pool itself.
fn apply_does_not_wake_the_pools_own_thread() -> Outcome {
    alone(|| {
        let pool = Pool::new(1)?;
        pool.apply(square, (1,))?; // the worker is up
        let before = naps_of_the_pools_thread();
        // While there is work, the thread polls twice a second; its last poll may be due.
        thread::sleep(Duration::from_millis(600));
        for number in 0..60 {
            thread::sleep(Duration::from_millis(1)); // it has time to fall asleep again, if it is awake
            assert_eq!(pool.apply(square, (number,))?, square(number));
        }
        let naps = naps_of_the_pools_thread() - before;
        assert!(naps < 8, "it fell asleep {naps} times");
        Ok(())
    })
}

/// How often the thread of this process's only pool has gone to sleep.
fn naps_of_the_pools_thread() -> u64 {
    let mut naps = None;
    eventually("the pool's thread has its name", || {
        let tasks = fs::read_dir("/proc/self/task").unwrap();
        let statuses = tasks.filter_map(|task| fs::read_to_string(task.unwrap().path().join("status")).ok());
        let status = statuses.filter(|status| status.starts_with("Name:\tmp-pool\n")).last();
        let line = |status: String| {
            let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
            line.trim().parse().ok()
        };
        naps = status.and_then(line);
        naps.is_some()
    });
    naps.unwrap()
}

fn map_equals_the_serial_result_at_any_chunk_size() -> Outcome {
    for chunk_size in [None, Some(1), Some(2), Some(7), Some(64), Some(10_000)] {
        let builder = Pool::builder().workers(3);
        let pool = chunk_size.into_iter().fold(builder, PoolBuilder::chunk_size).build()?;
        for length in [0, 1, 2, 3, 100, 5000] {
            let serial: Vec<u64> = (0..length).map(square).collect();
            assert_eq!(pool.map(square, 0..length)?, serial, "{length} items, chunks of {chunk_size:?}");
            assert_eq!(pool.map_results(square, 0..length)?.into_iter().collect::<Result<Vec<_>>>()?, serial);
        }
    }
    Ok(())
}

fn map_of_a_million_items_is_right_to_the_last() -> Outcome {
    let squares = Pool::new(2)?.map(square, 0..1_000_000)?;
    assert_eq!(squares.len(), 1_000_000);
    assert!((0..).zip(squares).all(|(number, squared)| squared == square(number)));
    Ok(())
}

fn starmap_hands_each_tuple_over_as_arguments() -> Outcome {
    let pool = Pool::new(2)?;
    let repeat = |text: String, times: usize| text.repeat(times);
    let items = || (0..50).map(|times| (times.to_string(), times % 5));
    let serial: Vec<String> = items().map(|(text, times)| repeat(text, times)).collect();
    assert_eq!(pool.starmap(repeat, items())?, serial);
    assert_eq!(pool.starmap_results(repeat, items())?.into_iter().collect::<Result<Vec<_>>>()?, serial);
    Ok(())
}

fn empty_input_ends_every_method_at_once() -> Outcome {
    let pool = Pool::new(1)?;
    let (task, latch) = blocked_task(&pool)?; // the only worker is busy, so no method may wait for it
    assert!(pool.map(square, [])?.is_empty());
    assert!(pool.map_results(square, [])?.is_empty());
    assert!(pool.starmap(square, [(0_u64,); 0])?.is_empty());
    assert!(pool.starmap_results(square, [(0_u64,); 0])?.is_empty());
    assert!(pool.imap(square, []).next().is_none());
    assert!(pool.imap_unordered(square, []).next().is_none());
    drop(latch);
    Ok(task.get()?)
}

fn large_arguments_and_results_arrive_equal() -> Outcome {
    let pool = Pool::new(2)?;
    let reverse = |mut bytes: Vec<u8>| {
        bytes.reverse();
        bytes
    };
    for size in [32 * 1024 - 20, 32 * 1024, 450_000] {
        let items: Vec<Vec<u8>> = (0..6).map(|byte| [vec![byte; size], vec![99]].concat()).collect();
        let serial: Vec<Vec<u8>> = items.iter().cloned().map(reverse).collect();
        let handles: Vec<_> =
            items.iter().map(|item| pool.submit(reverse, (item.clone(),))).collect::<Result<_>>()?;
        assert!(pool.map(reverse, items)? == serial, "{size} bytes by map");
        for (handle, expected) in handles.into_iter().zip(serial) {
            assert!(handle.get()? == expected, "{size} bytes by submit");
        }
    }
    Ok(())
}

fn several_threads_use_one_pool() -> Outcome {
    let pool = Pool::new(2)?;
    let use_it = |thread: u64| -> Result<()> {
        for round in 0..20 {
            let range = thread * 1000..thread * 1000 + round * 10;
            assert!(pool.map(square, range.clone())?.into_iter().eq(range.map(square)));
            assert_eq!(pool.apply(square, (thread,))?, square(thread));
        }
        Ok(())
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|thread| scope.spawn(move || use_it(thread))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap())
    })?;
    Ok(())
}

fn ends_of_queues_and_pipes_are_arguments_of_tasks() -> Outcome {
    let pool = Pool::new(2)?;
    let (sender, receiver) = bounded(10)?;
    let put = |number: u32, sender: Sender<u32>| sender.send(number).map_err(Error::from);
    for put in pool.starmap(put, (0..8).map(|number| (number, sender.clone())))? {
        put?;
    }
    drop(sender);
    let mut numbers: Vec<u32> = receiver.into_iter().collect::<Result<_>>()?;
    numbers.sort_unstable();
    assert!(numbers.into_iter().eq(0..8));

    let (ours, theirs) = pipe::<u32, u32>()?;
    let task = pool.submit(|peer: Connection<u32, u32>| peer.send(peer.recv().unwrap() + 1), (theirs,))?;
    ours.send(1)?;
    assert_eq!(ours.recv()?, 2);
    Ok(task.get()??)
}

/// A number that takes long to decode, if `WHEN_DECODED` says so.
#[derive(serde::Serialize)]
struct Heavy(u64);

type WhenDecoded = Box<dyn Fn(u64) + Send>;

static WHEN_DECODED: Mutex<Option<WhenDecoded>> = Mutex::new(None);

impl<'de> serde::Deserialize<'de> for Heavy {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let number = u64::deserialize(deserializer)?;
        if let Some(when_decoded) = &*WHEN_DECODED.lock().unwrap() {
            when_decoded(number);
        }
        Ok(Self(number))
    }
}

/// The first result is slow to decode. The decoding of the second waits for the results of another call,
/// whose tasks are far more than workers get ahead.
fn a_result_that_takes_long_to_decode_delays_no_other_call() -> Outcome {
    alone(|| {
        const OTHERS: u32 = 2_000;
        let pool = Arc::new(Pool::builder().workers(1).chunk_size(1).build()?);
        let (tell, told) = bounded::<u32>(OTHERS)?;
        let others = Arc::clone(&pool);
        let when_decoded = move |number: u64| match number {
            0 => thread::sleep(Duration::from_millis(50)),
            1 => {
                let say = |number, tell: Sender<u32>| tell.send(number).map_err(Error::from);
                let tasks = (0..OTHERS).map(|number| others.submit(say, (number, tell.clone())));
                let tasks: Vec<TaskHandle<_>> = tasks.map(Result::unwrap).collect();
                assert!((0..OTHERS).all(|number| told.recv().unwrap() == number));
                drop(tasks);
            }
            _ => {}
        };
        *WHEN_DECODED.lock().unwrap() = Some(Box::new(when_decoded));
        let results = pool.map(Heavy, 0..4)?;
        assert!(results.iter().map(|heavy| heavy.0).eq(0..4));
        Ok(())
    })
}
