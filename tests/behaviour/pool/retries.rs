//! Retries: items that are run again when their worker dies.

use std::collections::{BTreeMap, BTreeSet};
use std::process;
use std::sync::OnceLock;
use std::thread;

use multiproc::pool::PoolBuilder;
use multiproc::queue::{Receiver, Sender, bounded};
use multiproc::{Error, Pool, Result, pipe};
use nix::sys::signal::{Signal, raise};

use super::{HOUR, SHORT, square};
use crate::support::{Latch, Outcome, TEST_TIMEOUT, block, trials};

trials![
    an_item_is_run_again_when_its_worker_dies,
    an_item_that_always_kills_runs_once_more_per_retry,
    an_item_that_always_kills_is_given_back_with_all_its_deaths,
    the_deaths_of_an_item_are_no_others,
    a_large_item_is_run_again,
    an_item_with_descriptors_is_not_run_again,
    only_a_death_is_a_reason_to_run_an_item_again,
    a_pool_that_ends_runs_nothing_again,
];

/// Of each worker of a pool: the log of runs, and the deaths that are left.
static RUN_LOG: OnceLock<(Sender<u64>, Receiver<()>)> = OnceLock::new();

fn open_log(log: Sender<u64>, deaths: Receiver<()>) {
    assert!(RUN_LOG.set((log, deaths)).is_ok());
}

/// Appends a number to the log; returns the deaths that are left.
fn append(number: u64) -> &'static Receiver<()> {
    let (log, deaths) = RUN_LOG.get().unwrap();
    log.send(number).unwrap();
    deaths
}

pub(super) fn append_and_maybe_die(number: u64) -> u64 {
    if append(number).try_recv().is_ok() {
        raise(Signal::SIGKILL).unwrap();
    }
    square(number)
}

/// A pool that logs its runs, and the reader of the log.
pub(super) struct LoggedPool {
    pub(super) pool: Pool,
    pub(super) entries: Receiver<u64>,
    pub(super) _deaths: Sender<()>,
}

impl LoggedPool {
    pub(super) fn new(builder: PoolBuilder, deaths: u32) -> Result<Self> {
        let (log, entries) = bounded(1000)?;
        let (sender, receiver) = bounded(1000)?;
        sender.send_all((0..deaths).map(|_| ()))?;
        let pool = builder.initializer(open_log, (log, receiver)).build()?;
        Ok(Self { pool, entries, _deaths: sender })
    }

    /// Ends the pool; returns how often each number was run.
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
        let books = LoggedPool::new(Pool::builder().workers(3).chunk_size(chunk_size), 6)?;
        let squares = books.pool.options().retries(6).map(append_and_maybe_die, 0..50)?;
        assert!(squares.into_iter().eq((0..50).map(square)));
        let book = books.close()?;
        assert!(book.keys().copied().eq(0..50));
        assert_eq!(book.values().sum::<u32>(), 56, "one run each, and one more for each death: {book:?}");
    }
    Ok(())
}

fn an_item_that_always_kills_runs_once_more_per_retry() -> Outcome {
    fn die_at_13(number: u64) -> u64 {
        append(number);
        if number == 13 {
            raise(Signal::SIGKILL).unwrap();
        }
        square(number)
    }
    for chunk_size in [1, 100] {
        for retries in [0, 2] {
            let books = LoggedPool::new(Pool::builder().workers(2).chunk_size(chunk_size), 0)?;
            let outcomes = books.pool.options().retries(retries).map_results(die_at_13, 0..30)?;
            let error = outcomes[13].as_ref().unwrap_err();
            assert_eq!((error.signal(), error.index()), (Some(9), Some(13)), "{error}");
            assert_eq!(outcomes.iter().flatten().count(), 29);
            let book = books.close()?;
            assert!(
                book.into_iter()
                    .eq((0..30).map(|number| (number, if number == 13 { 1 + retries } else { 1 })))
            );
        }
    }
    Ok(())
}

fn an_item_that_always_kills_is_given_back_with_all_its_deaths() -> Outcome {
    fn die(number: u64, _bytes: Vec<u8>) -> u64 {
        let signals = [Signal::SIGKILL, Signal::SIGTERM];
        let earlier = append(number).try_recv().is_ok();
        raise(signals[usize::from(earlier)]).unwrap();
        process::exit(3)
    }
    for bytes in [0, 100_000] {
        let books = LoggedPool::new(Pool::builder().workers(2), 2)?;
        let error = books.pool.options().retries(2).apply(die, (7, vec![1; bytes])).unwrap_err();
        let deaths = error.attempts();
        assert_eq!(deaths.iter().map(Error::signal).collect::<Vec<_>>(), [Some(15), Some(15)], "{deaths:?}");
        assert_eq!((error.signal(), error.index()), (Some(9), deaths[0].index()), "{error}");
        let pids: BTreeSet<_> = deaths.iter().chain([&error]).filter_map(Error::pid).collect();
        assert_eq!(pids.len(), 3, "each death is that of another worker: {pids:?}");
        assert!(deaths.iter().all(|death| death.attempts().is_empty()));
        books.close()?;
    }
    Ok(())
}

fn the_deaths_of_an_item_are_no_others() -> Outcome {
    fn die_at_13(number: u64) -> u64 {
        append(number);
        assert_ne!(number, 12, "on purpose");
        if number == 13 {
            raise(Signal::SIGKILL).unwrap();
        }
        square(number)
    }
    let books = LoggedPool::new(Pool::builder().workers(1).chunk_size(100), 0)?;
    let outcomes = books.pool.options().retries(3).map_results(die_at_13, 0..30)?;
    let attempts = |number: usize| outcomes[number].as_ref().unwrap_err().attempts();
    assert_eq!((attempts(12).len(), attempts(13).len()), (0, 3));
    assert!(attempts(13).iter().all(|death| (death.signal(), death.index()) == (Some(9), Some(13))));
    assert_eq!(outcomes.iter().flatten().count(), 28);
    books.close()?;
    Ok(())
}

fn a_large_item_is_run_again() -> Outcome {
    let work = |number: u64, bytes: Vec<u8>| {
        assert!(bytes == vec![7; 100_000]);
        append_and_maybe_die(number)
    };
    let books = LoggedPool::new(Pool::builder().workers(2), 3)?;
    let items = (0..10).map(|number| (number, vec![7; 100_000]));
    assert!(books.pool.options().retries(3).starmap(work, items)?.into_iter().eq((0..10).map(square)));
    assert_eq!(books.close()?.values().sum::<u32>(), 13);
    Ok(())
}

fn an_item_with_descriptors_is_not_run_again() -> Outcome {
    let work = |number: u64, _latch: Latch| append_and_maybe_die(number);
    let books = LoggedPool::new(Pool::builder().workers(1), 1)?;
    let (ours, theirs) = pipe()?;
    let error = books.pool.options().retries(5).apply(work, (3, theirs)).unwrap_err();
    assert_eq!(error.signal(), Some(9), "{error}");
    assert!(ours.recv().unwrap_err().is_disconnected());
    assert_eq!(books.close()?, [(3, 1)].into());
    Ok(())
}

fn only_a_death_is_a_reason_to_run_an_item_again() -> Outcome {
    let books = LoggedPool::new(Pool::builder().workers(2), 0)?;
    let call = books.pool.options().retries(5);
    let panic = |number: u64| -> () {
        append(number);
        panic!("on purpose");
    };
    assert!(call.apply(panic, (1,)).unwrap_err().is_panic());
    let sleep = |number: u64| {
        append(number);
        thread::sleep(HOUR);
    };
    assert!(call.timeout(10 * SHORT).apply(sleep, (2,)).unwrap_err().is_timeout());
    let asleep = call.submit(sleep, (3,))?;
    let mut begun = Vec::new();
    while begun.last() != Some(&3) {
        begun.push(books.entries.recv_timeout(TEST_TIMEOUT)?);
    }
    assert!(asleep.cancel());
    assert!(asleep.get().unwrap_err().is_cancelled());
    // The second may have been killed before it could append its number.
    assert!(begun == [1, 2, 3] || begun == [1, 3], "{begun:?}");
    assert_eq!(books.close()?, [].into());
    Ok(())
}

fn a_pool_that_ends_runs_nothing_again() -> Outcome {
    let pool = Pool::new(1)?;
    let (latch, theirs) = pipe::<(), ()>()?;
    let running = pool.options().retries(1000).submit(|| thread::sleep(HOUR), ())?;
    let behind = pool.options().retries(1000).submit(block, (theirs,))?;
    pool.terminate();
    let errors = [running.get().unwrap_err(), behind.get().unwrap_err()];
    assert!(
        errors.iter().all(|error| error.is_cancelled() || matches!(error.signal(), Some(9 | 15))),
        "{errors:?}"
    );
    assert!(latch.recv().unwrap_err().is_disconnected());
    Ok(())
}
