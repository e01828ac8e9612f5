//! When a worker flushes the output of its tasks, and makes their results visible.

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use super::WorkerSide;
use crate::ipc::ring::Position;
use crate::pool::histogram;
use crate::pool::worker_rings::{IDLE, ITEMS_PER_CLOCK_READ, RUN_TIME, RUN_TIMES, VISIBLE, result_words};
use crate::sys::atomic::Relaxed;

/// When to make results visible. A clock read costs more than a small item, so there is one per interval: as
/// many items as take some microseconds together.
#[derive(Debug)]
pub(super) struct FlushSchedule {
    /// The number of items in an interval, and how many of them are left.
    pub(super) interval: u32,
    pub(super) left: u32,
    /// When the clock was read last, and its value when results became visible last.
    pub(super) read_at: Instant,
    made_visible_at: Instant,
    notified_at: Instant,
    /// The total time of all items.
    run_time: Duration,
    /// The total time without items.
    idle: Duration,
    /// `run_time` at the last flush of output.
    flushed: Duration,
    /// The number of items whose times are in the histogram, and the mean time of the last ones, in nanoseconds.
    timed: u32,
    mean: u64,
}

/// An interval of less time gets longer.
const MIN_CLOCK_INTERVAL: Duration = Duration::from_micros(5);
/// An interval of more time gets shorter.
const MAX_CLOCK_INTERVAL: Duration = Duration::from_micros(20);
/// The most items of an interval.
const MAX_INTERVAL_LEN: u32 = 2048;
/// Interval lengths with a flush after each item. At length 1 the end of the interval flushes. Above 32,
/// items take about 150 ns and a flush would cost over 5 %, so there is one flush per interval.
const FLUSHED_SINGLY: RangeInclusive<u32> = 2..=32;
/// The time between two stores of *visible* while there are items.
const VISIBILITY_INTERVAL: Duration = Duration::from_micros(500);

impl FlushSchedule {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        let zero = Duration::ZERO;
        Self {
            interval: 1,
            left: 1,
            read_at: now,
            made_visible_at: now,
            notified_at: now,
            run_time: zero,
            idle: zero,
            flushed: zero,
            timed: Position::START.frames,
            mean: 0,
        }
    }

    /// Whether output is flushed after each item.
    #[inline]
    pub(super) fn flushes_singly(&self) -> bool {
        FLUSHED_SINGLY.contains(&self.interval)
    }
}

/// In 64 bits: to divide 128, a worker would have another page of code loaded.
fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl WorkerSide {
    /// Makes the results visible, and wakes callers. One that needs all results of its call is woken no more
    /// often than every [`VISIBILITY_INTERVAL`], and when this worker has no item left.
    fn make_visible_and_notify(&mut self) {
        if self.visible == self.completed {
            return;
        }
        self.update_visible(Duration::ZERO);
        let schedule = &mut self.schedule;
        let is_time = schedule.read_at - schedule.notified_at >= VISIBILITY_INTERVAL;
        if !is_time && self.wakeup_page.wakeups().may_batch_wakeups() {
            return;
        }
        schedule.notified_at = schedule.read_at;
        if is_time && schedule.interval == 1 {
            self.wakeup_page.notify(); // of long items also the pool's thread: a future or a callback may wait
        } else {
            self.wakeup_page.notify_callers();
        }
    }

    /// Flushes the output of the running item. The flush counts as time of a timed item.
    pub(crate) fn flush_running(&mut self) {
        self.flush_up_to(self.completed.frames.wrapping_add(1), self.time_unread());
    }

    /// The time since the clock was read last.
    pub(super) fn time_unread(&self) -> Duration {
        self.schedule.read_at.elapsed()
    }

    /// Flushes the output of the items up to this one, unless done. `unread` is the time that the clock has not
    /// counted for them yet.
    #[inline(never)]
    fn flush_up_to(&mut self, frames: u32, unread: Duration) {
        if self.flushed == frames {
            return;
        }
        // If the flush blocks, the pool must know of invisible results.
        self.rings.0.word32(ITEMS_PER_CLOCK_READ).store(2, Relaxed);
        let ran = self.schedule.run_time.saturating_sub(self.schedule.flushed) + unread;
        self.schedule.flushed = self.schedule.run_time;
        if self.output.flush(ran) {
            // Passing it to another thread is not the items' time.
            let now = Instant::now();
            self.schedule.read_at = now.checked_sub(unread).unwrap_or(now);
        }
        self.rings.0.word32(ITEMS_PER_CLOCK_READ).store(self.schedule.interval, Relaxed);
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
            self.rings.0.word64(RUN_TIME).store(nanos(self.schedule.run_time), Relaxed);
            result_words::make_visible(self.rings.0.word64(VISIBLE), self.visible);
            self.schedule.made_visible_at = self.schedule.read_at;
        }
    }

    /// Reads the clock, makes results visible if due, and sets the next interval.
    #[cold]
    pub(super) fn end_interval(&mut self) {
        let time = self.read_clock();
        let schedule = &mut self.schedule;
        let before = schedule.interval;
        if time > MAX_CLOCK_INTERVAL {
            let too_long = nanos(time) / nanos(MAX_CLOCK_INTERVAL);
            schedule.interval = (before / u32::try_from(too_long).unwrap_or(u32::MAX)).max(1);
        } else if time < MIN_CLOCK_INTERVAL && schedule.left == 0 {
            schedule.interval = (before * 2).min(MAX_INTERVAL_LEN);
        }
        schedule.left = schedule.interval;
        let is_time = schedule.read_at - schedule.made_visible_at >= VISIBILITY_INTERVAL;
        self.rings.0.word32(ITEMS_PER_CLOCK_READ).store(schedule.interval, Relaxed);
        self.seen_requests = self.rings.requests().load(Relaxed);
        if before == 1 || self.schedule.interval == 1 || is_time {
            // With an interval of 1, the pool takes all results for visible; above, it asks for those that are not.
            self.make_visible_and_notify();
        } else {
            self.flush_between();
        }
    }

    /// The items that follow are of another function, so nothing is known of their time.
    pub(crate) fn begin_function(&mut self) {
        self.read_clock();
        self.make_visible_and_notify();
        (self.schedule.interval, self.schedule.left) = (1, 1);
        self.rings.0.word32(ITEMS_PER_CLOCK_READ).store(1, Relaxed);
    }

    /// The time since the clock was read was without items.
    pub(super) fn end_wait(&mut self) {
        let now = Instant::now();
        self.schedule.idle += now - self.schedule.read_at;
        self.schedule.read_at = now;
        self.rings.0.word64(IDLE).store(nanos(self.schedule.idle), Relaxed);
    }

    /// As after many items that take this long together.
    #[cfg(test)]
    pub(crate) fn set_interval(&mut self, items: u32) {
        (self.schedule.interval, self.schedule.left) = (items, items);
    }

    pub(super) fn read_clock(&mut self) -> Duration {
        let now = Instant::now();
        let time = now - self.schedule.read_at;
        self.schedule.run_time += time;
        self.schedule.read_at = now;
        self.count_times(time);
        time
    }

    /// Counts the items since the last time. For one item that is its own; several have taken microseconds together,
    /// and count by their mean time. If they took longer, that was one of them: a rare long item among short ones.
    fn count_times(&mut self, time: Duration) {
        let items = self.completed.frames.wrapping_sub(self.schedule.timed);
        if items == 0 {
            return;
        }
        self.schedule.timed = self.completed.frames;
        let others = items - 1;
        if others > 0 && time > MAX_CLOCK_INTERVAL {
            let usual = self.schedule.mean.saturating_mul(others.into()).min(nanos(MAX_CLOCK_INTERVAL));
            self.add_to_histogram(usual / u64::from(others), others);
            self.add_to_histogram(nanos(time) - usual, 1);
        } else {
            self.schedule.mean = nanos(time) / u64::from(items);
            self.add_to_histogram(self.schedule.mean, items);
        }
    }

    fn add_to_histogram(&self, nanos: u64, items: u32) {
        let count = self.rings.0.word64(RUN_TIMES + size_of::<u64>() * histogram::bucket(nanos));
        count.store(count.load(Relaxed).wrapping_add(u64::from(items)), Relaxed);
    }
}
