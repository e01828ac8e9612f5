//! How many processors this process may use, and whether to wait on one without sleeping.

use std::hint;
use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

/// Asked once, since the answer is put together from several files, which takes as long as a fork.
static CPUS: LazyLock<usize> = LazyLock::new(|| thread::available_parallelism().map_or(1, usize::from));

pub(crate) fn cpus() -> usize {
    *CPUS
}

/// Whether others run while this thread does not let go of its processor: only then does it help to wait without sleeping.
#[inline]
pub(crate) fn is_smp() -> bool {
    *CPUS > 1
}

/// Whether one should look for a moment before sleeping, for whom that was in vain so many times in a row: the first few
/// times, and then only now and then, to see whether it is different now.
pub(crate) fn should_spin(in_vain: u32) -> bool {
    in_vain < 4 || in_vain.is_multiple_of(32)
}

/// How long a pool's threads spin before they yield the CPU.
pub(crate) const YIELD_AFTER: Duration = Duration::from_micros(2);

/// Spins until `is_done` or `time` is over; returns whether it is done. Reads the clock once every `checks` checks.
/// Yields the CPU every `yield_after`, for a peer that may be queued on it.
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
