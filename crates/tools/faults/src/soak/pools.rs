//! Pools, their calls and handles.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use multiproc::pool::TaskHandle;
use multiproc::{Error, Pool};
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rustix::process::Signal;

use super::job::{self, Due, Job, perform};
use super::world::{World, timely};
use crate::victim::Victim;

/// A pool, what was handed in, and who was killed.
pub(super) struct Workshop {
    pub(super) pool: Pool,
    pub(super) account: Account,
}

#[derive(Default)]
pub(super) struct Account {
    pending: Vec<Pending>,
    /// Workers that were killed, of which no item has failed yet.
    killed: Vec<u32>,
    /// It was ended while there was work.
    is_ended: bool,
}

struct Pending {
    handle: TaskHandle<u64>,
    due: Due,
    /// What `cancel` has said.
    is_cancelled: bool,
    /// The result was given before.
    is_taken: bool,
}

/// So many pools at most, and so many tasks in hand.
const MOST: usize = 2;
const MOST_PENDING: usize = 60;

pub(super) fn start(world: &mut World, dice: &mut StdRng) -> Result<()> {
    if world.pools.len() >= MOST {
        world.pools.remove(0).close()?;
    }
    world.pools.push(Workshop::start(dice)?);
    Ok(())
}

pub(super) fn map(world: &mut World, dice: &mut StdRng) -> Result<()> {
    let may_fail = dice.random_bool(0.3);
    let (jobs, dues) = jobs(dice, 100, may_fail)?;
    let workshop = any(world, dice)?;
    match workshop.pool.map(perform, jobs) {
        Ok(values) => ensure!(values.into_iter().map(Due::Value).eq(dues), "other values come"),
        Err(error) if workshop.account.may_fail_by(&error) => {}
        Err(error) => {
            let first = dues
                .iter()
                .position(|due| due.is_failure())
                .with_context(|| format!("none must fail: {error}"))?;
            ensure!(error.index() == Some(first as u64), "item {first} fails: {error}");
            dues[first].check(&Err(error))?;
        }
    }
    Ok(())
}

pub(super) fn map_results(world: &mut World, dice: &mut StdRng) -> Result<()> {
    let (jobs, dues) = jobs(dice, 100, true)?;
    let workshop = any(world, dice)?;
    let results = workshop.pool.map_results(perform, jobs)?;
    workshop.account.check_all(&dues, results)
}

pub(super) fn imap(world: &mut World, dice: &mut StdRng) -> Result<()> {
    let (jobs, dues) = jobs(dice, 60, true)?;
    let taken = dice.random_range(0..dues.len() * 2).min(dues.len());
    let workshop = any(world, dice)?;
    let results: Vec<_> = workshop.pool.imap(perform, jobs).take(taken).collect();
    workshop.account.check_all(&dues[..taken], results)
}

pub(super) fn imap_unordered(world: &mut World, dice: &mut StdRng) -> Result<()> {
    let count = dice.random_range(1..200);
    let taken = dice.random_range(0..count * 2).min(count);
    let workshop = any(world, dice)?;
    let number = |number: u64| number;
    let results: Vec<_> =
        workshop.pool.imap_unordered(number, 0..count).take(usize::try_from(taken)?).collect();
    ensure!(results.len() as u64 == taken, "{} of {taken} results", results.len());
    let mut numbers = Vec::new();
    for result in results {
        numbers.push(match result {
            Ok(number) => number,
            Err(error) if workshop.account.may_fail_by(&error) => {
                error.index().context("no place is said")?
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

pub(super) fn from_two_threads(world: &mut World, dice: &mut StdRng) -> Result<()> {
    let (ones, dues_of_ones) = jobs(dice, 40, true)?;
    let (others, dues_of_others) = jobs(dice, 40, true)?;
    let workshop = any(world, dice)?;
    let pool = &workshop.pool;
    let (ones, others) = thread::scope(|scope| {
        let ones = scope.spawn(|| pool.map_results(perform, ones));
        let others = pool.imap(perform, others).collect();
        (ones.join(), others)
    });
    let Ok(ones) = ones else { bail!("a call has panicked") };
    workshop.account.check_all(&dues_of_ones, ones?)?;
    workshop.account.check_all(&dues_of_others, others)
}

pub(super) fn map_under_fire(world: &mut World, dice: &mut StdRng) -> Result<()> {
    let (jobs, dues) = jobs(dice, 60, true)?;
    let nap = Duration::from_micros(dice.random_range(0..5000));
    let choice = dice.random_range(0..10);
    let workshop = any(world, dice)?;
    let pool = &workshop.pool;
    let (results, killed) = thread::scope(|scope| {
        let killer = scope.spawn(|| {
            thread::sleep(nap);
            kill_one(pool, choice)
        });
        (pool.map_results(perform, jobs), killer.join())
    });
    workshop.account.killed.extend(killed.unwrap_or_default());
    workshop.account.check_all(&dues, results?)
}

pub(super) fn submit(world: &mut World, dice: &mut StdRng) -> Result<()> {
    let (jobs, dues) = jobs(dice, 20, true)?;
    let workshop = any(world, dice)?;
    for (job, due) in jobs.into_iter().zip(dues) {
        let handle = workshop.pool.submit(perform, (job,))?;
        workshop.account.pending.push(Pending { handle, due, is_cancelled: false, is_taken: false });
    }
    let excess = workshop.account.pending.len().saturating_sub(MOST_PENDING);
    workshop.account.get(excess)
}

pub(super) fn get(world: &mut World, dice: &mut StdRng) -> Result<()> {
    let count = dice.random_range(1..30);
    let workshop = any(world, dice)?;
    workshop.account.get(count)
}

pub(super) fn get_timeout(world: &mut World, dice: &mut StdRng) -> Result<()> {
    let limit = Duration::from_micros(dice.random_range(0..5000));
    let choice = dice.random_range(0..MOST_PENDING);
    let workshop = any(world, dice)?;
    let count = workshop.account.pending.len();
    let Some(mut pending) = (count > 0).then(|| workshop.account.pending.remove(choice % count)) else {
        return Ok(());
    };
    let got = timely(limit, || pending.handle.get_timeout(limit), |got| matches!(got, Ok(None)))?;
    if pending.is_taken {
        ensure!(got.is_err(), "a result is given a second time");
    } else if let Some(result) = got.transpose() {
        ensure!(pending.handle.is_ready(), "what was given is not ready");
        workshop.account.check(&pending, result)?;
        pending.is_taken = true;
    }
    workshop.account.pending.push(pending);
    Ok(())
}

pub(super) fn cancel(world: &mut World, dice: &mut StdRng) -> Result<()> {
    let number = dice.random_range(1..10);
    let workshop = any(world, dice)?;
    for pending in workshop.account.pending.iter_mut().rev().take(number).filter(|pending| !pending.is_taken)
    {
        let was_cancelled = pending.is_cancelled;
        let is_cancelled = pending.handle.cancel();
        ensure!(!(was_cancelled && is_cancelled), "it is cancelled twice");
        pending.is_cancelled |= is_cancelled;
    }
    Ok(())
}

pub(super) fn drop_handles(world: &mut World, dice: &mut StdRng) -> Result<()> {
    let kept = dice.random_range(0..MOST_PENDING);
    any(world, dice)?.account.pending.truncate(kept);
    Ok(())
}

pub(super) fn kill(world: &mut World, dice: &mut StdRng) -> Result<()> {
    let choice = dice.random_range(0..10);
    let workshop = any(world, dice)?;
    workshop.account.killed.extend(kill_one(&workshop.pool, choice));
    Ok(())
}

/// Meanwhile limits end on time; afterwards all goes on.
pub(super) fn pause(world: &mut World, dice: &mut StdRng) -> Result<()> {
    let choice = dice.random_range(0..10);
    let limit = Duration::from_millis(dice.random_range(1..20));
    let workshop = any(world, dice)?;
    let stopped = pick(&workshop.pool, choice).filter(|victim| victim.strike(Signal::STOP));
    let handles: Vec<_> =
        (0..4).map(|number| workshop.pool.submit(perform, (Job::Value(100, number),))).collect();
    let mut waited = Vec::new();
    for handle in handles {
        let mut handle = handle?;
        let got = timely(limit, || handle.get_timeout(limit), |got| matches!(got, Ok(None)));
        waited.push((handle, got));
    }
    if let Some(stopped) = stopped {
        stopped.strike(Signal::CONT);
    }
    for (number, (handle, got)) in (0..).zip(waited) {
        let result = got?.transpose().unwrap_or_else(|| handle.get());
        match result {
            Err(error) if workshop.account.may_fail_by(&error) => {}
            result => Due::Value(number).check(&result)?,
        }
    }
    Ok(())
}

pub(super) fn close(world: &mut World, dice: &mut StdRng) -> Result<()> {
    take_any(world, dice)?.close()
}

pub(super) fn terminate(world: &mut World, dice: &mut StdRng) -> Result<()> {
    take_any(world, dice)?.end(Pool::terminate)
}

pub(super) fn drop_pool(world: &mut World, dice: &mut StdRng) -> Result<()> {
    take_any(world, dice)?.end(drop)
}

/// One of those there are; if there are none, a new one.
pub(super) fn any<'a>(world: &'a mut World, dice: &mut StdRng) -> Result<&'a mut Workshop> {
    let place = place_of_any(world, dice)?;
    Ok(&mut world.pools[place])
}

fn take_any(world: &mut World, dice: &mut StdRng) -> Result<Workshop> {
    let place = place_of_any(world, dice)?;
    Ok(world.pools.swap_remove(place))
}

fn place_of_any(world: &mut World, dice: &mut StdRng) -> Result<usize> {
    if world.pools.is_empty() {
        world.pools.push(Workshop::start(dice)?);
    }
    Ok(dice.random_range(0..world.pools.len()))
}

fn jobs(dice: &mut StdRng, most: usize, may_fail: bool) -> Result<(Vec<Job>, Vec<Due>)> {
    let count = dice.random_range(1..=most);
    let simple = dice.random_bool(0.5);
    let job = |number: u64| {
        if simple { Ok((Job::Value(0, number), Due::Value(number))) } else { job::any(dice, may_fail) }
    };
    let jobs: Vec<_> = (0..count as u64).map(job).collect::<multiproc::Result<_>>()?;
    Ok(jobs.into_iter().unzip())
}

fn pick(pool: &Pool, choice: usize) -> Option<Victim> {
    let pids = pool.worker_pids();
    pids.get(choice % pids.len().max(1)).copied().and_then(Victim::open)
}

fn kill_one(pool: &Pool, choice: usize) -> Option<u32> {
    pick(pool, choice).filter(|victim| victim.strike(Signal::KILL)).map(|victim| victim.pid)
}

impl Workshop {
    fn start(dice: &mut StdRng) -> Result<Self> {
        let mut pool = Pool::builder().workers(dice.random_range(1..4));
        if let Some(&size) = [None, None, Some(1), Some(3)].choose(dice).and_then(Option::as_ref) {
            pool = pool.chunk_size(size);
        }
        if let Some(&most) = [None, None, Some(5), Some(50)].choose(dice).and_then(Option::as_ref) {
            pool = pool.max_tasks_per_worker(most);
        }
        Ok(Self { pool: pool.build()?, account: Account::default() })
    }

    /// Lets it do all that was handed in.
    pub(super) fn close(self) -> Result<()> {
        self.pool.close();
        let refused = self.pool.submit(perform, (Job::Value(0, 1),));
        ensure!(refused.is_err_and(|error| error.is_closed()), "a closed pool takes work");
        self.pool.join();
        self.account.settle()
    }

    /// Ends it, whatever it has to do.
    fn end(mut self, end: fn(Pool)) -> Result<()> {
        end(self.pool);
        self.account.is_ended = true;
        self.account.settle()
    }
}

impl Account {
    pub(super) fn has_killed(&self) -> bool {
        !self.killed.is_empty()
    }

    /// Whether this is an item that a killed worker was running, the only one.
    pub(super) fn may_fail_by(&mut self, error: &Error) -> bool {
        let is_kill = error.signal() == Some(Signal::KILL.as_raw());
        let place = self.killed.iter().position(|&pid| is_kill && error.pid() == Some(pid));
        place.map(|place| self.killed.swap_remove(place)).is_some()
    }

    fn check_all(&mut self, dues: &[Due], results: Vec<multiproc::Result<u64>>) -> Result<()> {
        ensure!(results.len() == dues.len(), "{} of {} results", results.len(), dues.len());
        for (number, (due, result)) in (0..).zip(dues.iter().zip(results)) {
            if let Err(error) = &result {
                ensure!(error.index() == Some(number), "item {number}: {error}");
                if self.may_fail_by(error) {
                    continue;
                }
            }
            due.check(&result).with_context(|| format!("item {number}"))?;
        }
        Ok(())
    }

    /// Gets the first results.
    fn get(&mut self, count: usize) -> Result<()> {
        let count = count.min(self.pending.len());
        for mut pending in self.pending.drain(..count).collect::<Vec<_>>() {
            // A time so long that it never comes: what hangs, the watchdog sees.
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
            Err(error) if self.may_fail_by(&error) => Ok(()),
            Err(error)
                if self.is_ended && (error.is_cancelled() || matches!(error.signal(), Some(9 | 15))) =>
            {
                Ok(())
            }
            result => pending.due.check(&result),
        }
    }

    /// When the pool is gone, there is nothing left to wait for.
    fn settle(mut self) -> Result<()> {
        ensure!(
            self.pending.iter().all(|pending| pending.handle.is_ready()),
            "the pool is gone, and a task is not ready"
        );
        self.get(usize::MAX)
    }
}
