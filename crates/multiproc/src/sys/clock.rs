//! The time, as all processes have it.

use nix::time::{ClockId, clock_gettime};

/// The system's clock that always goes forward, in nanoseconds; the standard library's times cannot be handed to another
/// process.
pub(crate) fn nanos() -> u64 {
    // No Linux is without this clock. If one were, no time would ever seem to pass.
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap_or(nix::sys::time::TimeSpec::new(0, 0));
    let (seconds, nanos) = (now.tv_sec().cast_unsigned(), now.tv_nsec().cast_unsigned());
    seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
}
