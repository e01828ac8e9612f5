//! The workload, the same for every entrant, and its expected results.

use std::hint::black_box;

use anyhow::Result;

use crate::program::Wrong;

pub const MIB: usize = 1 << 20;

/// The number of tasks of W6, and the argument of each.
pub const SUMS: usize = 200;
pub const BLOCK: usize = 8 * MIB;

/// How often each process takes the lock of W8, or adds to the counter.
pub const LOCKS: usize = 200_000;

/// All of it together, in thousands of bytes: a thousand a microsecond are a gigabyte a second.
pub const SUMS_AMOUNT: f64 = real(SUMS * BLOCK) / 1e3;

/// The elements of the array of W8 that is filled, and of a chunk of it.
pub const FILL: usize = 64 * MIB / size_of::<u64>();
pub const FILL_CHUNK: usize = MIB / size_of::<u64>();

/// All of it, in thousands of bytes.
pub const FILL_AMOUNT: f64 = real(64 * MIB) / 1e3;

/// Fills the elements of a chunk that begins at `first`.
#[inline(never)] // in every program the same code
pub fn fill(first: usize, elements: &mut [u64]) {
    for (number, element) in (first as u64..).zip(elements) {
        *element = cube(number ^ number >> 7);
    }
}

/// Whether all elements are what [`fill`] makes them.
pub fn check_filled(elements: &[u64]) -> Result<()> {
    let mut expected = vec![0; FILL_CHUNK];
    for (first, chunk) in (0..).step_by(FILL_CHUNK).zip(elements.chunks(FILL_CHUNK)) {
        fill(first, &mut expected);
        let is_filled = u64::from(chunk == expected);
        check(&format!("filled chunk at {first}"), 1, is_filled)?;
    }
    check("number of elements", FILL as u64, elements.len() as u64)
}

pub fn cube(number: u64) -> u64 {
    number.wrapping_mul(number).wrapping_mul(number)
}

/// The sum of all bytes.
#[inline(never)] // in every program the same code
pub fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().map(|&byte| u64::from(byte)).sum()
}

/// A count as a number to reckon with.
#[allow(clippy::cast_precision_loss)] // nothing here is counted up to 2⁵³
pub const fn real(count: usize) -> f64 {
    count as f64
}

/// Some bytes, of which no two neighbours are the same.
pub fn bytes(length: usize) -> Vec<u8> {
    (0_u8..=250).cycle().take(length).collect()
}

/// Memory that is really there, until it is dropped.
pub fn ballast(length: usize) -> Vec<u8> {
    black_box(vec![1; length])
}

/// Whether these are the cubes of all numbers below `items`, in order.
pub fn check_cubes(items: u64, cubes: &[u64]) -> Result<()> {
    check("number of results", items, cubes.len() as u64)?;
    let wrong = (0..items).zip(cubes).find(|(number, result)| cube(*number) != **result);
    wrong.map_or(Ok(()), |(number, &result)| check(&format!("result {number}"), cube(number), result))
}

/// Checks the number of results and their sum.
pub fn check_sum_of_cubes(items: u64, count: u64, total: u64) -> Result<()> {
    check("number of results", items, count)?;
    check(
        "sum of all results",
        (0..items).fold(0, |total: u64, number| total.wrapping_add(cube(number))),
        total,
    )
}

/// A wrong result is a [`Wrong`], which fails the whole benchmark.
pub fn check(what: &str, expected: u64, got: u64) -> Result<()> {
    if expected == got {
        Ok(())
    } else {
        Err(Wrong(format!("the {what} is {got} and not {expected}")).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_a_changed_and_a_misplaced_result_are_noticed() {
        let cubes: Vec<u64> = (0..100).map(cube).collect();
        assert!(check_cubes(100, &cubes).is_ok());
        assert!(check_cubes(101, &cubes).is_err());
        let mut misplaced = cubes.clone();
        misplaced.swap(3, 4);
        assert!(check_cubes(100, &misplaced).is_err());
        let total = cubes.iter().sum();
        assert!(check_sum_of_cubes(100, 100, total).is_ok());
        assert!(check_sum_of_cubes(100, 99, total).is_err());
        assert!(check_sum_of_cubes(100, 100, total + 1).is_err());
    }
}
