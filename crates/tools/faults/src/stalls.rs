//! The time in which the machine did not run this program: what is late by that is no fault of the library.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{LazyLock, Once};
use std::thread;
use std::time::{Duration, Instant};

/// The stalls from its beginning on.
pub(crate) struct Stalls {
    before: Duration,
}

/// A thread sleeps for this time again and again. What a sleep takes longer is a stall.
const PAUSE: Duration = Duration::from_millis(5);

static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
/// The sum of all stalls, and when the present sleep began, both in nanoseconds.
static STALLED: AtomicU64 = AtomicU64::new(0);
static ASLEEP_SINCE: AtomicU64 = AtomicU64::new(0);

impl Stalls {
    pub(crate) fn begin() -> Self {
        static WATCH: Once = Once::new();
        WATCH.call_once(|| {
            ASLEEP_SINCE.store(now(), Relaxed);
            thread::spawn(watch);
        });
        Self { before: total() }
    }

    pub(crate) fn time(&self) -> Duration {
        total().saturating_sub(self.before)
    }
}

fn watch() {
    loop {
        let begun = now();
        ASLEEP_SINCE.store(begun, Relaxed);
        thread::sleep(PAUSE);
        STALLED.fetch_add(excess(begun, now()), Relaxed);
    }
}

/// With the stall that is not over, or that the thread has not added yet.
fn total() -> Duration {
    Duration::from_nanos(STALLED.load(Relaxed) + excess(ASLEEP_SINCE.load(Relaxed), now()))
}

/// How much longer than a pause it has been `since` then.
fn excess(since: u64, now: u64) -> u64 {
    let pause = u64::try_from(PAUSE.as_nanos()).unwrap_or(u64::MAX);
    now.saturating_sub(since).saturating_sub(pause)
}

fn now() -> u64 {
    u64::try_from(ORIGIN.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_sleep_takes_longer_than_a_pause_is_a_stall() {
        let millis = |count: u64| count * 1_000_000;
        assert_eq!(excess(millis(100), millis(140)), millis(35));
        assert_eq!(excess(millis(100), millis(104)), 0);
        assert_eq!(excess(millis(100), millis(99)), 0);
    }

    #[test]
    fn stalls_are_no_longer_than_the_time() {
        let begun = Instant::now();
        let stalls = Stalls::begin();
        thread::sleep(3 * PAUSE);
        let time = stalls.time();
        assert!(time <= begun.elapsed(), "{time:?}");
    }
}
