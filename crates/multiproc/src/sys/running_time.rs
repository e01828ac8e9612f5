//! The monotonic clock without the time for which this process was stopped: for limits, which end what exceeds
//! them.
//!
//! The kernel does not say that a process was stopped. So a thread that waits for an instant of this clock reads it at
//! least every [`CHECK_INTERVAL`]. A much longer gap between two reads means that the process was stopped, or that no
//! limit ran. The clock does not count the gap.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::clock;
use super::process_local::ProcessLocal;

/// The longest interval between two reads while a limit runs.
pub(crate) const CHECK_INTERVAL: Duration = Duration::from_millis(500);
/// After this time without a read the process was stopped: a read is that late only on a machine that is very
/// busy, and then the limits are longer.
pub(crate) const LONGEST_GAP: Duration = Duration::from_millis(750);

/// An instant of this clock.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct RunningTime(Duration);

impl RunningTime {
    pub(crate) fn now() -> Self {
        loop {
            let stopped = CLOCK.stopped.load(Acquire);
            let now = CLOCK.read(clock::nanos());
            // Otherwise a gap has ended meanwhile, by this thread or another, which does not belong to that time.
            if CLOCK.stopped.load(Acquire) == stopped {
                return Self(Duration::from_nanos(now));
            }
        }
    }

    /// Never, `None`, if the clock cannot represent that time.
    pub(crate) fn after(time: Duration) -> Option<Self> {
        Self::now().checked_add(time)
    }

    pub(crate) fn checked_add(self, time: Duration) -> Option<Self> {
        self.0.checked_add(time).map(Self)
    }

    pub(crate) fn is_past(self) -> bool {
        self <= Self::now()
    }

    pub(crate) fn elapsed(self) -> Duration {
        Self::now().0.saturating_sub(self.0)
    }

    /// For how long a thread may sleep that waits for this instant: zero once it is past.
    pub(crate) fn sleep_time(self) -> Duration {
        self.0.saturating_sub(Self::now().0).min(CHECK_INTERVAL)
    }

    /// The end of that sleep.
    pub(crate) fn sleep_until(self) -> Instant {
        Instant::now() + self.sleep_time()
    }
}

static CLOCK: Clock = Clock::new();
/// Held while a gap is added.
static ADDING: ProcessLocal<Mutex<()>> = ProcessLocal::new(|_| Mutex::default());

/// All in nanoseconds of the [monotonic clock](clock::nanos).
struct Clock {
    last_read: AtomicU64,
    /// The sum of all gaps. Grows before `last_read` shows the end of one.
    stopped: AtomicU64,
}

impl Clock {
    const fn new() -> Self {
        Self { last_read: AtomicU64::new(0), stopped: AtomicU64::new(0) }
    }

    fn read(&self, now: u64) -> u64 {
        if self.is_gap(now) {
            self.end_gap(now);
        } else {
            self.last_read.fetch_max(now, Release);
        }
        now.saturating_sub(self.stopped.load(Relaxed))
    }

    fn is_gap(&self, now: u64) -> bool {
        Duration::from_nanos(now.saturating_sub(self.last_read.load(Acquire))) > LONGEST_GAP
    }

    /// Counts the gap, unless another thread has.
    #[cold]
    fn end_gap(&self, now: u64) {
        let _adding = ADDING.get().lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_gap(now) {
            let gap = now.saturating_sub(self.last_read.load(Relaxed));
            self.stopped.fetch_add(gap, Relaxed);
            self.last_read.store(now, Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn time_without_a_read_does_not_count() {
        let clock = Clock::new();
        let begun = clock.read(100 * SECOND);
        let after = |now| clock.read(now) - begun;
        assert_eq!(after(100 * SECOND + SECOND / 2), SECOND / 2);
        assert_eq!(after(101 * SECOND), SECOND);
        assert_eq!(after(108 * SECOND), SECOND);
        assert_eq!(after(108 * SECOND + SECOND / 2), SECOND + SECOND / 2);
        // A thread that has read the monotonic clock before another one ended the gap.
        assert!(clock.read(107 * SECOND) <= begun + SECOND);
        assert_eq!(after(109 * SECOND), 2 * SECOND);
    }

    #[test]
    fn one_gap_is_counted_once_by_all_threads() {
        let clock = Clock::new();
        clock.read(SECOND);
        let read = || clock.read(100 * SECOND);
        let times = std::thread::scope(|scope| {
            [(); 4].map(|()| scope.spawn(read)).map(|thread| thread.join().unwrap())
        });
        assert_eq!(times, [times[0]; 4]);
        assert_eq!(clock.stopped.load(Relaxed), 100 * SECOND);
    }
}
