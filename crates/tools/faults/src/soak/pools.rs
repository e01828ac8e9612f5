//! Soak operations on pools, their calls and handles.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use multiproc::pool::TaskHandle;
use multiproc::{Error, Pool};
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rustix::process::Signal;

use super::job::{self, Expected, Job, perform};
use super::state::{SoakState, within_limit};
use crate::target::TargetProcess;

/// A pool, its pending tasks and its killed workers.
pub(super) struct PoolModel {
    pub(super) pool: Pool,
    pub(super) ledger: PoolLedger,
}

#[derive(Default)]
pub(super) struct PoolLedger {
    pending: Vec<Pending>,
    /// Killed workers of which no item has failed yet.
    killed: Vec<u32>,
    /// The pool was ended with pending work.
    is_ended: bool,
}

struct Pending {
    handle: TaskHandle<u64>,
    expected: Expected,
    /// The result of `cancel`.
    is_cancelled: bool,
    /// The result was taken before.
    is_taken: bool,
}

/// The maximum number of pools, and of pending tasks.
const MOST: usize = 2;
const MOST_PENDING: usize = 60;

pub(super) fn start(state: &mut SoakState, rng: &mut StdRng) -> Result<()> {
    if state.pools.len() >= MOST {
        state.pools.remove(0).close()?;
    }
    state.pools.push(PoolModel::start(rng)?);
    Ok(())
}

pub(super) fn map(state: &mut SoakState, rng: &mut StdRng) -> Result<()> {
    let may_fail = rng.random_bool(0.3);
    let (jobs, expectations) = jobs(rng, 100, may_fail)?;
    let pool_model = any(state, rng)?;
    let result = pool_model.pool.map(perform, jobs);
    pool_model.ledger.check_map(expectations, result)
}

pub(super) fn submit_map(state: &mut SoakState, rng: &mut StdRng) -> Result<()> {
    let (jobs, expectations) = jobs(rng, 100, true)?;
    let (cancels, nap) = (rng.random_bool(0.3), Duration::from_micros(rng.random_range(0..2000)));
    let pool_model = any(state, rng)?;
    let handle = pool_model.pool.submit_map(perform, jobs)?;
    if cancels {
        thread::sleep(nap);
    }
    if cancels && handle.cancel() {
        let result = handle.get();
        ensure!(result.as_ref().is_err_and(Error::is_cancelled), "a cancelled map comes to {result:?}");
        return Ok(());
    }
    pool_model.ledger.check_map(expectations, handle.get())
}

pub(super) fn map_results(state: &mut SoakState, rng: &mut StdRng) -> Result<()> {
    let (jobs, expectations) = jobs(rng, 100, true)?;
    let pool_model = any(state, rng)?;
    let results = pool_model.pool.map_results(perform, jobs)?;
    pool_model.ledger.check_all(&expectations, results)
}

pub(super) fn imap(state: &mut SoakState, rng: &mut StdRng) -> Result<()> {
    let (jobs, expectations) = jobs(rng, 60, true)?;
    let taken = rng.random_range(0..expectations.len() * 2).min(expectations.len());
    let pool_model = any(state, rng)?;
    let results: Vec<_> = pool_model.pool.imap(perform, jobs).take(taken).collect();
    pool_model.ledger.check_all(&expectations[..taken], results)
}

pub(super) fn imap_unordered(state: &mut SoakState, rng: &mut StdRng) -> Result<()> {
    let count = rng.random_range(1..200);
    let taken = rng.random_range(0..count * 2).min(count);
    let pool_model = any(state, rng)?;
    let number = |number: u64| number;
    let results: Vec<_> =
        pool_model.pool.imap_unordered(number, 0..count).take(usize::try_from(taken)?).collect();
    ensure!(results.len() as u64 == taken, "{} of {taken} results", results.len());
    let mut numbers = Vec::new();
    for result in results {
        numbers.push(match result {
            Ok(number) => number,
            Err(error) if pool_model.ledger.accounts_for(&error) => {
                error.index().context("it names no index")?
            }
            Err(error) => bail!("none must fail: {error}"),
        });
    }
    numbers.sort_unstable();
    numbers.dedup();
    ensure!(
        numbers.len() as u64 == taken && numbers.iter().all(|&number| number < count),
        "these come: {numbers:?}"
    );
    Ok(())
}

pub(super) fn from_two_threads(state: &mut SoakState, rng: &mut StdRng) -> Result<()> {
    let (ones, expected_of_ones) = jobs(rng, 40, true)?;
    let (others, expected_of_others) = jobs(rng, 40, true)?;
    let pool_model = any(state, rng)?;
    let pool = &pool_model.pool;
    let (ones, others) = thread::scope(|scope| {
        let ones = scope.spawn(|| pool.map_results(perform, ones));
        let others = pool.imap(perform, others).collect();
        (ones.join(), others)
    });
    let Ok(ones) = ones else { bail!("a call has panicked") };
    pool_model.ledger.check_all(&expected_of_ones, ones?)?;
    pool_model.ledger.check_all(&expected_of_others, others)
}

pub(super) fn map_while_killing(state: &mut SoakState, rng: &mut StdRng) -> Result<()> {
    let (jobs, expectations) = jobs(rng, 60, true)?;
    let nap = Duration::from_micros(rng.random_range(0..5000));
    let choice = rng.random_range(0..10);
    let pool_model = any(state, rng)?;
    let pool = &pool_model.pool;
    let (results, killed) = thread::scope(|scope| {
        let killer = scope.spawn(|| {
            thread::sleep(nap);
            kill_one(pool, choice)
        });
        (pool.map_results(perform, jobs), killer.join())
    });
    pool_model.ledger.killed.extend(killed.unwrap_or_default());
    pool_model.ledger.check_all(&expectations, results?)
}

pub(super) fn submit(state: &mut SoakState, rng: &mut StdRng) -> Result<()> {
    let (jobs, expectations) = jobs(rng, 20, true)?;
    let pool_model = any(state, rng)?;
    for (job, expected) in jobs.into_iter().zip(expectations) {
        let handle = pool_model.pool.submit(perform, (job,))?;
        pool_model.ledger.pending.push(Pending { handle, expected, is_cancelled: false, is_taken: false });
    }
    let excess = pool_model.ledger.pending.len().saturating_sub(MOST_PENDING);
    pool_model.ledger.get(excess)
}

pub(super) fn get(state: &mut SoakState, rng: &mut StdRng) -> Result<()> {
    let count = rng.random_range(1..30);
    let pool_model = any(state, rng)?;
    pool_model.ledger.get(count)
}

pub(super) fn get_timeout(state: &mut SoakState, rng: &mut StdRng) -> Result<()> {
    let limit = Duration::from_micros(rng.random_range(0..5000));
    let choice = rng.random_range(0..MOST_PENDING);
    let pool_model = any(state, rng)?;
    let count = pool_model.ledger.pending.len();
    let Some(mut pending) = (count > 0).then(|| pool_model.ledger.pending.remove(choice % count)) else {
        return Ok(());
    };
    let got = within_limit(limit, || pending.handle.get_timeout(limit), |got| matches!(got, Ok(None)))?;
    if pending.is_taken {
        ensure!(got.is_err(), "a result is given a second time");
    } else if let Some(result) = got.transpose() {
        ensure!(pending.handle.is_ready(), "what was given is not ready");
        pool_model.ledger.check(&pending, result)?;
        pending.is_taken = true;
    }
    pool_model.ledger.pending.push(pending);
    Ok(())
}

pub(super) fn cancel(state: &mut SoakState, rng: &mut StdRng) -> Result<()> {
    let number = rng.random_range(1..10);
    let pool_model = any(state, rng)?;
    for pending in pool_model.ledger.pending.iter_mut().rev().take(number).filter(|pending| !pending.is_taken)
    {
        let was_cancelled = pending.is_cancelled;
        let is_cancelled = pending.handle.cancel();
        ensure!(!(was_cancelled && is_cancelled), "it is cancelled twice");
        pending.is_cancelled |= is_cancelled;
    }
    Ok(())
}

pub(super) fn drop_handles(state: &mut SoakState, rng: &mut StdRng) -> Result<()> {
    let kept = rng.random_range(0..MOST_PENDING);
    any(state, rng)?.ledger.pending.truncate(kept);
    Ok(())
}

pub(super) fn kill(state: &mut SoakState, rng: &mut StdRng) -> Result<()> {
    let choice = rng.random_range(0..10);
    let pool_model = any(state, rng)?;
    pool_model.ledger.killed.extend(kill_one(&pool_model.pool, choice));
    Ok(())
}

/// While a worker is stopped, time limits end on time; afterwards all tasks complete.
pub(super) fn pause(state: &mut SoakState, rng: &mut StdRng) -> Result<()> {
    let choice = rng.random_range(0..10);
    let limit = Duration::from_millis(rng.random_range(1..20));
    let pool_model = any(state, rng)?;
    let stopped = pick(&pool_model.pool, choice).filter(|target| target.signal(Signal::STOP));
    let handles: Vec<_> =
        (0..4).map(|number| pool_model.pool.submit(perform, (Job::Value(100, number),))).collect();
    let mut waited = Vec::new();
    for handle in handles {
        let mut handle = handle?;
        let got = within_limit(limit, || handle.get_timeout(limit), |got| matches!(got, Ok(None)));
        waited.push((handle, got));
    }
    if let Some(stopped) = stopped {
        stopped.signal(Signal::CONT);
    }
    for (number, (handle, got)) in (0..).zip(waited) {
        let result = got?.transpose().unwrap_or_else(|| handle.get());
        match result {
            Err(error) if pool_model.ledger.accounts_for(&error) => {}
            result => Expected::Value(number).check(&result)?,
        }
    }
    Ok(())
}

pub(super) fn close(state: &mut SoakState, rng: &mut StdRng) -> Result<()> {
    take_any(state, rng)?.close()
}

pub(super) fn terminate(state: &mut SoakState, rng: &mut StdRng) -> Result<()> {
    take_any(state, rng)?.end(|pool| pool.terminate())
}

pub(super) fn drop_pool(state: &mut SoakState, rng: &mut StdRng) -> Result<()> {
    take_any(state, rng)?.end(drop)
}

/// An existing one; a new one if there is none.
pub(super) fn any<'a>(state: &'a mut SoakState, rng: &mut StdRng) -> Result<&'a mut PoolModel> {
    let index = index_of_any(state, rng)?;
    Ok(&mut state.pools[index])
}

fn take_any(state: &mut SoakState, rng: &mut StdRng) -> Result<PoolModel> {
    let index = index_of_any(state, rng)?;
    Ok(state.pools.swap_remove(index))
}

fn index_of_any(state: &mut SoakState, rng: &mut StdRng) -> Result<usize> {
    if state.pools.is_empty() {
        state.pools.push(PoolModel::start(rng)?);
    }
    Ok(rng.random_range(0..state.pools.len()))
}

fn jobs(rng: &mut StdRng, max: usize, may_fail: bool) -> Result<(Vec<Job>, Vec<Expected>)> {
    let count = rng.random_range(1..=max);
    let simple = rng.random_bool(0.5);
    let job = |number: u64| {
        if simple { Ok((Job::Value(0, number), Expected::Value(number))) } else { job::any(rng, may_fail) }
    };
    let jobs: Vec<_> = (0..count as u64).map(job).collect::<multiproc::Result<_>>()?;
    Ok(jobs.into_iter().unzip())
}

fn pick(pool: &Pool, choice: usize) -> Option<TargetProcess> {
    let pids = pool.worker_pids();
    pids.get(choice % pids.len().max(1)).copied().and_then(TargetProcess::open)
}

fn kill_one(pool: &Pool, choice: usize) -> Option<u32> {
    pick(pool, choice).filter(|target| target.signal(Signal::KILL)).map(|target| target.pid)
}

impl PoolModel {
    fn start(rng: &mut StdRng) -> Result<Self> {
        let mut pool = Pool::builder().workers(rng.random_range(1..4));
        if let Some(&size) = [None, None, Some(1), Some(3)].choose(rng).and_then(Option::as_ref) {
            pool = pool.chunk_size(size);
        }
        if let Some(&max) = [None, None, Some(5), Some(50)].choose(rng).and_then(Option::as_ref) {
            pool = pool.max_tasks_per_worker(max);
        }
        Ok(Self { pool: pool.build()?, ledger: PoolLedger::default() })
    }

    /// Closes the pool; it completes its pending tasks.
    pub(super) fn close(self) -> Result<()> {
        self.pool.close();
        let refused = self.pool.submit(perform, (Job::Value(0, 1),));
        ensure!(refused.is_err_and(|error| error.is_closed()), "a closed pool takes work");
        self.pool.join();
        self.ledger.settle()
    }

    /// Ends the pool without waiting for its tasks.
    fn end(mut self, end: fn(Pool)) -> Result<()> {
        end(self.pool);
        self.ledger.is_ended = true;
        self.ledger.settle()
    }
}

impl PoolLedger {
    pub(super) fn has_killed(&self) -> bool {
        !self.killed.is_empty()
    }

    /// Whether the error is that of the one item that a killed worker was running.
    pub(super) fn accounts_for(&mut self, error: &Error) -> bool {
        let is_kill = error.signal() == Some(Signal::KILL.as_raw());
        let index = self.killed.iter().position(|&pid| is_kill && error.pid() == Some(pid));
        index.map(|index| self.killed.swap_remove(index)).is_some()
    }

    /// Checks the result of a call that has one for all of its items.
    fn check_map(&mut self, expectations: Vec<Expected>, result: multiproc::Result<Vec<u64>>) -> Result<()> {
        match result {
            Ok(values) => {
                ensure!(values.into_iter().map(Expected::Value).eq(expectations), "other values come");
            }
            Err(error) if self.accounts_for(&error) => {}
            Err(error) => {
                let first = expectations
                    .iter()
                    .position(|expected| expected.is_failure())
                    .with_context(|| format!("none must fail: {error}"))?;
                ensure!(error.index() == Some(first as u64), "item {first} fails: {error}");
                expectations[first].check(&Err(error))?;
            }
        }
        Ok(())
    }

    fn check_all(&mut self, expectations: &[Expected], results: Vec<multiproc::Result<u64>>) -> Result<()> {
        ensure!(results.len() == expectations.len(), "{} of {} results", results.len(), expectations.len());
        for (number, (expected, result)) in (0..).zip(expectations.iter().zip(results)) {
            if let Err(error) = &result {
                ensure!(error.index() == Some(number), "item {number}: {error}");
                if self.accounts_for(error) {
                    continue;
                }
            }
            expected.check(&result).with_context(|| format!("item {number}"))?;
        }
        Ok(())
    }

    /// Gets the first results.
    fn get(&mut self, count: usize) -> Result<()> {
        let count = count.min(self.pending.len());
        for mut pending in self.pending.drain(..count).collect::<Vec<_>>() {
            // A time limit that is never reached: the watchdog catches a hang.
            let got = pending.handle.get_timeout(Duration::MAX);
            if pending.is_taken {
                ensure!(got.is_err(), "a result is given a second time");
                continue;
            }
            let result = got.transpose().context("the time that never comes is over")?;
            self.check(&pending, result)?;
        }
        Ok(())
    }

    fn check(&mut self, pending: &Pending, result: multiproc::Result<u64>) -> Result<()> {
        let is_cancellation = result.as_ref().is_err_and(Error::is_cancelled);
        if pending.is_cancelled {
            ensure!(is_cancellation, "a cancelled task comes to {result:?}");
            return Ok(());
        }
        match result {
            Err(error) if self.accounts_for(&error) => Ok(()),
            Err(error)
                if self.is_ended && (error.is_cancelled() || matches!(error.signal(), Some(9 | 15))) =>
            {
                Ok(())
            }
            result => pending.expected.check(&result),
        }
    }

    /// Takes all results: without its pool, no task is pending.
    fn settle(mut self) -> Result<()> {
        ensure!(
            self.pending.iter().all(|pending| pending.handle.is_ready()),
            "the pool is gone, and a task is not ready"
        );
        self.get(usize::MAX)
    }
}
