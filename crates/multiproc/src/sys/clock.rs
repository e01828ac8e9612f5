//! The time, as all processes have it.

use nix::time::{ClockId, clock_gettime};

/// The system's clock that always goes forward, in nanoseconds; the standard library's times cannot be handed to another
/// process.
pub(crate) fn nanos() -> u64 {
    read(ClockId::CLOCK_MONOTONIC)
}

/// The same as of its last tick, of which there is one every 1 to 10 ms: read in a fifth of the time.
pub(crate) fn ticks() -> u64 {
    read(ClockId::CLOCK_MONOTONIC_COARSE)
}

fn read(clock: ClockId) -> u64 {
    // No Linux is without these clocks. If one were, no time would ever seem to pass.
    let now = clock_gettime(clock).unwrap_or(nix::sys::time::TimeSpec::new(0, 0));
    let (seconds, nanos) = (now.tv_sec().cast_unsigned(), now.tv_nsec().cast_unsigned());
    seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
}
