//! The time within which each call must return, whatever stands in shared memory.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::stalls::Stalls;
use crate::watchdog::Watchdog;

/// How much later than its limit a call may return on a busy machine.
const MARGIN: Duration = Duration::from_secs(5);

/// Measures calls, and names the current one to the watchdog.
pub(super) struct Bounds {
    watchdog: Watchdog,
    round: RefCell<String>,
    /// Whether locks may have holders in this round that live and never release them.
    has_living_holders: Cell<bool>,
    /// For each call, the longest time that it took beyond its limit.
    worst: RefCell<BTreeMap<&'static str, Duration>>,
}

impl Bounds {
    pub(super) fn new(watchdog: Watchdog) -> Self {
        Self {
            watchdog,
            round: RefCell::default(),
            has_living_holders: Cell::default(),
            worst: RefCell::default(),
        }
    }

    pub(super) fn begin_round(&self, name: &str, has_living_holders: bool) {
        self.has_living_holders.set(has_living_holders);
        self.watchdog.note(0, Some(name.to_owned()));
        name.clone_into(&mut self.round.borrow_mut());
    }

    /// Makes a call that must return within `limit`; an error if it returns much later.
    pub(super) fn within<R>(
        &self,
        limit: Duration,
        call: &'static str,
        make: impl FnOnce() -> R,
    ) -> Result<R> {
        self.watchdog.note(0, Some(format!("{}: {call}", self.round.borrow())));
        let (begun, stalls) = (Instant::now(), Stalls::begin());
        let returned = make();
        let late = begun.elapsed().saturating_sub(limit).saturating_sub(stalls.time());
        let mut worst = self.worst.borrow_mut();
        let worst = worst.entry(call).or_default();
        *worst = late.max(*worst);
        ensure!(late <= MARGIN, "{call} returns {late:.1?} after its limit of {limit:?}");
        Ok(returned)
    }

    /// Whether a call without a time limit has no bound in this round.
    pub(super) fn only_with_limits(&self) -> bool {
        self.has_living_holders.get()
    }

    /// As [`within`](Self::within), for a call that need not wait.
    pub(super) fn at_once<R>(&self, call: &'static str, make: impl FnOnce() -> R) -> Result<R> {
        self.within(Duration::ZERO, call, make)
    }

    /// The calls that were latest, and how late they were.
    pub(super) fn latest(&self) -> String {
        let mut calls: Vec<_> = self.worst.borrow().iter().map(|(call, late)| (*late, *call)).collect();
        calls.sort_unstable_by(|one, other| other.cmp(one));
        let calls: Vec<_> = calls.iter().take(8).map(|(late, call)| format!("{call} {late:.1?}")).collect();
        calls.join(", ")
    }
}
