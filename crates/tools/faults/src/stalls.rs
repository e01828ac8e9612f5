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
        STALLED.fetch_add(excess(begun), Relaxed);
    }
}

/// With the stall that is not over, or that the thread has not added yet.
fn total() -> Duration {
    Duration::from_nanos(STALLED.load(Relaxed) + excess(ASLEEP_SINCE.load(Relaxed)))
}

/// How much longer than a pause it has been since then.
fn excess(since: u64) -> u64 {
    let pause = u64::try_from(PAUSE.as_nanos()).unwrap_or(u64::MAX);
    now().saturating_sub(since).saturating_sub(pause)
}

fn now() -> u64 {
    u64::try_from(ORIGIN.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_is_run_late_is_a_stall() {
        let stalls = Stalls::begin();
        let begun = now();
        assert!(stalls.time() <= Duration::from_nanos(now() - begun) + PAUSE);
        let since = now() - 40_000_000; // as if a sleep had begun 40 ms ago
        assert!(excess(since) >= 35_000_000);
        assert_eq!(excess(now()), 0);
    }
}
