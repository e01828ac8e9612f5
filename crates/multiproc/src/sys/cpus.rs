//! How many CPUs this process may use, and adaptive spinning: whether to spin before sleeping.

use std::hint;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

/// Cached: the standard library reads several files for it, which takes as long as a fork. 0 before the first
/// use. No lock guards it: a copy that is forked meanwhile would wait for a thread that it lacks.
static CPUS: AtomicUsize = AtomicUsize::new(0);

#[inline]
pub(crate) fn cpus() -> usize {
    match CPUS.load(Relaxed) {
        0 => count_cpus(),
        known => known,
    }
}

#[cold]
fn count_cpus() -> usize {
    let count = thread::available_parallelism().map_or(1, usize::from);
    match CPUS.compare_exchange(0, count, Relaxed, Relaxed) {
        Ok(_) => count,
        Err(of_another_thread) => of_another_thread,
    }
}

/// Whether other threads run while this one spins. On one CPU, spinning only delays them.
#[inline]
pub(crate) fn is_smp() -> bool {
    cpus() > 1
}

/// Whether to spin before sleeping, after `failed_spins` in a row: the first few times, then one time in 32
/// to find out whether spinning helps by now.
pub(crate) fn should_spin(failed_spins: u32) -> bool {
    failed_spins < 4 || failed_spins.is_multiple_of(32)
}

/// How long a pool's threads spin before they yield the CPU.
pub(crate) const YIELD_AFTER: Duration = Duration::from_micros(1);

/// Spins until `is_done` or `time` is over; returns whether it is done. Reads the clock once every `checks`
/// checks. Yields the CPU every `yield_after`, for a peer that may be queued on it.
pub(crate) fn spin(
    time: Duration,
    checks: u32,
    yield_after: Duration,
    mut is_done: impl FnMut() -> bool,
) -> bool {
    if time.is_zero() {
        return false;
    }
    let start = Instant::now();
    let mut yielded = start;
    loop {
        for _ in 0..checks {
            if is_done() {
                return true;
            }
            hint::spin_loop();
        }
        let now = Instant::now();
        if now - start > time {
            return false;
        }
        if now - yielded > yield_after {
            thread::yield_now();
            yielded = now;
        }
    }
}
