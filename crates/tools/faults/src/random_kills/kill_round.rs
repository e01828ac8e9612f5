//! A killer at random instants, and the record of the processes that it has killed.

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

use super::{BOUND, PATIENCE};
use crate::stalls::Stalls;
use crate::target::TargetProcess;

/// One round's.
pub(super) struct KillRound {
    pub(super) rng: StdRng,
    /// The instants of the kills, after the start of the work, in order.
    instants: Vec<Duration>,
    killed: Vec<Killed>,
    /// For each killed process, the number of failures that it may still explain: one or none.
    unexplained: BTreeMap<u32, u32>,
    /// The time from the first kill until all handles had their results.
    worst: Option<Duration>,
    /// The time meanwhile in which the machine did not run this program.
    stalled: Duration,
}

struct Killed {
    target: TargetProcess,
    /// Its descendants, which must die with it.
    descendants: Vec<TargetProcess>,
    at: Instant,
}

impl KillRound {
    /// Strikes up to `most` times while work is done that takes about this long.
    pub(super) fn new(seed: u64, max: u32, length: Duration) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let count = rng.random_range(1..=max);
        let mut instants: Vec<_> = (0..count).map(|_| length.mul_f64(rng.random_range(0.0..1.0))).collect();
        instants.sort_unstable();
        Self {
            rng,
            instants,
            killed: Vec::new(),
            unexplained: BTreeMap::new(),
            worst: None,
            stalled: Duration::ZERO,
        }
    }

    /// A round without kills.
    pub(super) fn none(seed: u64) -> Self {
        Self { instants: Vec::new(), ..Self::new(seed, 1, Duration::ZERO) }
    }

    /// Whether processes will be killed.
    pub(super) fn is_disturbed(&self) -> bool {
        !self.instants.is_empty()
    }

    /// Runs the work, and meanwhile kills processes that `candidates` names at that moment. The work ends
    /// when every handle has its result.
    pub(super) fn run<R>(&mut self, candidates: impl Fn() -> Vec<u32> + Send, work: impl FnOnce() -> R) -> R {
        let mut rng = StdRng::seed_from_u64(self.rng.random());
        let (begun, stalls) = (Instant::now(), Stalls::begin());
        let instants = std::mem::take(&mut self.instants);
        let (working, is_over) = mpsc::channel::<()>();
        let (done, killed) = thread::scope(|scope| {
            let killer = scope.spawn(move || {
                let mut killed = Vec::new();
                for instant in instants {
                    let left = instant.saturating_sub(begun.elapsed());
                    if is_over.recv_timeout(left) != Err(RecvTimeoutError::Timeout) {
                        break;
                    }
                    let target = candidates().choose(&mut rng).copied().and_then(TargetProcess::open);
                    killed.extend(target.and_then(Killed::inject));
                }
                killed
            });
            let done = work();
            let settled = Instant::now();
            self.stalled = stalls.time();
            drop(working);
            let killed = killer.join().unwrap_or_default();
            self.worst = killed.first().map(|first: &Killed| settled.saturating_duration_since(first.at));
            (done, killed)
        });
        for Killed { target, .. } in &killed {
            self.unexplained.insert(target.pid, 1);
        }
        self.killed = killed;
        done
    }

    /// Checks that a kill explains this error, and that it has explained no other.
    pub(super) fn expect_killed(&mut self, error: &Error) -> Result<()> {
        ensure!(error.signal() == Some(Signal::KILL.as_raw()), "it must not fail: {error}");
        let pid = error.pid().with_context(|| format!("it is not said who died: {error}"))?;
        let left =
            self.unexplained.get_mut(&pid).with_context(|| format!("no kill explains this: {error}"))?;
        ensure!(*left > 0, "this is not the first that fails by that kill: {error}");
        *left -= 1;
        Ok(())
    }

    pub(super) fn has_killed(&self, pid: u32) -> bool {
        self.unexplained.contains_key(&pid)
    }

    /// The number of killed processes.
    pub(super) fn count(&self) -> u64 {
        self.killed.len() as u64
    }

    /// Waits until the killed processes are dead, and their descendants with them.
    pub(super) fn wait_for_exits(&self) -> Result<()> {
        for Killed { target, descendants, .. } in &self.killed {
            for target in [target].into_iter().chain(descendants) {
                ensure!(target.has_ended(PATIENCE), "process {} lives on", target.pid);
            }
        }
        Ok(())
    }

    /// Returns the longest time until everything was settled.
    pub(super) fn settle(&self) -> Result<Option<Duration>> {
        self.wait_for_exits()?;
        let Self { worst, stalled, .. } = *self;
        let is_settled = worst.is_none_or(|worst| worst.saturating_sub(stalled) <= BOUND);
        ensure!(
            is_settled,
            "all was settled only after {worst:?}, {stalled:?} of which the machine was busy"
        );
        Ok(worst)
    }
}

impl Killed {
    fn inject(target: TargetProcess) -> Option<Self> {
        let descendants = target.descendants();
        let at = Instant::now();
        target.signal(Signal::KILL).then_some(Self { target, descendants, at })
    }
}
