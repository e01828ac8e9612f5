//! Limits: of an item's time, of a worker's memory, and of how often an item is tried.
//!
//! Where a limit is short, an item that should be in time may not be, on a busy machine. So these tests
//! accept that of any item; but never two errors of one death.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use multiproc::pool::{PoolBuilder, TaskHandle};
use multiproc::queue::{Receiver, Sender, bounded};
use multiproc::{Connection, Pool, Process, Result, pipe};
use nix::sys::signal::{Signal, raise};

use super::{blocked_task, square};
use crate::support::{Latch, Outcome, PATIENCE, block, eventually, send_signal, trials, wait_for_state};

trials![
    an_item_that_takes_too_long_fails_alone,
    the_time_of_an_item_counts_from_its_beginning,
    a_timeout_needs_no_caller_who_waits,
    a_stopped_worker_is_timed_out,
    an_item_without_a_timeout_runs_on_among_those_that_have_one,
    items_that_end_as_their_time_does_come_to_one_result_each,
    a_kill_never_meets_the_item_behind,
    a_long_timeout_changes_nothing_and_none_at_all_is_refused,
    a_cancelled_task_ends_and_those_behind_it_run,
    a_stopped_task_can_be_cancelled,
    a_large_task_in_a_stopped_workers_hands_can_be_cancelled,
    a_task_that_is_cancelled_as_it_ends_is_either,
    a_task_that_wants_too_much_memory_fails_with_the_limit,
    the_memory_limit_holds_for_the_initializer_and_for_children,
    a_memory_limit_that_no_worker_can_do_with_is_one_clear_error,
    an_item_is_run_again_when_its_worker_dies,
    an_item_that_always_kills_is_run_so_often_and_no_more,
    a_large_item_is_run_again,
    an_item_with_descriptors_is_not_run_again,
    only_a_death_is_a_reason_to_run_an_item_again,
    a_pool_that_ends_runs_nothing_again,
    workers_that_die_at_birth_beside_one_that_lives_end_in_an_error,
    workers_that_die_as_soon_as_they_are_ready_are_not_replaced_for_ever_at_once,
    renewed_workers_with_deaths_and_timeouts_lose_nothing,
];

/// A short time, and one that no test waits for.
const SHORT: Duration = Duration::from_millis(100);
const HOUR: Duration = Duration::from_secs(3600);

/// No two of these errors are of one death, and each is of the item that it says.
fn each_is_a_death_of_its_own<R>(fates: &[Result<R>]) {
    let mut dead = BTreeSet::new();
    for (index, error) in (0..).zip(fates).filter_map(|(index, fate)| Some((index, fate.as_ref().err()?))) {
        assert_eq!(error.index(), Some(index), "{error}");
        assert!(dead.insert(error.pid().unwrap()), "two errors of one death: {error}");
    }
}

fn sleep_at_13(number: u64) -> u64 {
    if number == 13 {
        thread::sleep(HOUR);
    }
    square(number)
}

fn an_item_that_takes_too_long_fails_alone() -> Outcome {
    for chunk_size in [1, 100] {
        let pool = Pool::builder().workers(2).chunk_size(chunk_size).build()?;
        let fates = pool.options().timeout(SHORT).map_results(sleep_at_13, 0..100)?;
        assert_eq!(fates.len(), 100);
        each_is_a_death_of_its_own(&fates);
        for (number, fate) in (0..).zip(&fates) {
            match fate {
                Ok(value) => assert_eq!((*value, number != 13), (square(number), true)),
                Err(error) => assert!(error.is_timeout(), "{error}"),
            }
        }
        let error = fates[13].as_ref().unwrap_err();
        let pid = error.pid().unwrap();
        assert_eq!(
            error.to_string(),
            format!("worker {pid} was killed while running task 13, which took longer than 100ms")
        );
        eventually("the worker is replaced", || {
            let pids = pool.worker_pids();
            pids.len() == 2 && !pids.contains(&pid)
        });
        assert!(pool.map(square, 0..100)?.into_iter().eq((0..100).map(square)));
    }
    Ok(())
}

fn the_time_of_an_item_counts_from_its_beginning() -> Outcome {
    let pool = Pool::new(1)?;
    let (before, gate) = blocked_task(&pool)?;
    let late = pool.options().timeout(SHORT).submit(thread::sleep, (HOUR,))?;
    thread::sleep(3 * SHORT);
    assert!(!late.is_ready(), "it has not begun");
    let not_begun = Instant::now();
    drop(gate);
    assert!(late.get().unwrap_err().is_timeout());
    assert!(not_begun.elapsed() >= SHORT);
    Ok(before.get()?)
}

fn a_timeout_needs_no_caller_who_waits() -> Outcome {
    let pool = Pool::new(1)?;
    let task = pool.options().timeout(SHORT).submit(thread::sleep, (HOUR,))?;
    let pids = pool.worker_pids();
    eventually("the worker is replaced", || {
        let now = pool.worker_pids();
        now.len() == 1 && now != pids
    });
    assert!(task.get().unwrap_err().is_timeout());
    Ok(())
}

fn a_stopped_worker_is_timed_out() -> Outcome {
    let pool = Pool::new(2)?;
    let stop = || raise(Signal::SIGSTOP).unwrap();
    let error = pool.options().timeout(SHORT).apply(stop, ()).unwrap_err();
    assert!(error.is_timeout(), "{error}");
    let text = format!("worker {} was killed while running its task, which took", error.pid().unwrap());
    assert!(error.to_string().starts_with(&text), "{error}");
    Ok(())
}

fn an_item_without_a_timeout_runs_on_among_those_that_have_one() -> Outcome {
    let pool = Pool::new(2)?;
    let (task, gate) = blocked_task(&pool)?;
    for _ in 0..3 {
        let timed = pool.options().timeout(SHORT);
        assert!(timed.apply(thread::sleep, (HOUR,)).unwrap_err().is_timeout());
    }
    // Some of these wait in the mailbox of the worker that stays.
    let timed: Vec<_> = (0..20)
        .map(|number| pool.options().timeout(HOUR).submit(square, (number,)))
        .collect::<Result<_>>()?;
    drop(gate);
    task.get()?;
    for (number, task) in (0..).zip(timed) {
        assert_eq!(task.get()?, square(number));
    }
    Ok(())
}

/// Some end before the look at them, some after it and before the kill, and some never.
fn items_that_end_as_their_time_does_come_to_one_result_each() -> Outcome {
    let work = |number: u64| {
        thread::sleep(Duration::from_micros(1_000 + number * 7_919 % 2_000));
        square(number)
    };
    for chunk_size in [1, 20] {
        let pool = Pool::builder().workers(3).chunk_size(chunk_size).build()?;
        let fates = pool.options().timeout(Duration::from_millis(2)).map_results(work, 0..200)?;
        assert_eq!(fates.len(), 200);
        each_is_a_death_of_its_own(&fates);
        for (number, fate) in (0..).zip(fates) {
            match fate {
                Ok(value) => assert_eq!(value, square(number)),
                Err(error) => assert!(error.is_timeout(), "{error}"),
            }
        }
    }
    Ok(())
}

/// Behind each item whose time ends as it does there is one with all the time in the world.
fn a_kill_never_meets_the_item_behind() -> Outcome {
    let nap = |micros: u64| thread::sleep(Duration::from_micros(micros));
    let pool = Pool::new(1)?;
    let timed = pool.options().timeout(Duration::from_millis(1));
    for round in 0..10 {
        let tasks: Vec<_> = (0..20)
            .map(|number| {
                Ok((timed.submit(nap, (900 + 10 * number + round,))?, pool.submit(square, (number,))?))
            })
            .collect::<Result<_>>()?;
        for (number, (timed, free)) in (0..).zip(tasks) {
            let error = timed.get().err();
            assert!(error.as_ref().is_none_or(multiproc::Error::is_timeout), "{error:?}");
            assert_eq!(free.get()?, square(number));
        }
    }
    Ok(())
}

fn a_long_timeout_changes_nothing_and_none_at_all_is_refused() -> Outcome {
    let pool = Pool::new(2)?;
    for timeout in [HOUR, Duration::MAX] {
        let call = pool.options().timeout(timeout);
        let squares: Vec<u64> = (0..1000).map(square).collect();
        assert_eq!(call.map(square, 0..1000)?, squares);
        assert_eq!(call.imap(square, 0..1000).collect::<Result<Vec<_>>>()?, squares);
        let large = call.map(|bytes: Vec<u8>| bytes, (0..5).map(|byte| vec![byte; 100_000]))?;
        assert!(large.into_iter().eq((0..5).map(|byte| vec![byte; 100_000])));
        let fates =
            call.map_results(|number: u64| if number == 3 { panic!("three") } else { number }, 0..5)?;
        assert!(fates[3].as_ref().is_err_and(multiproc::Error::is_panic));
        assert_eq!(fates.into_iter().flatten().collect::<Vec<_>>(), [0, 1, 2, 4]);
    }
    let call = pool.options().timeout(Duration::ZERO);
    let errors = [
        call.submit(square, (1,)).unwrap_err(),
        call.map(square, [1]).unwrap_err(),
        call.imap(square, [1]).next().unwrap().unwrap_err(),
    ];
    for error in errors {
        assert!(error.to_string().contains("`timeout` must be greater than zero"), "{error}");
    }
    Ok(())
}

fn a_cancelled_task_ends_and_those_behind_it_run() -> Outcome {
    let pool = Pool::new(1)?;
    for _ in 0..5 {
        let (running, gate) = blocked_task(&pool)?;
        let behind: Vec<_> = (0..20).map(|number| pool.submit(square, (number,))).collect::<Result<_>>()?;
        assert!(running.cancel());
        assert!(!running.cancel(), "it is cancelled already");
        let error = running.get().unwrap_err();
        assert!(error.is_cancelled(), "{error}");
        let text = format!("the task was cancelled, and worker {} killed", error.pid().unwrap());
        assert!(error.to_string().starts_with(&text), "{error}");
        assert!(gate.recv().unwrap_err().is_disconnected(), "the task is gone");
        for (number, task) in (0..).zip(behind) {
            assert_eq!(task.get()?, square(number));
        }
    }
    Ok(())
}

fn a_stopped_task_can_be_cancelled() -> Outcome {
    let pool = Pool::new(2)?;
    let (ours, theirs) = pipe()?;
    let stop = |teller: Connection<u32, ()>| {
        teller.send(std::process::id()).unwrap();
        raise(Signal::SIGSTOP).unwrap();
    };
    let stopped = pool.submit(stop, (theirs,))?;
    wait_for_state(ours.recv()?, 'T');
    assert!(stopped.cancel());
    assert!(stopped.get().unwrap_err().is_cancelled());
    Ok(())
}

/// It cannot be had back, and it is not known whether it has begun.
fn a_large_task_in_a_stopped_workers_hands_can_be_cancelled() -> Outcome {
    let pool = Pool::new(1)?;
    let length = |bytes: Vec<u8>| bytes.len();
    assert_eq!(pool.apply(length, (vec![0; 100_000],))?, 100_000);
    send_signal(pool.worker_pids()[0], Signal::SIGSTOP);
    let large = pool.submit(length, (vec![0; 200_000],))?;
    let small = pool.submit(square, (5,))?;
    assert!(large.cancel());
    assert!(large.get().unwrap_err().is_cancelled());
    assert_eq!(small.get()?, 25);
    assert_eq!(pool.apply(length, (vec![0; 300_000],))?, 300_000);
    Ok(())
}

/// Works for so many microseconds.
fn spin(micros: u64) -> u64 {
    let start = Instant::now();
    while start.elapsed() < Duration::from_micros(micros) {
        std::hint::spin_loop();
    }
    micros
}

/// The time after which it is cancelled is made to come closer and closer to that.
fn a_task_that_is_cancelled_as_it_ends_is_either() -> Outcome {
    let pool = Pool::new(2)?;
    let mut time = Duration::from_micros(150);
    for _ in 0..300 {
        let (task, beside) = (pool.submit(spin, (100,))?, pool.submit(square, (5,))?);
        spin(u64::try_from(time.as_micros())?);
        let is_cancelled = task.cancel();
        match task.get() {
            Ok(micros) => {
                assert_eq!((micros, is_cancelled), (100, false));
                time = time.saturating_sub(Duration::from_micros(10));
            }
            Err(error) => {
                assert_eq!((error.is_cancelled(), is_cancelled), (true, true), "{error}");
                time += Duration::from_micros(10);
            }
        }
        assert_eq!(beside.get()?, 25);
    }
    Ok(())
}

const MIB: u64 = 1024 * 1024;

/// Uses so many MiB of memory.
fn use_memory(mebibytes: u64) -> u64 {
    let bytes = vec![7_u8; usize::try_from(mebibytes * MIB).unwrap()];
    std::hint::black_box(&bytes).len() as u64 / MIB
}

/// Whether so many MiB of memory can be had; touches none of it.
fn can_have(mebibytes: u64) -> bool {
    let bytes = Vec::<u8>::new().try_reserve(usize::try_from(mebibytes * MIB).unwrap());
    bytes.is_ok()
}

fn a_task_that_wants_too_much_memory_fails_with_the_limit() -> Outcome {
    let pool = Pool::builder().workers(2).memory_limit(64 * MIB).build()?;
    let fates = pool.map_results(use_memory, [1, 2, 500, 3, 30])?;
    assert_eq!(fates.iter().flatten().copied().collect::<Vec<_>>(), [1, 2, 3, 30]);
    let error = fates[2].as_ref().unwrap_err();
    let pid = error.pid().unwrap();
    assert_eq!(
        error.to_string(),
        format!("worker {pid} was killed by SIGABRT while running task 2; its memory was limited to 64 MiB")
    );
    assert_eq!(error.signal(), Some(6));
    assert_eq!(pool.map(use_memory, [4, 5])?, [4, 5]);
    Ok(())
}

static COULD_HAVE: OnceLock<bool> = OnceLock::new();

fn the_memory_limit_holds_for_the_initializer_and_for_children() -> Outcome {
    let look = || COULD_HAVE.set(can_have(500)).unwrap();
    let pool = Pool::builder().workers(1).memory_limit(64 * MIB).initializer(look, ()).build()?;
    assert!(!pool.apply(|| *COULD_HAVE.get().unwrap(), ())?);
    let child_can_have = |mebibytes| Process::spawn(can_have, (mebibytes,))?.join();
    assert!(!pool.apply(child_can_have, (500,))??);
    assert!(pool.apply(child_can_have, (30,))??);
    assert!(can_have(500), "this process has no limit");
    Ok(())
}

fn a_memory_limit_that_no_worker_can_do_with_is_one_clear_error() -> Outcome {
    let error = Pool::builder().memory_limit(0).build().unwrap_err();
    assert!(error.to_string().contains("`memory_limit` must be at least 1"), "{error}");
    let pool = Pool::builder().workers(2).memory_limit(4096).build()?;
    let error = pool.map(square, 0..3).unwrap_err();
    assert!(error.to_string().contains("memory limit 4 KiB is too low"), "{error}");
    let hungry = || assert_eq!(use_memory(500), 500);
    let pool = Pool::builder().workers(2).memory_limit(64 * MIB).initializer(hungry, ()).build()?;
    let text = pool.map(square, 0..3).unwrap_err().to_string();
    let end = "was killed by SIGABRT before it was ready for work; its memory was limited to 64 MiB";
    assert!(text.ends_with(end), "{text}");
    Ok(())
}

/// What each worker of a pool has: where it enters what it runs, and who of them is to die.
static BOOK: OnceLock<(Sender<u64>, Receiver<()>)> = OnceLock::new();

fn open_book(ledger: Sender<u64>, deaths: Receiver<()>) {
    assert!(BOOK.set((ledger, deaths)).is_ok());
}

/// Enters a number; gives the deaths that are still to be had.
fn enter(number: u64) -> &'static Receiver<()> {
    let (ledger, deaths) = BOOK.get().unwrap();
    ledger.send(number).unwrap();
    deaths
}

fn enter_and_maybe_die(number: u64) -> u64 {
    if enter(number).try_recv().is_ok() {
        raise(Signal::SIGKILL).unwrap();
    }
    square(number)
}

/// A pool with a book, and what reads it.
struct Bookkeeping {
    pool: Pool,
    entries: Receiver<u64>,
    _deaths: Sender<()>,
}

impl Bookkeeping {
    fn new(builder: PoolBuilder, deaths: u32) -> Result<Self> {
        let (ledger, entries) = bounded(1000)?;
        let (sender, receiver) = bounded(1000)?;
        sender.send_all((0..deaths).map(|_| ()))?;
        let pool = builder.initializer(open_book, (ledger, receiver)).build()?;
        Ok(Self { pool, entries, _deaths: sender })
    }

    /// Ends the pool; how often each number was entered.
    fn close(self) -> Result<BTreeMap<u64, u32>> {
        self.pool.join();
        let mut book = BTreeMap::new();
        for number in self.entries {
            *book.entry(number?).or_insert(0) += 1;
        }
        Ok(book)
    }
}

fn an_item_is_run_again_when_its_worker_dies() -> Outcome {
    for chunk_size in [1, 7, 100] {
        let books = Bookkeeping::new(Pool::builder().workers(3).chunk_size(chunk_size), 6)?;
        let squares = books.pool.options().retries(6).map(enter_and_maybe_die, 0..50)?;
        assert!(squares.into_iter().eq((0..50).map(square)));
        let book = books.close()?;
        assert!(book.keys().copied().eq(0..50));
        assert_eq!(book.values().sum::<u32>(), 56, "one run each, and one more for each death: {book:?}");
    }
    Ok(())
}

fn an_item_that_always_kills_is_run_so_often_and_no_more() -> Outcome {
    fn die_at_13(number: u64) -> u64 {
        enter(number);
        if number == 13 {
            raise(Signal::SIGKILL).unwrap();
        }
        square(number)
    }
    for chunk_size in [1, 100] {
        for retries in [0, 2] {
            let books = Bookkeeping::new(Pool::builder().workers(2).chunk_size(chunk_size), 0)?;
            let fates = books.pool.options().retries(retries).map_results(die_at_13, 0..30)?;
            let error = fates[13].as_ref().unwrap_err();
            assert_eq!((error.signal(), error.index()), (Some(9), Some(13)), "{error}");
            assert_eq!(fates.iter().flatten().count(), 29);
            let book = books.close()?;
            assert!(
                book.into_iter()
                    .eq((0..30).map(|number| (number, if number == 13 { 1 + retries } else { 1 })))
            );
        }
    }
    Ok(())
}

fn a_large_item_is_run_again() -> Outcome {
    let work = |number: u64, bytes: Vec<u8>| {
        assert!(bytes == vec![7; 100_000]);
        enter_and_maybe_die(number)
    };
    let books = Bookkeeping::new(Pool::builder().workers(2), 3)?;
    let items = (0..10).map(|number| (number, vec![7; 100_000]));
    assert!(books.pool.options().retries(3).starmap(work, items)?.into_iter().eq((0..10).map(square)));
    assert_eq!(books.close()?.values().sum::<u32>(), 13);
    Ok(())
}

fn an_item_with_descriptors_is_not_run_again() -> Outcome {
    let work = |number: u64, _gate: Latch| enter_and_maybe_die(number);
    let books = Bookkeeping::new(Pool::builder().workers(1), 1)?;
    let (ours, theirs) = pipe()?;
    let error = books.pool.options().retries(5).apply(work, (3, theirs)).unwrap_err();
    assert_eq!(error.signal(), Some(9), "{error}");
    assert!(ours.recv().unwrap_err().is_disconnected());
    assert_eq!(books.close()?, [(3, 1)].into());
    Ok(())
}

fn only_a_death_is_a_reason_to_run_an_item_again() -> Outcome {
    let books = Bookkeeping::new(Pool::builder().workers(2), 0)?;
    let call = books.pool.options().retries(5);
    let panic = |number: u64| -> () {
        enter(number);
        panic!("on purpose");
    };
    assert!(call.apply(panic, (1,)).unwrap_err().is_panic());
    let sleep = |number: u64| {
        enter(number);
        thread::sleep(HOUR);
    };
    assert!(call.timeout(10 * SHORT).apply(sleep, (2,)).unwrap_err().is_timeout());
    let asleep = call.submit(sleep, (3,))?;
    let mut begun = Vec::new();
    while begun.last() != Some(&3) {
        begun.push(books.entries.recv_timeout(PATIENCE)?);
    }
    assert!(asleep.cancel());
    assert!(asleep.get().unwrap_err().is_cancelled());
    assert!(begun == [1, 2, 3] || begun == [1, 3], "{begun:?}"); // the second may have had no time even for that
    assert_eq!(books.close()?, [].into());
    Ok(())
}

fn a_pool_that_ends_runs_nothing_again() -> Outcome {
    let pool = Pool::new(1)?;
    let (gate, theirs) = pipe::<(), ()>()?;
    let running = pool.options().retries(1000).submit(|| thread::sleep(HOUR), ())?;
    let behind = pool.options().retries(1000).submit(block, (theirs,))?;
    pool.terminate();
    let errors = [running.get().unwrap_err(), behind.get().unwrap_err()];
    assert!(
        errors.iter().all(|error| error.is_cancelled() || matches!(error.signal(), Some(9 | 15))),
        "{errors:?}"
    );
    assert!(gate.recv().unwrap_err().is_disconnected());
    Ok(())
}

/// The first one that comes gets the only place.
fn die_unless_first(places: Receiver<()>, births: Sender<u64>) {
    births.send(std::process::id().into()).unwrap();
    if places.try_recv().is_err() {
        raise(Signal::SIGKILL).unwrap();
    }
}

fn workers_that_die_at_birth_beside_one_that_lives_end_in_an_error() -> Outcome {
    let (place, places) = bounded(1)?;
    let (births, born) = bounded(10_000)?;
    place.send(())?;
    let pool = Pool::builder().workers(2).initializer(die_unless_first, (places, births)).build()?;
    let mut error = None;
    eventually("the pool gives up", || {
        error = pool.map(square, 0..3).err();
        error.is_some()
    });
    let text = error.unwrap().to_string();
    assert!(text.ends_with("was killed by SIGKILL before it was ready for work"), "{text}");
    drop(pool);
    let born = born.into_iter().count();
    assert!((1..=50).contains(&born), "{born} workers were started");
    Ok(())
}

fn workers_that_die_as_soon_as_they_are_ready_are_not_replaced_for_ever_at_once() -> Outcome {
    let die_soon = |births: Sender<u64>| {
        births.send(0).unwrap();
        thread::spawn(|| {
            thread::sleep(Duration::from_millis(3));
            raise(Signal::SIGKILL).unwrap();
        });
    };
    let (births, born) = bounded(100_000)?;
    let start = Instant::now();
    let pool = Pool::builder().workers(2).initializer(die_soon, (births,)).build()?;
    thread::sleep(10 * SHORT);
    drop(pool);
    let rounds = start.elapsed().as_millis() / 100;
    let born = born.into_iter().count() as u128;
    // In each round two, and one for each that is seen to be dying before it is dead.
    assert!(born <= 24 + 4 * (rounds + 1), "{born} workers were started");
    Ok(())
}

fn renewed_workers_with_deaths_and_timeouts_lose_nothing() -> Outcome {
    let work = |number: u64| {
        match number % 10 {
            3 => thread::sleep(HOUR),
            7 => raise(Signal::SIGKILL).unwrap(),
            _ => {}
        }
        (square(number), std::process::id())
    };
    for chunk_size in [1, 8] {
        let pool = Pool::builder().workers(2).max_tasks_per_worker(3).chunk_size(chunk_size).build()?;
        let fates = pool.options().timeout(SHORT).retries(1).map_results(work, 0..40)?;
        assert_eq!(fates.len(), 40);
        each_is_a_death_of_its_own(&fates);
        let mut served = BTreeMap::new();
        for (number, fate) in (0..).zip(fates) {
            let pid = match fate {
                Ok((value, pid)) => {
                    assert_eq!((value, [3, 7].contains(&(number % 10))), (square(number), false));
                    pid
                }
                Err(error) => {
                    assert!(error.is_timeout() || (number % 10 == 7 && error.signal() == Some(9)), "{error}");
                    error.pid().unwrap()
                }
            };
            *served.entry(pid).or_insert(0) += 1;
        }
        assert!(served.values().all(|&tasks| tasks <= 3), "{served:?}");
        let tasks: Vec<TaskHandle<u64>> =
            (0..10).map(|number| pool.submit(square, (number,))).collect::<Result<_>>()?;
        pool.join();
        for (number, task) in (0..).zip(tasks) {
            assert_eq!(task.get()?, square(number));
        }
    }
    Ok(())
}
