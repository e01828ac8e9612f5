//! A killer at random instants, and the account of whom it has killed.

use std::collections::BTreeMap;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use multiproc::Error;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use rustix::process::Signal;

use super::BOUND;
use crate::victim::Victim;

/// One round's.
pub(super) struct Fire {
    pub(super) dice: StdRng,
    /// When it strikes, after the work has begun, in their order.
    instants: Vec<Duration>,
    fallen: Vec<Fallen>,
    /// For how many items each of the fallen still has to answer: one or none.
    unanswered: BTreeMap<u32, u32>,
    /// How long after the first kill all handles had their results.
    worst: Option<Duration>,
}

struct Fallen {
    victim: Victim,
    /// Whom it had started, which must follow it.
    family: Vec<Victim>,
    at: Instant,
}

impl Fire {
    /// Strikes up to `most` times while work is done that takes about so long.
    pub(super) fn new(seed: u64, most: u32, length: Duration) -> Self {
        let mut dice = StdRng::seed_from_u64(seed);
        let count = dice.random_range(1..=most);
        let mut instants: Vec<_> = (0..count).map(|_| length.mul_f64(dice.random_range(0.0..1.0))).collect();
        instants.sort_unstable();
        Self { dice, instants, fallen: Vec::new(), unanswered: BTreeMap::new(), worst: None }
    }

    /// Does not strike.
    pub(super) fn none(seed: u64) -> Self {
        Self { instants: Vec::new(), ..Self::new(seed, 1, Duration::ZERO) }
    }

    /// Does some work, while those are struck that `candidates` names at the moment. The work ends when every handle has
    /// come to its result.
    pub(super) fn over<R>(
        &mut self,
        candidates: impl Fn() -> Vec<u32> + Send,
        work: impl FnOnce() -> R,
    ) -> R {
        let mut dice = StdRng::seed_from_u64(self.dice.random());
        let begun = Instant::now();
        let instants = std::mem::take(&mut self.instants);
        let (working, is_over) = mpsc::channel::<()>();
        let (done, fallen) = thread::scope(|scope| {
            let killer = scope.spawn(move || {
                let mut fallen = Vec::new();
                for instant in instants {
                    let left = instant.saturating_sub(begun.elapsed());
                    if is_over.recv_timeout(left) != Err(RecvTimeoutError::Timeout) {
                        break;
                    }
                    let victim = candidates().choose(&mut dice).copied().and_then(Victim::open);
                    fallen.extend(victim.and_then(Fallen::strike));
                }
                fallen
            });
            let done = work();
            let settled = Instant::now();
            drop(working);
            let fallen = killer.join().unwrap_or_default();
            self.worst = fallen.first().map(|first: &Fallen| settled.saturating_duration_since(first.at));
            (done, fallen)
        });
        for Fallen { victim, .. } in &fallen {
            self.unanswered.insert(victim.pid, 1);
        }
        self.fallen = fallen;
        done
    }

    /// Whether something may have failed: because its process was killed, which has not been the reason for anything else.
    pub(super) fn answers_for(&mut self, error: &Error) -> Result<()> {
        ensure!(error.signal() == Some(Signal::KILL.as_raw()), "it must not fail: {error}");
        let pid = error.pid().with_context(|| format!("it is not said who died: {error}"))?;
        let left =
            self.unanswered.get_mut(&pid).with_context(|| format!("nobody has killed that one: {error}"))?;
        ensure!(*left > 0, "this is not the first that fails by that kill: {error}");
        *left -= 1;
        Ok(())
    }

    pub(super) fn has_killed(&self, pid: u32) -> bool {
        self.unanswered.contains_key(&pid)
    }

    /// How many were killed.
    pub(super) fn count(&self) -> u64 {
        self.fallen.len() as u64
    }

    /// Waits until those are dead that were killed, and whoever must follow them.
    pub(super) fn await_deaths(&self) -> Result<()> {
        for Fallen { victim, family, .. } in &self.fallen {
            for victim in [victim].into_iter().chain(family) {
                ensure!(victim.has_ended(BOUND), "process {} lives on", victim.pid);
            }
        }
        Ok(())
    }

    /// Gives how long it took at most until everything was settled.
    pub(super) fn settle(&self) -> Result<Option<Duration>> {
        self.await_deaths()?;
        ensure!(self.worst.is_none_or(|worst| worst <= BOUND), "all was settled only after {:?}", self.worst);
        Ok(self.worst)
    }
}

impl Fallen {
    fn strike(victim: Victim) -> Option<Self> {
        let family = victim.family();
        let at = Instant::now();
        victim.strike(Signal::KILL).then_some(Self { victim, family, at })
    }
}
