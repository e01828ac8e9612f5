//! A joinable queue through which parties exchange items.

use std::sync::atomic::Ordering::SeqCst;

use anyhow::ensure;
use multiproc::queue::{Delivery, JoinableReceiver, JoinableSender, Unfinished, joinable};
use multiproc::sync::Atomic;
use multiproc::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use super::{CAPACITY, ITEMS};

/// With items that come again when their receiver is killed, or are reported.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Acknowledged {
    sender: JoinableSender<u32>,
    receiver: JoinableReceiver<u32>,
    comes_again: bool,
    queued: Atomic<[u32]>,
    done: Atomic<[u32]>,
    /// How many items were reported as lost.
    reported: Atomic<u64>,
}

impl Acknowledged {
    pub(crate) fn new(unfinished: Unfinished) -> Result<Self> {
        let comes_again = unfinished == Unfinished::Redeliver;
        let (sender, receiver) = joinable(CAPACITY, unfinished)?;
        let counts = || Atomic::from_slice(&[0_u32; ITEMS]);
        let (queued, done, reported) = (counts()?, counts()?, Atomic::new(0)?);
        Ok(Self { sender, receiver, comes_again, queued, done, reported })
    }

    /// Sends an item and receives one; drops some of them the first time, if they come again.
    pub(crate) fn exchange(&self, number: u32) -> Result<()> {
        self.sender.send(number)?;
        self.queued[number as usize].fetch_add(1, SeqCst);
        let delivery = self.receiver.recv()?;
        if self.comes_again && *delivery % 7 == 0 && delivery.attempt() == 1 {
            drop(delivery);
            self.acknowledge(self.receiver.recv()?);
        } else {
            self.acknowledge(delivery);
        }
        Ok(())
    }

    fn acknowledge(&self, delivery: Delivery<u32>) {
        self.done[*delivery as usize].fetch_add(1, SeqCst);
        delivery.done();
    }

    /// Receives what is left when no party works any more.
    pub(crate) fn receive_rest(&self) -> Result<()> {
        loop {
            match self.receiver.try_recv() {
                Ok(delivery) => self.acknowledge(delivery),
                // An item of a killed receiver may still have to come again.
                Err(error) if error.is_empty() && self.comes_again && self.sender.unfinished() > 0 => {
                    self.acknowledge(self.receiver.recv()?);
                }
                Err(error) if error.is_empty() => break,
                Err(error) => return Err(error),
            }
        }
        match self.sender.join() {
            Err(error) if error.kind() == ErrorKind::Unacknowledged && !self.comes_again => {
                self.reported.fetch_add(number_of_lost(&error), SeqCst);
                Ok(())
            }
            joined => joined,
        }
    }

    /// Whether each item has come where it must, after this many kills.
    pub(crate) fn check(&self, kills: u64) -> anyhow::Result<()> {
        let mut lost = 0;
        for number in 0..ITEMS {
            let [queued, acknowledged] = [&self.queued, &self.done].map(|counts| counts[number].load(SeqCst));
            lost += u64::from(queued.saturating_sub(acknowledged));
            let most = if self.comes_again { 1 + kills } else { 1 };
            ensure!(u64::from(acknowledged) <= most, "item {number} is acknowledged {acknowledged} times");
        }
        let reported = self.reported.load(SeqCst);
        ensure!(lost <= reported, "{lost} items of a joinable queue are lost, {reported} reported");
        // A process that is killed while it counts a loss has it counted once more.
        ensure!(reported <= 2 * kills, "{reported} items are reported, after {kills} kills");
        Ok(())
    }
}

/// The text begins with the number, if there are several.
fn number_of_lost(error: &Error) -> u64 {
    error.to_string().split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(1)
}
