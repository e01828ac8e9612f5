//! The monotonic clock as a number, which other processes can read. (An `Instant` has no meaning there.)

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// `CLOCK_MONOTONIC` in nanoseconds: the same in all processes.
pub(crate) fn nanos() -> u64 {
    read(ClockId::CLOCK_MONOTONIC)
}

/// The same clock as of its last tick, every 1 to 10 ms, or later if the kernel is late with it. Takes a fifth of the
/// time to read.
pub(crate) fn coarse_nanos() -> u64 {
    read(ClockId::CLOCK_MONOTONIC_COARSE)
}

fn read(clock: ClockId) -> u64 {
    // Every Linux has these clocks.
    let now = clock_gettime(clock).unwrap_or(nix::sys::time::TimeSpec::new(0, 0));
    let (seconds, nanos) = (now.tv_sec().cast_unsigned(), now.tv_nsec().cast_unsigned());
    seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
}

/// In milliseconds, rounded up; at most 49 days. For options that hot structures hold.
#[allow(clippy::cast_possible_truncation)] // it is checked
pub(crate) const fn whole_millis(time: Duration) -> u32 {
    let millis = time.as_nanos().div_ceil(1_000_000);
    if millis > u32::MAX as u128 { u32::MAX } else { millis as u32 }
}
