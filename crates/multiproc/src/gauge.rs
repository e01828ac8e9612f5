//! Counts what is inside a queue, for all processes that hold one of its ends.
//!
//! The items themselves are in a socket, and the kernel neither counts them nor lets senders wait for there to be
//! fewer. So two words in shared memory count who came in and who went out. A process killed between taking an item
//! and counting it leaves the count too high by one; whoever then waits for room, or asks for the length, sees from
//! the socket that it is empty, and sets that right. Until it has been empty once, such a queue holds one item less than
//! it should; but it always takes one when it is empty, so senders and receivers that are alive go on.

use std::num::NonZeroUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::link::Link;
use crate::sys::futex;
use crate::sys::poll::Deadline;
use crate::wire::Pages;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Gauge {
    pages: Pages,
    capacity: u32,
}

#[derive(PartialEq)]
struct Count {
    entered: u64,
    left: u64,
}

const SIZE: NonZeroUsize = NonZeroUsize::new(4096).unwrap();
/// How many ever came in, how many ever went out, and a word that changes with each departure, to wait for.
const ENTERED: usize = 0;
const LEFT: usize = 8;
const DEPARTURES: usize = 16;
const WAITING: usize = 20;

/// How often one who waits for room looks whether the count is wrong.
const RECOUNT: Duration = Duration::from_millis(20);

impl Gauge {
    pub(crate) fn create(capacity: u32) -> Result<Self> {
        Ok(Self { pages: Pages::create(SIZE)?, capacity })
    }

    /// Counts one in; waits for room until the deadline. Says whether there was any.
    pub(crate) fn enter(&self, deadline: Deadline, link: &Link) -> Result<bool> {
        loop {
            let departures = self.departures().load(SeqCst);
            if self.try_enter() {
                return Ok(true);
            }
            // Full, with nothing in it to take: either somebody who was counted in is about to send, or the count is
            // wrong. To tell them apart takes a moment, which even one who does not want to wait must wait: else an
            // empty queue would be full to him for ever.
            if deadline.is_over() && !link.is_drained() {
                return Ok(false);
            }
            if link.is_abandoned()? {
                return Ok(true); // nobody will ever make room; sending is what says so
            }
            let before = self.count();
            let time =
                deadline.left().filter(|left| !left.is_zero()).map_or(RECOUNT, |left| left.min(RECOUNT));
            self.waiting().fetch_add(1, SeqCst);
            futex::wait(self.departures(), departures, Some(time));
            self.waiting().fetch_sub(1, SeqCst);
            if self.count() == before && link.is_drained() {
                self.recount(before.entered);
            }
        }
    }

    /// Counts one out.
    pub(crate) fn leave(&self) {
        self.left().fetch_add(1, SeqCst);
        self.announce();
    }

    /// How many are inside.
    pub(crate) fn inside(&self, link: &Link) -> usize {
        let Count { entered, left } = self.count();
        if link.is_drained() {
            0
        } else {
            usize::try_from(entered.saturating_sub(left)).unwrap_or(usize::MAX)
        }
    }

    fn try_enter(&self) -> bool {
        loop {
            let left = self.left().load(SeqCst);
            // A recount that met somebody between taking and counting has counted that one out twice.
            let entered = self.entered().fetch_max(left, SeqCst).max(left);
            if entered - left >= u64::from(self.capacity) {
                return false;
            }
            if self.entered().compare_exchange(entered, entered + 1, SeqCst, SeqCst).is_ok() {
                return true;
            }
        }
    }

    /// The socket is empty, so all who had come in by then have gone out.
    fn recount(&self, entered: u64) {
        self.left().fetch_max(entered, SeqCst);
        self.announce();
    }

    fn count(&self) -> Count {
        Count { entered: self.entered().load(SeqCst), left: self.left().load(SeqCst) }
    }

    fn announce(&self) {
        self.departures().fetch_add(1, SeqCst);
        if self.waiting().load(SeqCst) > 0 {
            futex::wake_all(self.departures());
        }
    }

    fn entered(&self) -> &AtomicU64 {
        self.pages.word64(ENTERED)
    }

    fn left(&self) -> &AtomicU64 {
        self.pages.word64(LEFT)
    }

    fn departures(&self) -> &AtomicU32 {
        self.pages.word32(DEPARTURES)
    }

    fn waiting(&self) -> &AtomicU32 {
        self.pages.word32(WAITING)
    }
}
