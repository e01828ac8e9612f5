//! A child that notifies threads which sleep, and nothing after it that would make up for a lost wake-up.
//!
//! If the child is killed when the threads count as notified, they find that out by themselves, and soon:
//! that is checked with the time until everything is settled. If it is killed before, this process does the
//! same in its place.

use std::fs;
use std::panic::resume_unwind;
use std::process::id;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use multiproc::failpoints::{Failpoint, now};
use multiproc::sync::{Atomic, Barrier, Condvar, Event, LockError, Mutex};
use multiproc::{Error, Process, RemoteFn};
use nix::unistd::gettid;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{AllowedFailures, Observed};

/// After this time a thread gives up waiting, which is too late in any case.
const PATIENCE: Duration = Duration::from_secs(6);
/// How many threads wait.
const WAITERS: u32 = 2;

/// A process, and threads of it that are to sleep.
pub(super) type Sleepers = (u32, Vec<i32>);

/// What the threads returned, and when the last one did.
type Woken<R> = (Vec<R>, Duration);

pub(super) fn event(allowed: AllowedFailures) -> Result<Observed> {
    let mut observed = Observed::default();
    let Some(event) = observed.tolerate(Event::new(), allowed)? else { return Ok(observed) };
    let set = |event: Event, sleepers: Sleepers| {
        wait_until_asleep(&sleepers);
        event.set();
        Ok(())
    };
    let wait = |event: &Event| event.wait_timeout(PATIENCE);
    let (woken, at) = run(&mut observed, allowed, &event, set, wait, || !event.is_set())?;
    observed.settled = Some(at);
    ensure!(woken.iter().all(|was_set| *was_set), "a thread was not woken");
    Ok(observed)
}

/// Whether the child holds the mutex, or has held it.
type Held = (Mutex<u32>, Atomic<u32>);

/// The child holds it, and releases it when a thread of its own sleeps for it, too.
pub(super) fn mutex(allowed: AllowedFailures) -> Result<Observed> {
    let mut observed = Observed::default();
    let made: Result<Held, Error> = Mutex::new(0).and_then(|mutex| Ok((mutex, Atomic::new(0)?)));
    let Some(held) = observed.tolerate(made, allowed)? else { return Ok(observed) };
    let release = |(mutex, is_held): Held, sleepers: Sleepers| -> Result<(), Error> {
        let guard = mutex.lock().or_else(LockError::into_guard)?;
        is_held.store(1, SeqCst);
        wait_until_asleep(&sleepers);
        let (tell, told) = mpsc::channel();
        thread::scope(|scope| {
            let other = scope.spawn(|| {
                let _ = tell.send(gettid().as_raw());
                add_one(&mutex)
            });
            wait_until_asleep(&(id(), told.recv().into_iter().collect()));
            drop(guard);
            other.join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    };
    let wait = |(mutex, is_held): &Held| -> Result<(), Error> {
        let until = now() + PATIENCE;
        while is_held.load(SeqCst) == 0 && now() < until {
            thread::yield_now();
        }
        add_one(mutex)
    };
    let (woken, at) = run(&mut observed, allowed, &held, release, wait, || held.1.load(SeqCst) == 0)?;
    observed.settled = Some(at);
    ensure!(woken.iter().all(Result::is_ok), "{woken:?}");
    let count = *held.0.lock().or_else(LockError::into_guard)?;
    ensure!(count >= WAITERS, "{count} were counted under the mutex");
    Ok(observed)
}

/// A holder that was killed has changed nothing.
fn add_one(mutex: &Mutex<u32>) -> Result<(), Error> {
    *mutex.lock_timeout(PATIENCE).or_else(LockError::into_guard)? += 1;
    Ok(())
}

/// Whether the child is about to arrive, beside its barrier.
type Passage = (Barrier, Atomic<u32>);

fn passage() -> Result<Passage, Error> {
    Ok((Barrier::new(WAITERS + 1)?, Atomic::new(0)?))
}

/// The child arrives last.
pub(super) fn barrier(allowed: AllowedFailures) -> Result<Observed> {
    let mut observed = Observed::default();
    let Some(passage) = observed.tolerate(passage(), allowed)? else { return Ok(observed) };
    let arrive = |(barrier, has_begun): Passage, sleepers: Sleepers| {
        while barrier.waiting() < WAITERS as usize {
            thread::yield_now();
        }
        wait_until_asleep(&sleepers);
        has_begun.store(1, SeqCst);
        barrier.wait().map(drop)
    };
    let wait = |(barrier, _): &Passage| barrier.wait_timeout(PATIENCE);
    let is_missing = || passage.1.load(SeqCst) == 0 || passage.0.waiting() == WAITERS as usize;
    let (woken, at) = run(&mut observed, allowed, &passage, arrive, wait, is_missing)?;
    observed.settled = Some(at);
    if allowed.killed_at == Some(Failpoint::BarrierArrived) {
        ensure!(woken.iter().all(|passed| passed.as_ref().is_err_and(Error::is_broken)), "{woken:?}");
        return Ok(observed);
    }
    for passed in woken {
        let is_leader = passed.context("the barrier is not passed")?;
        ensure!(!is_leader, "a thread that did not come last is the leader");
    }
    Ok(observed)
}

/// The child resets it, which breaks it for those that wait, and for no others.
pub(super) fn reset(allowed: AllowedFailures) -> Result<Observed> {
    let mut observed = Observed::default();
    let Some(passage) = observed.tolerate(passage(), allowed)? else { return Ok(observed) };
    let reset = |(barrier, has_begun): Passage, sleepers: Sleepers| {
        while has_begun.load(SeqCst) == 0 && barrier.waiting() < WAITERS as usize {
            thread::yield_now();
        }
        wait_until_asleep(&sleepers);
        has_begun.store(1, SeqCst);
        barrier.reset();
        Ok(())
    };
    let wait = |(barrier, _): &Passage| barrier.wait_timeout(PATIENCE);
    // No thread may have arrived yet where the child cannot start.
    let is_missing = || passage.1.load(SeqCst) == 0 || passage.0.is_broken() || passage.0.waiting() > 0;
    let (woken, at) = run(&mut observed, allowed, &passage, reset, wait, is_missing)?;
    observed.settled = Some(at);
    ensure!(woken.iter().all(|passed| passed.as_ref().is_err_and(Error::is_broken)), "{woken:?}");
    let passed = thread::scope(|scope| {
        let others: Vec<_> = (0..=WAITERS).map(|_| scope.spawn(|| wait(&passage))).collect();
        others.into_iter().all(|other| other.join().is_ok_and(|passed| passed.is_ok()))
    });
    ensure!(passed, "a barrier that was reset is not passed");
    Ok(observed)
}

/// Beside the condition variable, how many threads wait for it; and then, whether one begins to notify them.
type Watched = (Mutex<u32>, Condvar, Atomic<[u32]>);

pub(super) fn condvar(allowed: AllowedFailures) -> Result<Observed> {
    notified(allowed, |watched: Watched, sleepers: Sleepers| {
        begin_to_notify(&watched, &sleepers);
        watched.1.notify(WAITERS as usize);
        Ok(())
    })
}

pub(super) fn condvar_all(allowed: AllowedFailures) -> Result<Observed> {
    notified(allowed, |watched: Watched, sleepers: Sleepers| {
        begin_to_notify(&watched, &sleepers);
        watched.1.notify_all();
        Ok(())
    })
}

fn begin_to_notify((_, _, counts): &Watched, sleepers: &Sleepers) {
    while counts[0].load(SeqCst) < WAITERS {
        thread::yield_now();
    }
    wait_until_asleep(sleepers);
    counts[1].store(1, SeqCst);
}

fn notified<F>(allowed: AllowedFailures, notify: F) -> Result<Observed>
where
    F: RemoteFn<(Watched, Sleepers), Output = Result<(), Error>>,
    F: Fn(Watched, Sleepers) -> Result<(), Error>,
{
    let mut observed = Observed::default();
    let made: Result<Watched, Error> =
        Mutex::new(0).and_then(|mutex| Ok((mutex, Condvar::new()?, Atomic::from_slice(&[0; 2])?)));
    let Some(watched) = observed.tolerate(made, allowed)? else { return Ok(observed) };
    let wait = |(mutex, condvar, counts): &Watched| -> Result<_, Error> {
        let guard = mutex.lock()?;
        counts[0].fetch_add(1, SeqCst); // the next thread gets the mutex when this one waits
        let is_over = condvar.wait_timeout(guard, PATIENCE)?.1;
        Ok((!is_over).then(now))
    };
    let is_missing = || watched.2[1].load(SeqCst) == 0;
    let (woken, _) = run(&mut observed, allowed, &watched, notify, wait, is_missing)?;
    let woken: Vec<_> = woken.into_iter().collect::<Result<_, _>>()?;
    let notified = woken.iter().flatten().count();
    // A child that is killed in the middle has notified some of them. These are not late, and the others were
    // not to be woken.
    let least = match allowed.killed_at {
        None => WAITERS as usize,
        Some(point) => usize::from(point == Failpoint::WaiterNotified),
    };
    ensure!(notified >= least || allowed.refusal, "{notified} threads were notified");
    observed.settled = woken.into_iter().flatten().max().or(Some(Duration::ZERO));
    Ok(observed)
}

/// Runs the child while threads wait, and `notify` in this process if the child has left that undone.
fn run<H, F, R>(
    observed: &mut Observed,
    allowed: AllowedFailures,
    handle: &H,
    notify: F,
    wait: impl Fn(&H) -> R + Sync,
    is_missing: impl FnOnce() -> bool,
) -> Result<Woken<R>>
where
    H: Clone + Serialize + DeserializeOwned + Sync,
    F: RemoteFn<(H, Sleepers), Output = Result<(), Error>> + Fn(H, Sleepers) -> Result<(), Error>,
    R: Send,
{
    let (tell, told) = mpsc::channel();
    let waiter = || {
        let _ = tell.send(gettid().as_raw());
        (wait(handle), now())
    };
    thread::scope(|scope| {
        let waiters: Vec<_> = (0..WAITERS).map(|_| scope.spawn(waiter)).collect();
        let sleepers: Sleepers = (id(), told.iter().take(waiters.len()).collect());
        let child = Process::spawn(notify, (handle.clone(), sleepers.clone()));
        match observed.tolerate(child.and_then(Process::join), allowed)? {
            Some(Err(error)) if !allowed.is_refusal(&error) => bail!("the child fails: {error}"),
            _ => {}
        }
        if is_missing() {
            notify(handle.clone(), sleepers)?;
        }
        let ends: Vec<_> = waiters.into_iter().filter_map(|waiter| waiter.join().ok()).collect();
        ensure!(ends.len() == WAITERS as usize, "a thread panics");
        let last = ends.iter().map(|(_, at)| *at).max().unwrap_or_default();
        Ok((ends.into_iter().map(|(end, _)| end).collect(), last))
    })
}

/// Waits until all of these threads sleep.
pub(super) fn wait_until_asleep((pid, threads): &Sleepers) {
    for thread in threads {
        let stat = format!("/proc/{pid}/task/{thread}/stat");
        while fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") S ")) {
            thread::yield_now();
        }
    }
}
