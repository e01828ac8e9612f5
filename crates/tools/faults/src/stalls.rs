//! The time in which the machine did not run this program: what is late by that is no fault of the library.
//!
//! A thread that sleeps notices the machine's pauses. Under load it misses some: the kernel prefers a thread that has
//! slept to one that computes. So beside other load the kernel's own count is used, [pressure stall information][psi].
//! Without such load it is not, since it also counts the time in which processes of this program wait for each other's
//! CPU, and the bounds would mean less.
//!
//! [psi]: https://docs.kernel.org/accounting/psi.html

use std::fs;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{LazyLock, Once, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

/// The stalls from its beginning on.
pub(crate) struct Stalls {
    before: Duration,
}

/// A thread sleeps for this time again and again. What a sleep takes longer is a stall.
const PAUSE: Duration = Duration::from_millis(5);

/// Set if other load is expected.
static IS_BESIDE_LOAD: OnceLock<()> = OnceLock::new();
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

/// Expects other load from now on.
pub(crate) fn expect_load() {
    let _ = IS_BESIDE_LOAD.set(());
}

fn watch() {
    loop {
        let begun = now();
        ASLEEP_SINCE.store(begun, Relaxed);
        thread::sleep(PAUSE);
        STALLED.fetch_add(excess(begun, now()), Relaxed);
    }
}

fn total() -> Duration {
    IS_BESIDE_LOAD.get().and_then(|()| pressure()).unwrap_or_else(slept)
}

/// The time in which some process waited for a CPU, where the kernel counts it.
fn pressure() -> Option<Duration> {
    some_total(&fs::read_to_string("/proc/pressure/cpu").ok()?)
}

/// The microseconds behind `total=` in the first line, that of `some`.
fn some_total(pressure: &str) -> Option<Duration> {
    let total = pressure.lines().next()?.strip_prefix("some ")?.split_once("total=")?.1;
    total.parse().ok().map(Duration::from_micros)
}

/// What the thread has noticed, with the stall that is not over or that it has not added yet.
fn slept() -> Duration {
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
    fn the_pressure_is_the_total_of_the_first_line() {
        let pressure = "some avg10=0.00 avg60=4.85 avg300=43.86 total=26950960421\n\
            full avg10=0.00 avg60=0.00 avg300=0.00 total=0\n";
        assert_eq!(some_total(pressure), Some(Duration::from_micros(26_950_960_421)));
        assert_eq!(some_total(""), None);
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
