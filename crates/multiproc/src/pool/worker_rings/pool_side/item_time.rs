//! How long items have run, by the words in which the worker says so.

use std::time::Duration;

use super::PoolSide;
use crate::pool::histogram::{BUCKETS, Histogram};
use crate::pool::worker_rings::{FAILED, IDLE, ITEM_STARTED_AT, RUN_TIME, RUN_TIMES};
use crate::sys::atomic::Relaxed;

impl PoolSide {
    /// The running time of the claimed item `now`, if it is timed and has begun.
    ///
    /// Never the time of an item whose result was taken: the worker resets it before it completes an item.
    pub(crate) fn running_for(&self, now: u64) -> Option<Duration> {
        let since = self.rings.0.word64(ITEM_STARTED_AT).load(Relaxed);
        let uncounted = if self.uncounted.0 == since { self.uncounted.1 } else { 0 };
        (since != 0).then(|| Duration::from_nanos(now.saturating_sub(since).saturating_sub(uncounted)))
    }

    /// Excludes the time between these instants from that of the running item.
    pub(crate) fn exclude_time(&mut self, from: u64, until: u64) {
        let since = self.rings.0.word64(ITEM_STARTED_AT).load(Relaxed);
        let before = if self.uncounted.0 == since { self.uncounted.1 } else { 0 };
        self.uncounted = (since, before.saturating_add(until.saturating_sub(from.max(since))));
    }

    /// The worker's time with items whose results were taken, and without items before the running one; and
    /// the number of errors among its results. A task may have overwritten them.
    pub(crate) fn totals(&self) -> (Duration, Duration, u64) {
        let word = |offset| self.rings.0.word64(offset).load(Relaxed);
        (Duration::from_nanos(word(RUN_TIME)), Duration::from_nanos(word(IDLE)), word(FAILED))
    }

    /// How long the worker's items have taken. A task may have overwritten it.
    pub(crate) fn run_times(&self) -> Histogram {
        let word = |bucket| self.rings.0.word64(RUN_TIMES + size_of::<u64>() * bucket);
        Histogram::of((0..BUCKETS).map(|bucket| word(bucket).load(Relaxed)))
    }
}
