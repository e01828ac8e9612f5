//! Soak operations on single children: start, signal, join.

use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use multiproc::{Connection, Process, pipe};
use rand::RngExt;
use rand::rngs::StdRng;
use rustix::process::Signal;

use super::job::{self, Expected, Job, perform};
use super::state::{SoakState, within_limit};
use crate::target::TargetProcess;

/// A child and its expected result.
pub(super) struct Child {
    process: Process<u64>,
    expected: Expected,
    /// The child blocks until this is dropped.
    gate: Option<Connection<(), ()>>,
    /// The signals that the child may have died of.
    signals: Vec<Signal>,
    is_stopped: bool,
    /// The result was taken.
    is_joined: bool,
}

/// The maximum number.
const MOST: usize = 6;

pub(super) fn start(state: &mut SoakState, rng: &mut StdRng) -> Result<()> {
    if state.children.len() >= MOST {
        state.children.remove(0).join()?;
    }
    state.children.push(Child::start(rng)?);
    Ok(())
}

pub(super) fn kill(state: &mut SoakState, rng: &mut StdRng) -> Result<()> {
    let child = any(state, rng)?;
    child.process.kill()?;
    child.signals.push(Signal::KILL);
    Ok(())
}

pub(super) fn terminate(state: &mut SoakState, rng: &mut StdRng) -> Result<()> {
    let child = any(state, rng)?;
    child.process.terminate()?;
    child.signals.push(Signal::TERM);
    child.is_stopped = false;
    Ok(())
}

pub(super) fn stop(state: &mut SoakState, rng: &mut StdRng) -> Result<()> {
    let limit = Duration::from_millis(rng.random_range(1..20));
    let child = any(state, rng)?;
    if !child.is_joined && child.stop() {
        let waited =
            within_limit(limit, || child.process.join_timeout(limit), |joined| matches!(joined, Ok(None)))?;
        ensure!(matches!(waited, Ok(None)), "a stopped child comes to {waited:?}");
        ensure!(child.process.is_alive(), "a stopped child is taken for dead");
    }
    Ok(())
}

pub(super) fn go_on(state: &mut SoakState, rng: &mut StdRng) -> Result<()> {
    let child = any(state, rng)?;
    child.go_on();
    Ok(())
}

pub(super) fn join(state: &mut SoakState, rng: &mut StdRng) -> Result<()> {
    any(state, rng)?;
    let index = rng.random_range(0..state.children.len());
    state.children.swap_remove(index).join()
}

pub(super) fn join_timeout(state: &mut SoakState, rng: &mut StdRng) -> Result<()> {
    let limit = Duration::from_micros(rng.random_range(0..20_000));
    let child = any(state, rng)?;
    let joined =
        within_limit(limit, || child.process.join_timeout(limit), |joined| matches!(joined, Ok(None)))?;
    match joined.transpose() {
        Some(result) => child.take(&result),
        None => Ok(()),
    }
}

pub(super) fn detach(state: &mut SoakState, rng: &mut StdRng) -> Result<()> {
    any(state, rng)?;
    let index = rng.random_range(0..state.children.len());
    let mut child = state.children.swap_remove(index);
    child.go_on();
    Ok(())
}

/// An existing one; a new one if there is none.
fn any<'a>(state: &'a mut SoakState, rng: &mut StdRng) -> Result<&'a mut Child> {
    if state.children.is_empty() {
        state.children.push(Child::start(rng)?);
    }
    let index = rng.random_range(0..state.children.len());
    Ok(&mut state.children[index])
}

impl Child {
    fn start(rng: &mut StdRng) -> Result<Self> {
        let (gate, (job, expected)) = if rng.random_bool(0.3) {
            let (ours, theirs) = pipe()?;
            let value = rng.random_range(0..1000);
            (Some(ours), (Job::Wait(theirs, value), Expected::Value(value)))
        } else {
            (None, job::any(rng, true)?)
        };
        let process = Process::spawn(perform, (job,))?;
        Ok(Self { process, expected, gate, signals: Vec::new(), is_stopped: false, is_joined: false })
    }

    /// Stops the child; returns whether it is stopped.
    fn stop(&mut self) -> bool {
        let Some(target) = TargetProcess::open(self.process.pid()) else { return false };
        if !target.signal(Signal::STOP) {
            return false;
        }
        self.is_stopped = true;
        while !target.has_ended(Duration::ZERO) {
            let stat = fs::read_to_string(format!("/proc/{}/stat", target.pid)).unwrap_or_default();
            if stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T')) {
                // No earlier SIGTERM was delivered then, and none will be: only SIGKILL could have been.
                return true;
            }
            thread::sleep(Duration::from_micros(100));
        }
        false
    }

    fn go_on(&mut self) {
        if self.is_stopped
            && let Some(target) = TargetProcess::open(self.process.pid())
        {
            target.signal(Signal::CONT);
        }
        self.is_stopped = false;
    }

    /// Continues the child, and waits for its end.
    pub(super) fn join(mut self) -> Result<()> {
        self.go_on();
        self.gate = None;
        if self.is_joined {
            ensure!(self.process.join().is_err(), "it has a result a second time");
            return Ok(());
        }
        let Self { process, expected, signals, .. } = self;
        check(expected, &signals, &process.join())
    }

    fn take(&mut self, result: &multiproc::Result<u64>) -> Result<()> {
        if std::mem::replace(&mut self.is_joined, true) {
            ensure!(result.is_err(), "it has a result a second time");
            return Ok(());
        }
        check(self.expected, &self.signals, result)
    }
}

fn check(expected: Expected, signals: &[Signal], result: &multiproc::Result<u64>) -> Result<()> {
    match result {
        Err(error) if signals.iter().any(|signal| error.signal() == Some(signal.as_raw())) => Ok(()),
        result => expected.check(result),
    }
}
