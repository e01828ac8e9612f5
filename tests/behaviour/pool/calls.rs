//! Calls for many items: `map` and its sisters.

use std::any::Any;
use std::cell::Cell;
use std::fs;
use std::iter::once;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use multiproc::pool::{PoolBuilder, TaskHandle};
use multiproc::queue::{Sender, bounded};
use multiproc::{Connection, Error, Pool, Result, pipe};

use super::{blocked_task, square, zero_waits};
use crate::support::{BadValue, Outcome, PATIENCE, alone, eventually, trials};

trials![
    apply_gives_what_the_function_returns,
    apply_does_not_wake_the_pools_own_thread,
    map_equals_the_serial_result_at_any_chunk_size,
    map_of_a_million_items_is_right_to_the_last,
    starmap_hands_each_tuple_over_as_arguments,
    empty_input_ends_every_method_at_once,
    imap_keeps_order_and_ends,
    imap_unordered_gives_each_result_once_and_as_soon_as_it_is_there,
    imap_takes_its_input_only_so_far_ahead,
    imap_does_not_run_ahead_of_a_slow_first_item,
    a_result_comes_before_more_of_a_slow_input_is_taken,
    an_input_may_wait_for_the_result_before_it,
    no_more_of_the_input_is_taken_than_the_buffer_holds,
    an_imap_dropped_midway_leaves_the_pool_usable,
    an_input_iterator_that_panics_at_the_start,
    an_input_iterator_that_panics_midway,
    large_arguments_and_results_arrive_equal,
    a_result_that_takes_long_to_decode_holds_nobody_up,
    several_threads_use_one_pool,
    ends_of_queues_and_pipes_are_arguments_of_tasks,
    an_end_of_a_queue_is_not_a_result,
    an_argument_that_does_not_encode_is_the_error_of_its_item,
    an_argument_that_does_not_decode_is_the_error_of_its_item,
    a_result_that_does_not_encode_is_the_error_of_its_item_and_no_worker_is_lost,
    a_result_that_does_not_decode_is_the_error_of_its_item,
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

/// That would take longer than the task. It is not needed, as the caller sees to the task itself.
fn apply_does_not_wake_the_pools_own_thread() -> Outcome {
    alone(|| {
        let pool = Pool::new(1)?;
        pool.apply(square, (1,))?; // the worker is up
        let before = naps_of_the_pools_thread();
        thread::sleep(Duration::from_millis(600)); // while there is work it looks twice a second, and may do so for the last time
        for number in 0..60 {
            thread::sleep(Duration::from_millis(1)); // it has time to fall asleep again, if it is awake
            assert_eq!(pool.apply(square, (number,))?, square(number));
        }
        let naps = naps_of_the_pools_thread() - before;
        assert!(naps < 8, "it fell asleep {naps} times");
        Ok(())
    })
}

/// How many times the thread of this process's one pool has gone to sleep.
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
    let (task, gate) = blocked_task(&pool)?; // the only worker is busy, so no method may wait for it
    assert!(pool.map(square, [])?.is_empty());
    assert!(pool.map_results(square, [])?.is_empty());
    assert!(pool.starmap(square, [(0_u64,); 0])?.is_empty());
    assert!(pool.starmap_results(square, [(0_u64,); 0])?.is_empty());
    assert!(pool.imap(square, []).next().is_none());
    assert!(pool.imap_unordered(square, []).next().is_none());
    drop(gate);
    Ok(task.get()?)
}

fn imap_keeps_order_and_ends() -> Outcome {
    let pool = Pool::new(2)?;
    assert!(pool.imap(square, 0..1000).map(Result::unwrap).eq((0..1000).map(square)));
    let (gate, theirs) = pipe()?;
    let mut results = pool.imap(zero_waits, [(0, Some(theirs)), (1, None), (2, Some(gate))]);
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

    let (gate, theirs) = pipe()?;
    let mut results = pool.imap_unordered(zero_waits, [(0, Some(theirs)), (1, None), (2, None)]);
    let mut early = [results.next().transpose()?, results.next().transpose()?];
    early.sort_unstable();
    assert_eq!(early, [Some(1), Some(2)], "the first item waits at its gate");
    drop(gate);
    assert_eq!(results.next().transpose()?, Some(0));
    assert!(results.next().is_none());
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
    let (gate, theirs) = pipe()?;
    let endless = once((0, Some(theirs))).chain((1..).map(|number| (number, None)));
    let taken = AtomicU32::new(0);
    let endless = endless.inspect(|_| {
        taken.fetch_add(1, SeqCst);
    });
    // The first item waits until too many others were taken, or it becomes clear that they will not be.
    let open_later = || {
        let start = Instant::now();
        while taken.load(SeqCst) < FAR_AHEAD && start.elapsed() < Duration::from_millis(100) {
            thread::yield_now();
        }
        drop(gate);
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
        std::iter::from_fn(|| Some(input.recv_timeout(PATIENCE).unwrap())) // it comes after the result before
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

/// Numbers from 0 on; instead of number `end` comes a panic.
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

/// Earlier items arrive where results come singly, then the panic comes to the caller; the pool stays usable.
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

fn an_end_of_a_queue_is_not_a_result() -> Outcome {
    let pool = Pool::new(1)?;
    let error = pool.apply(|| bounded::<u32>(1).unwrap().0, ()).unwrap_err();
    assert!(
        error.is_codec() && error.to_string().contains("not inside a queue's items or a result"),
        "{error}"
    );
    Ok(())
}

/// Five items of which the one in the middle is a misfit.
fn with_a_misfit(misfit: BadValue) -> [BadValue; 5] {
    [BadValue::Fine(0), BadValue::Fine(1), misfit, BadValue::Fine(3), BadValue::Fine(4)]
}

/// Whatever the method, item 2 fails, with an error that begins so, and all others come through.
fn only_the_misfit_fails<F>(function: F, misfit: BadValue, beginning: &str) -> Result<()>
where
    F: multiproc::RemoteFn<(BadValue,), Output = BadValue>,
{
    let pool = Pool::new(2)?;
    let items = || with_a_misfit(misfit);
    let error = pool.map(function, items()).unwrap_err();
    for fates in [
        pool.map_results(function, items())?,
        pool.starmap_results(function, items().map(|item| (item,)))?,
        pool.imap(function, items()).collect(),
    ] {
        assert_eq!(fates.len(), 5);
        for (i, (fate, item)) in fates.into_iter().zip(items()).enumerate() {
            match fate {
                Ok(value) => assert_eq!((value, i != 2), (item, true)),
                Err(same) => {
                    assert_eq!((i, same.index(), same.is_codec()), (2, error.index(), true), "{same}");
                }
            }
        }
    }
    assert_eq!(pool.imap_unordered(function, items()).filter(Result::is_err).count(), 1);
    assert!(pool.apply(function, (misfit,)).unwrap_err().is_codec());
    assert!(pool.submit(function, (misfit,)).and_then(TaskHandle::get).unwrap_err().is_codec());
    assert_eq!(error.index(), Some(2));
    assert!(error.to_string().starts_with(beginning), "{error}");
    Ok(())
}

fn an_argument_that_does_not_encode_is_the_error_of_its_item() -> Outcome {
    Ok(only_the_misfit_fails(|item: BadValue| item, BadValue::Unencodable, "cannot encode the arguments")?)
}

fn an_argument_that_does_not_decode_is_the_error_of_its_item() -> Outcome {
    Ok(only_the_misfit_fails(|item: BadValue| item, BadValue::Undecodable, "cannot decode the arguments")?)
}

fn a_result_that_does_not_encode_is_the_error_of_its_item_and_no_worker_is_lost() -> Outcome {
    let pool = Pool::new(2)?;
    let pids = pool.worker_pids();
    let keep_odd = |number: u32| if number % 2 == 1 { BadValue::Fine(number) } else { BadValue::Unencodable };
    for round in 0..20 {
        for (number, fate) in (0..).zip(pool.map_results(keep_odd, 0..10)?) {
            match fate {
                Ok(value) => assert_eq!(value, BadValue::Fine(number)),
                Err(error) => {
                    assert_eq!((error.index(), number % 2), (Some(number.into()), 0), "{error}");
                    assert!(error.to_string().starts_with("cannot encode the result"), "{error}");
                }
            }
        }
        assert_eq!(pool.worker_pids(), pids, "in round {round}");
    }
    Ok(())
}

fn a_result_that_does_not_decode_is_the_error_of_its_item() -> Outcome {
    let pool = Pool::new(2)?;
    let fates = pool.map_results(
        |number| if number == 2 { BadValue::Undecodable } else { BadValue::Fine(number) },
        0..5,
    )?;
    for (number, fate) in (0..).zip(fates) {
        match fate {
            Ok(value) => assert_eq!((value, number != 2), (BadValue::Fine(number), true)),
            Err(error) => assert_eq!((error.index(), error.is_codec()), (Some(2), true), "{error}"),
        }
    }
    Ok(())
}

/// A number that takes long to decode, where somebody has said so.
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

/// After the first one, the decoding of which takes some time, the second waits until others have got what
/// they want: that is much more than what workers are given ahead.
fn a_result_that_takes_long_to_decode_holds_nobody_up() -> Outcome {
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
