//! The state of a session.

use std::collections::{BTreeMap, HashMap};
use std::ops::{Deref, DerefMut};
use std::sync::MutexGuard;
use std::time::{Duration, Instant};

use multiproc::Error;

use super::Host;
use super::inbox::Content;
use super::outstanding::Outstanding;
use crate::build_id;
use crate::original;
use crate::stats::HostStats;

pub(super) struct State {
    /// Why the session is of no more use.
    pub(super) failure: Option<Error>,
    pub(super) outstanding: HashMap<u64, Outstanding>,
    /// The agents that have answered, by their ids.
    pub(super) hosts: BTreeMap<String, HostState>,
    /// What hosts have done, by their names.
    pub(super) stats: BTreeMap<String, HostStats>,
    /// While no host serves this build: when one was heard last, or else when the session began.
    pub(super) unserved_since: Option<Instant>,
    /// The first and the last refusal of a chunk by the broker since it has taken one.
    pub(super) refused: Option<(Instant, Instant)>,
    /// While broker or hosts have been silent for a lease: the error of calls that are older than a lease.
    pub(super) silence: Option<Error>,
}

#[derive(Clone)]
pub(super) struct HostState {
    pub(super) name: String,
    pub(super) build: String,
    pub(super) workers: u32,
    pub(super) seen: Instant,
}

/// A session's state, which others do not change meanwhile.
pub(super) enum Locked<'a> {
    Original(MutexGuard<'a, State>),
    /// In a forked copy: the thread that it lacks may have held the lock at the fork.
    Copy(Box<State>),
}

impl Locked<'_> {
    pub(super) fn copy() -> Self {
        Self::Copy(Box::new(State { failure: Some(original::forked_copy()), ..State::new() }))
    }
}

impl Deref for Locked<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        match self {
            Self::Original(state) => state,
            Self::Copy(state) => state,
        }
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut State {
        match self {
            Self::Original(state) => state,
            Self::Copy(state) => state,
        }
    }
}

impl State {
    pub(super) fn new() -> Self {
        Self {
            failure: None,
            outstanding: HashMap::new(),
            hosts: BTreeMap::new(),
            stats: BTreeMap::new(),
            unserved_since: Some(Instant::now()),
            refused: None,
            silence: None,
        }
    }

    /// The hosts that were not silent for a lease. The session's clock forgets the others, but not those of a broker
    /// that is silent, too, nor after the session's failure.
    pub(super) fn heard_within(&self, lease: Duration) -> impl Iterator<Item = &HostState> {
        self.hosts.values().filter(move |host| host.seen.elapsed() <= lease)
    }

    pub(super) fn stats_of(&mut self, host: &str) -> &mut HostStats {
        let new = || HostStats { name: host.to_owned(), ..HostStats::default() };
        self.stats.entry(host.to_owned()).or_insert_with(new)
    }

    /// Notes `count` results that a host has handed in, among them `errors`.
    pub(super) fn note_results(&mut self, content: &Content, errors: u64, count: u32) {
        let count = u64::from(count);
        match content {
            Content::Results { host, work, .. } => {
                let failed = errors.min(count);
                let stats = self.stats_of(host);
                stats.tasks_done += count - failed;
                stats.tasks_failed += failed;
                stats.running += *work;
            }
            Content::Lost(error) => {
                if let Some(host) = error.host() {
                    self.stats_of(host).tasks_failed += count;
                }
            }
        }
    }
}

impl HostState {
    pub(super) fn public(&self, own: &str) -> Host {
        Host {
            name: self.name.clone(),
            workers: self.workers,
            build: build_id::short(&self.build).to_owned(),
            serves: self.build == own,
        }
    }
}
