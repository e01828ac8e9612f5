//! Work with all that processes share: [`Locks`], a chunk of an array, a server, a queue and a joinable queue.
//!
//! What is not as it must be, whichever process is killed, is a panic or an error.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use anyhow::ensure;
use multiproc::queue::{
    self, JoinableReceiver, JoinableSender, Receiver, Sender, Unfinished, bounded, joinable,
};
use multiproc::server::Limit;
use multiproc::sync::Atomic;
use multiproc::{ArrayChunk, ErrorKind, Result, Server};
use serde::{Deserialize, Serialize};

use crate::locks::{Locks, PARTIES, ROUNDS};

pub(crate) const BEGUN: u64 = 1;
pub(crate) const FILLED: u64 = 2;

/// More than the parties send before they receive, and than killed ones leave behind.
const CAPACITY: u32 = 64;
const ITEMS: usize = (PARTIES * ROUNDS) as usize;

#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Mix {
    locks: Locks,
    queue: (Sender<u32>, Receiver<u32>),
    joinable: (JoinableSender<u32>, JoinableReceiver<u32>),
    server: Server<Atomic<u64>>,
    counts: Counts,
}

/// What parties have begun and what they know to be done. Of an item, by its number; of calls, their number.
#[derive(Clone, Serialize, Deserialize)]
struct Counts {
    sending: Atomic<[u32]>,
    sent: Atomic<[u32]>,
    received: Atomic<[u32]>,
    queued: Atomic<[u32]>,
    acknowledged: Atomic<[u32]>,
    calls: Atomic<u64>,
    replies: Atomic<u64>,
    /// Counted by the server.
    runs: Atomic<u64>,
}

impl Mix {
    /// For parties that may be killed, or not.
    pub(crate) fn new(is_disturbed: bool) -> Result<Self> {
        let counts = Counts::new()?;
        let server = Server::builder().restart(Limit::new(10, Duration::from_secs(3600)));
        Ok(Self {
            locks: Locks::new(is_disturbed)?,
            queue: bounded(CAPACITY)?,
            joinable: joinable(CAPACITY, Unfinished::Redeliver)?,
            server: server.spawn(|runs: Atomic<u64>| runs, (counts.runs.clone(),))?,
            counts,
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
            self.exchange_acknowledged(number)?;
            self.call()
        })?;
        chunk.take()?.fill(FILLED);
        Ok(())
    }

    /// Sends an item and receives one: with each that is received, one was sent before by the same party.
    fn exchange(&self, number: u32) -> Result<()> {
        let ((sender, receiver), counts) = (&self.queue, &self.counts);
        counts.sending[number as usize].fetch_add(1, SeqCst);
        sender.send(number)?;
        counts.sent[number as usize].fetch_add(1, SeqCst);
        let received = receiver.recv()?;
        counts.received[received as usize].fetch_add(1, SeqCst);
        Ok(())
    }

    fn exchange_acknowledged(&self, number: u32) -> Result<()> {
        let ((sender, receiver), counts) = (&self.joinable, &self.counts);
        sender.send(number)?;
        counts.queued[number as usize].fetch_add(1, SeqCst);
        let delivery = receiver.recv()?;
        if *delivery % 7 == 0 && delivery.attempt() == 1 {
            drop(delivery);
            acknowledge(receiver.recv()?, counts);
        } else {
            acknowledge(delivery, counts);
        }
        Ok(())
    }

    /// A call of a server that may be killed at that moment.
    fn call(&self) -> Result<()> {
        self.counts.calls.fetch_add(1, SeqCst);
        match self.server.call(|runs: &mut Atomic<u64>| runs.fetch_add(1, SeqCst), ()) {
            Err(error) if error.kind() == ErrorKind::Died => Ok(()),
            reply => {
                reply?;
                self.counts.replies.fetch_add(1, SeqCst);
                Ok(())
            }
        }
    }

    /// What must be possible when no party works any more.
    pub(crate) fn use_all(&self) -> Result<()> {
        self.locks.use_all()?;
        loop {
            match self.queue.1.try_recv() {
                Ok(number) => self.counts.received[number as usize].fetch_add(1, SeqCst),
                Err(error) if error.is_empty() => break,
                Err(error) => return Err(error),
            };
        }
        while self.joinable.0.unfinished() > 0 {
            acknowledge(self.joinable.1.recv()?, &self.counts);
        }
        self.joinable.0.join()?;
        self.call()?;
        self.call()
    }

    /// Whether each item and each call has come where it must, after this many kills.
    pub(crate) fn check(&self, kills: u64) -> anyhow::Result<()> {
        let Counts { sending, sent, received, queued, acknowledged, calls, replies, runs } = &self.counts;
        let mut lost = 0;
        for number in 0..ITEMS {
            let [sending, sent, received, queued, acknowledged] =
                [sending, sent, received, queued, acknowledged].map(|counts| counts[number].load(SeqCst));
            ensure!(received <= sending, "item {number} comes {received} times, sent {sending} times");
            lost += u64::from(sent.saturating_sub(received));
            ensure!(queued <= acknowledged, "item {number} of the joinable queue is lost");
            ensure!(
                u64::from(acknowledged) <= 1 + kills,
                "item {number} is acknowledged {acknowledged} times"
            );
        }
        // A receiver may be killed when it has taken an item, and not counted it.
        ensure!(lost <= kills, "{lost} items are lost by {kills} kills");
        let [calls, replies, runs] = [calls, replies, runs].map(|count| count.load(SeqCst));
        ensure!(replies <= runs && runs <= calls, "{runs} of {calls} calls have run, {replies} with a reply");
        Ok(())
    }
}

fn acknowledge(delivery: queue::Delivery<u32>, counts: &Counts) {
    counts.acknowledged[*delivery as usize].fetch_add(1, SeqCst);
    delivery.done();
}

impl Counts {
    fn new() -> Result<Self> {
        let items = || Atomic::from_slice(&[0_u32; ITEMS]);
        Ok(Self {
            sending: items()?,
            sent: items()?,
            received: items()?,
            queued: items()?,
            acknowledged: items()?,
            calls: Atomic::new(0)?,
            replies: Atomic::new(0)?,
            runs: Atomic::new(0)?,
        })
    }
}
