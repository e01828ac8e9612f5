//! Children that wait for a condition variable: a notification of one that is killed goes to the other.

use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use multiproc::failpoints::now;
use multiproc::sync::{Atomic, Condvar, LockError, Mutex};
use multiproc::{Error, Process};

use super::{AllowedFailures, Observed};

const WAITERS: u32 = 2;
/// After this time a notification is lost.
const PATIENCE: Duration = Duration::from_secs(10);

/// A number of tokens, of which each child takes one; and how many children have begun to wait.
type Tokens = (Mutex<u32>, Condvar, Atomic<u32>);

pub(super) fn notified_in_turn(allowed: AllowedFailures) -> Result<Observed> {
    let mut observed = Observed::default();
    let made: Result<Tokens, Error> =
        Mutex::new(0).and_then(|mutex| Ok((mutex, Condvar::new()?, Atomic::new(0)?)));
    let Some(tokens) = observed.tolerate(made, allowed)? else { return Ok(observed) };
    let mut children = Vec::new();
    for _ in 0..WAITERS {
        children.extend(observed.tolerate(Process::spawn(take, (tokens.clone(),)), allowed)?);
    }
    let all_wait = || tokens.2.load(SeqCst) >= alive(&children);
    if !comes(all_wait) || !(0..WAITERS).all(|_| give(&tokens, &children)) {
        children.iter().try_for_each(Process::kill)?;
        bail!("a notification is lost");
    }
    for child in children {
        match observed.tolerate(child.join(), allowed)? {
            Some(Err(error)) if !allowed.is_refusal(&error) => bail!("a child fails: {error}"),
            _ => {}
        }
    }
    observed.settled = Some(now());
    Ok(observed)
}

fn take((mutex, condvar, waiting): Tokens) -> Result<(), Error> {
    let mut tokens = mutex.lock().or_else(LockError::into_guard)?;
    waiting.fetch_add(1, SeqCst);
    while *tokens == 0 {
        tokens = condvar.wait(tokens).or_else(LockError::into_guard)?;
    }
    *tokens -= 1;
    Ok(())
}

/// Adds a token and notifies one child. Returns whether a child has taken it, or none is left.
fn give((mutex, condvar, _): &Tokens, children: &[Process<Result<(), Error>>]) -> bool {
    let tokens = || mutex.lock().or_else(LockError::into_guard);
    if tokens().map(|mut tokens| *tokens += 1).is_err() {
        return false;
    }
    condvar.notify_one();
    comes(|| tokens().is_ok_and(|tokens| *tokens == 0) || alive(children) == 0)
}

fn alive(children: &[Process<Result<(), Error>>]) -> u32 {
    children.iter().map(|child| u32::from(child.is_alive())).sum()
}

fn comes(is_so: impl Fn() -> bool) -> bool {
    let begun = Instant::now();
    while !is_so() {
        if begun.elapsed() > PATIENCE {
            return false;
        }
        thread::sleep(Duration::from_millis(1));
    }
    true
}
