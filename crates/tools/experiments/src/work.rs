//! Something to compute.

use std::hint::black_box;
use std::time::Duration;

use anyhow::Result;

use crate::measure::{median, time};

/// Computes for `turns` turns: random numbers, each from the one before it, so that nothing can be left out
/// and the memory plays no part.
pub fn burn(turns: u64) -> u64 {
    let mut number = black_box(0x2545_f491_4f6c_dd1d_u64);
    let mut turn = 0;
    while turn < turns {
        number ^= number << 13;
        number ^= number >> 7;
        number ^= number << 17;
        turn += 1;
    }
    black_box(number)
}

/// How many turns [`burn`] makes in this time, on this machine and in this build.
///
/// # Errors
/// None in practice.
pub fn turns_in(duration: Duration) -> Result<u64> {
    const SAMPLE: u32 = 100_000;
    let sample = median(7, || time(|| Ok(burn(SAMPLE.into()))))?;
    let turns = duration.as_nanos() * u128::from(SAMPLE) / sample.as_nanos().max(1);
    Ok(u64::try_from(turns)?.max(1))
}
