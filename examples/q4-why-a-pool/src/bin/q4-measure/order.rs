//! The order in which tasks end, and that of their results.

use std::thread::sleep;
use std::time::Duration;

use anyhow::Result;
use experiments::Finding;
use multiproc::Pool;
use nix::time::{ClockId, clock_gettime};

/// Nanoseconds on a clock that is the same in all processes; 0 if there is none.
pub(crate) fn now() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
    u64::try_from(time.as_nanos()).unwrap_or(0)
}

pub(crate) fn of_input() -> Result<Finding> {
    let input = [100, 75, 50, 25];
    let results = Pool::new(input.len())?.map(nap, input)?;
    let naps: Vec<u64> = results.iter().map(|(millis, _)| *millis).collect();
    let mut by_end = results;
    by_end.sort_by_key(|(_, end)| *end);
    let ended: Vec<String> = by_end.iter().map(|(millis, _)| millis.to_string()).collect();
    let holds = naps == input && by_end.iter().map(|(millis, _)| millis).ne(&input);
    Ok(Finding::new(holds, format!("ended: {}", ended.join(", "))))
}

/// How long it slept, and when it ended.
fn nap(millis: u64) -> (u64, u64) {
    sleep(Duration::from_millis(millis));
    (millis, now())
}
