//! Single children: started, struck, joined.

use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use multiproc::{Connection, Process, pipe};
use rand::RngExt;
use rand::rngs::StdRng;
use rustix::process::Signal;

use super::job::{self, Due, Job, perform};
use super::world::{World, timely};
use crate::victim::Victim;

/// One of them, and what must come of it.
pub(super) struct Child {
    process: Process<u64>,
    due: Due,
    /// It waits until this is dropped.
    gate: Option<Connection<(), ()>>,
    /// The signals that it may have died of.
    struck: Vec<Signal>,
    is_stopped: bool,
    /// Its result was taken.
    is_joined: bool,
}

/// So many at most.
const MOST: usize = 6;

pub(super) fn start(world: &mut World, dice: &mut StdRng) -> Result<()> {
    if world.children.len() >= MOST {
        world.children.remove(0).join()?;
    }
    world.children.push(Child::start(dice)?);
    Ok(())
}

pub(super) fn kill(world: &mut World, dice: &mut StdRng) -> Result<()> {
    let child = any(world, dice)?;
    child.process.kill()?;
    child.struck.push(Signal::KILL);
    Ok(())
}

pub(super) fn terminate(world: &mut World, dice: &mut StdRng) -> Result<()> {
    let child = any(world, dice)?;
    child.process.terminate()?;
    child.struck.push(Signal::TERM);
    child.is_stopped = false;
    Ok(())
}

pub(super) fn stop(world: &mut World, dice: &mut StdRng) -> Result<()> {
    let limit = Duration::from_millis(dice.random_range(1..20));
    let child = any(world, dice)?;
    if !child.is_joined && child.stop() {
        let waited =
            timely(limit, || child.process.join_timeout(limit), |joined| matches!(joined, Ok(None)))?;
        ensure!(matches!(waited, Ok(None)), "a stopped child comes to {waited:?}");
        ensure!(child.process.is_alive(), "a stopped child is taken for dead");
    }
    Ok(())
}

pub(super) fn go_on(world: &mut World, dice: &mut StdRng) -> Result<()> {
    let child = any(world, dice)?;
    child.go_on();
    Ok(())
}

pub(super) fn join(world: &mut World, dice: &mut StdRng) -> Result<()> {
    any(world, dice)?;
    let place = dice.random_range(0..world.children.len());
    world.children.swap_remove(place).join()
}

pub(super) fn join_timeout(world: &mut World, dice: &mut StdRng) -> Result<()> {
    let limit = Duration::from_micros(dice.random_range(0..20_000));
    let child = any(world, dice)?;
    let joined = timely(limit, || child.process.join_timeout(limit), |joined| matches!(joined, Ok(None)))?;
    match joined.transpose() {
        Some(result) => child.take(&result),
        None => Ok(()),
    }
}

pub(super) fn detach(world: &mut World, dice: &mut StdRng) -> Result<()> {
    any(world, dice)?;
    let place = dice.random_range(0..world.children.len());
    let mut child = world.children.swap_remove(place);
    child.go_on();
    Ok(())
}

/// One of those there are; if there are none, a new one.
fn any<'a>(world: &'a mut World, dice: &mut StdRng) -> Result<&'a mut Child> {
    if world.children.is_empty() {
        world.children.push(Child::start(dice)?);
    }
    let place = dice.random_range(0..world.children.len());
    Ok(&mut world.children[place])
}

impl Child {
    fn start(dice: &mut StdRng) -> Result<Self> {
        let (gate, (job, due)) = if dice.random_bool(0.3) {
            let (ours, theirs) = pipe()?;
            let value = dice.random_range(0..1000);
            (Some(ours), (Job::Wait(theirs, value), Due::Value(value)))
        } else {
            (None, job::any(dice, true)?)
        };
        let process = Process::spawn(perform, (job,))?;
        Ok(Self { process, due, gate, struck: Vec::new(), is_stopped: false, is_joined: false })
    }

    /// Stops it; says whether it is stopped.
    fn stop(&mut self) -> bool {
        let Some(victim) = Victim::open(self.process.pid()) else { return false };
        if !victim.strike(Signal::STOP) {
            return false;
        }
        self.is_stopped = true;
        while !victim.has_ended(Duration::ZERO) {
            let stat = fs::read_to_string(format!("/proc/{}/stat", victim.pid)).unwrap_or_default();
            if stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T')) {
                // What was to kill it has then not come through, and does not: only SIGKILL, which was before.
                return true;
            }
            thread::sleep(Duration::from_micros(100));
        }
        false
    }

    fn go_on(&mut self) {
        if self.is_stopped
            && let Some(victim) = Victim::open(self.process.pid())
        {
            victim.strike(Signal::CONT);
        }
        self.is_stopped = false;
    }

    /// Waits for its end, as it goes on now.
    pub(super) fn join(mut self) -> Result<()> {
        self.go_on();
        self.gate = None;
        if self.is_joined {
            ensure!(self.process.join().is_err(), "it has a result a second time");
            return Ok(());
        }
        let Self { process, due, struck, .. } = self;
        check(due, &struck, &process.join())
    }

    fn take(&mut self, result: &multiproc::Result<u64>) -> Result<()> {
        if std::mem::replace(&mut self.is_joined, true) {
            ensure!(result.is_err(), "it has a result a second time");
            return Ok(());
        }
        check(self.due, &self.struck, result)
    }
}

fn check(due: Due, struck: &[Signal], result: &multiproc::Result<u64>) -> Result<()> {
    match result {
        Err(error) if struck.iter().any(|signal| error.signal() == Some(signal.as_raw())) => Ok(()),
        result => due.check(result),
    }
}
