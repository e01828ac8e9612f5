//! Work with all that processes share: [`Locks`], a chunk of an array, a server, queues and joinable queues of
//! both kinds.
//!
//! What is not as it must be, whichever process is killed, is a panic or an error.

mod acknowledged;
mod exchange;

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use anyhow::ensure;
use multiproc::queue::{self, Unfinished};
use multiproc::server::Limit;
use multiproc::sync::Atomic;
use multiproc::{ArrayChunk, ErrorKind, Result, Server, wait_any};
use serde::{Deserialize, Serialize};

use crate::locks::{Locks, PARTIES, ROUNDS};
use exchange::Exchange;

pub(crate) use acknowledged::Acknowledged;

pub(crate) const BEGUN: u64 = 1;
pub(crate) const FILLED: u64 = 2;

/// More than the parties send before they receive, and than killed ones leave behind.
const CAPACITY: u32 = 64;
const ITEMS: usize = (PARTIES * ROUNDS) as usize;
/// For every so many items, a party waits for both queues at a time.
const WAITS_FOR_ANY: u32 = 16;

#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Mix {
    locks: Locks,
    bounded: Exchange,
    unbounded: Exchange,
    redelivers: Acknowledged,
    reports: Acknowledged,
    server: Server<Atomic<u64>>,
    calls: Calls,
}

/// How many calls parties have begun, and how many they know to be done.
#[derive(Clone, Serialize, Deserialize)]
struct Calls {
    begun: Atomic<u64>,
    replies: Atomic<u64>,
    /// Counted by the server.
    runs: Atomic<u64>,
}

impl Mix {
    /// For parties that may be killed, or not.
    pub(crate) fn new(is_disturbed: bool) -> Result<Self> {
        let calls = Calls { begun: Atomic::new(0)?, replies: Atomic::new(0)?, runs: Atomic::new(0)? };
        let server = Server::builder().restart(Limit::new(10, Duration::from_secs(3600)));
        Ok(Self {
            locks: Locks::new(is_disturbed)?,
            bounded: Exchange::new(queue::bounded(CAPACITY)?)?,
            unbounded: Exchange::new(queue::unbounded()?)?,
            redelivers: Acknowledged::new(Unfinished::Redeliver)?,
            reports: Acknowledged::new(Unfinished::Report)?,
            server: server.spawn(|runs: Atomic<u64>| runs, (calls.runs.clone(),))?,
            calls,
        })
    }

    pub(crate) fn server_pid(&self) -> u32 {
        self.server.pid()
    }

    /// What each party does, with a chunk of an array that is [`BEGUN`] before, and [`FILLED`] afterwards. A
    /// party that is killed keeps none of the others from it.
    pub(crate) fn work(self, party: u32, mut chunk: ArrayChunk<u64>) -> Result<()> {
        chunk.take()?.fill(BEGUN);
        self.locks.work_with(|round| {
            let number = party * ROUNDS + round;
            self.exchange(number)?;
            self.redelivers.exchange(number)?;
            self.reports.exchange(number)?;
            self.call()
        })?;
        chunk.take()?.fill(FILLED);
        Ok(())
    }

    fn exchange(&self, number: u32) -> Result<()> {
        let [first, second] = [&self.bounded, &self.unbounded];
        let replies = (first.send(number)?, second.send(number)?);
        if number.is_multiple_of(WAITS_FOR_ANY) {
            wait_any(&[first.receiver(), second.receiver()])?;
        }
        first.receive(number, replies.0)?;
        second.receive(number, replies.1)
    }

    /// A call of a server that may be killed at that moment.
    fn call(&self) -> Result<()> {
        self.calls.begun.fetch_add(1, SeqCst);
        match self.server.call(|runs: &mut Atomic<u64>| runs.fetch_add(1, SeqCst), ()) {
            Err(error) if error.kind() == ErrorKind::Died => Ok(()),
            reply => {
                reply?;
                self.calls.replies.fetch_add(1, SeqCst);
                Ok(())
            }
        }
    }

    /// What must be possible when no party works any more.
    pub(crate) fn use_all(&self) -> Result<()> {
        self.locks.use_all()?;
        self.bounded.receive_rest()?;
        self.unbounded.receive_rest()?;
        self.redelivers.receive_rest()?;
        self.reports.receive_rest()?;
        self.call()?;
        self.call()
    }

    /// Whether each item and each call has come where it must, after this many kills.
    pub(crate) fn check(&self, kills: u64) -> anyhow::Result<()> {
        self.bounded.check(kills)?;
        self.unbounded.check(kills)?;
        self.redelivers.check(kills)?;
        self.reports.check(kills)?;
        let [begun, replies, runs] =
            [&self.calls.begun, &self.calls.replies, &self.calls.runs].map(|count| count.load(SeqCst));
        ensure!(replies <= runs && runs <= begun, "{runs} of {begun} calls have run, {replies} with a reply");
        Ok(())
    }
}
