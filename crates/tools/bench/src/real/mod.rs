//! The real workloads: their inputs, which are made from seeds, the functions that every entrant calls,
//! and what must come of them.

mod image;
mod number;
mod order;
mod random;
mod text;

pub use image::{check_thumbnails, jpegs, thumbnail};
pub use number::{
    Answers, CLIENTS, Hash, LOOK_UPS, NAPS, SEEDS, SKEWED_ITEMS, SMALL_ITEMS, blobs, check_hashes,
    check_look_ups, check_mandelbrot, check_monte_carlo, crashing_request, hash, hits, load_table, look_up,
    mandelbrot_row, nap, request, requests_of, rows, skewed, small,
};
pub use order::{Ledger, Order, Priced, order, order_count, price};
pub use text::{Counts, Expected, check_json, count_words, json_lines, merge, parse, texts};

use anyhow::Result;

use crate::work::check;

/// Whether `results` are those of `function` for all numbers below `count`, in order. Every 97th is computed
/// again.
pub fn check_mapped(count: u64, results: &[u64], function: impl Fn(u64) -> u64) -> Result<()> {
    check("number of results", count, results.len() as u64)?;
    for (number, &result) in (0..count).zip(results).step_by(97) {
        check(&format!("result {number}"), function(number), result)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_and_a_shifted_result_are_noticed() {
        let mut results: Vec<u64> = (0..1_000).map(small).collect();
        check_mapped(1_000, &results, small).unwrap();
        assert!(check_mapped(999, &results, small).is_err());
        results.rotate_left(1);
        assert!(check_mapped(1_000, &results, small).is_err());
    }
}
