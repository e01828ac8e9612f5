//! When a worker flushes the output of its tasks, and makes their results visible.

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use super::WorkerSide;
use crate::pool::worker_rings::{BUSY, CLOCK_INTERVAL, VISIBLE, progress};
use crate::sys::atomic::Relaxed;

/// When to publish results. A clock read costs more than a small item, so there is one per interval: as many
/// items as take some microseconds together.
#[derive(Debug)]
pub(super) struct Clock {
    /// The number of items in an interval, and how many of them are left.
    pub(super) interval: u32,
    pub(super) left: u32,
    /// When the clock was read last, and its value when results became visible last.
    pub(super) read_at: Instant,
    published_at: Instant,
    notified_at: Instant,
    /// The total time of all items.
    busy: Duration,
    /// `busy` at the last flush of output.
    flushed: Duration,
}

/// The least and the most time of an interval, and its most items.
const MIN_CLOCK_INTERVAL: Duration = Duration::from_micros(5);
const MAX_CLOCK_INTERVAL: Duration = Duration::from_micros(20);
const MAX_INTERVAL_LEN: u32 = 2048;
/// The lengths of intervals in which output is flushed after each item. (The end of an interval of one item
/// flushes anyway.) Items of longer ones are so small (150 ns) that the flush would take over a twentieth of
/// their time, so it happens once per interval. An item with output is not that small: its system call alone
/// takes longer.
const FLUSHED_SINGLY: RangeInclusive<u32> = 2..=32;
/// The time between two publications while there are items.
const PUBLISH_AFTER: Duration = Duration::from_micros(500);

impl Clock {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        let zero = Duration::ZERO;
        Self {
            interval: 1,
            left: 1,
            read_at: now,
            published_at: now,
            notified_at: now,
            busy: zero,
            flushed: zero,
        }
    }

    /// Whether output is flushed after each item.
    #[inline]
    pub(super) fn flushes_singly(&self) -> bool {
        FLUSHED_SINGLY.contains(&self.interval)
    }
}

impl WorkerSide {
    /// Makes the results visible. A caller that needs all results of its call is woken no more often than
    /// every [`PUBLISH_AFTER`], and when this worker has no item left.
    fn publish(&mut self) {
        if self.visible == self.completed {
            return;
        }
        self.update_visible(Duration::ZERO);
        let clock = &mut self.clock;
        let is_time = clock.read_at - clock.notified_at >= PUBLISH_AFTER;
        if is_time || !self.wakeup_page.wakeups().are_patient() {
            clock.notified_at = clock.read_at;
            self.wakeup_page.notify_callers();
        }
    }

    /// Flushes the output of the running item. The flush counts as time of a timed item.
    pub(crate) fn flush_running(&mut self) {
        self.flush_up_to(self.completed.frames.wrapping_add(1), self.time_unread());
    }

    /// The time since the clock was read last.
    pub(super) fn time_unread(&self) -> Duration {
        self.clock.read_at.elapsed()
    }

    /// Flushes the output of the items up to this one, unless done. `unread` is the time that the clock has not
    /// counted for them yet.
    #[inline(never)]
    fn flush_up_to(&mut self, frames: u32, unread: Duration) {
        if self.flushed == frames {
            return;
        }
        // If the flush blocks, the pool must know of invisible results.
        self.rings.0.word32(CLOCK_INTERVAL).store(2, Relaxed);
        let ran = self.clock.busy.saturating_sub(self.clock.flushed) + unread;
        self.clock.flushed = self.clock.busy;
        if self.output.flush(ran) {
            self.clock.read_at = Instant::now(); // passing it to another thread is not the items' time
        }
        self.rings.0.word32(CLOCK_INTERVAL).store(self.clock.interval, Relaxed);
        self.flushed = frames;
    }

    /// Flushes the output of the completed item, so that it is not lost if the next one ends this process.
    #[inline(never)]
    pub(super) fn flush_between(&mut self) {
        if self.flushed != self.completed.frames && self.output.flush_between() {
            self.flushed = self.completed.frames;
        }
    }

    /// Makes the results visible, after a flush of their tasks' output. If that takes too long, the pool
    /// [takes them](crate::pool::worker_rings::Scope::Unflushed) as they are.
    pub(crate) fn update_visible(&mut self, unread: Duration) {
        if self.visible != self.completed {
            self.flush_up_to(self.completed.frames, unread);
            self.visible = self.completed;
            let nanos = u64::try_from(self.clock.busy.as_nanos()).unwrap_or(u64::MAX);
            self.rings.0.word64(BUSY).store(nanos, Relaxed);
            progress::publish(self.rings.0.word64(VISIBLE), self.visible);
            self.clock.published_at = self.clock.read_at;
        }
    }

    /// Reads the clock, publishes if due, and sets the next interval.
    #[cold]
    pub(super) fn end_interval(&mut self) {
        let time = self.read_clock();
        let clock = &mut self.clock;
        let before = clock.interval;
        if time > MAX_CLOCK_INTERVAL {
            let too_long = u32::try_from(time.as_nanos() / MAX_CLOCK_INTERVAL.as_nanos()).unwrap_or(u32::MAX);
            clock.interval = (before / too_long).max(1);
        } else if time < MIN_CLOCK_INTERVAL && clock.left == 0 {
            clock.interval = (before * 2).min(MAX_INTERVAL_LEN);
        }
        clock.left = clock.interval;
        let is_time = clock.read_at - clock.published_at >= PUBLISH_AFTER;
        self.rings.0.word32(CLOCK_INTERVAL).store(clock.interval, Relaxed);
        self.seen_requests = self.rings.requests().load(Relaxed);
        if before == 1 || self.clock.interval == 1 || is_time {
            // Always before the interval grows: the pool then knows that results may be invisible.
            self.publish();
        } else {
            self.flush_between();
        }
    }

    pub(super) fn read_clock(&mut self) -> Duration {
        let now = Instant::now();
        let time = now - self.clock.read_at;
        self.clock.busy += time;
        self.clock.read_at = now;
        time
    }
}
