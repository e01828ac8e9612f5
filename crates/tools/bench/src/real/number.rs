//! Workloads that compute: their items are numbers.

use std::thread;
use std::time::Duration;

use anyhow::Result;
use nix::sys::signal::{Signal, raise};
use sha2::{Digest, Sha256};

use super::check_mapped;
use super::random::{Random, mix};
use crate::measure::Scale;
use crate::program::Wrong;
use crate::work::{MIB, bytes, check};

/// A chain of steps of 3 to 4 ns, each of which needs the one before.
fn chain(number: u64, steps: u32) -> u64 {
    (0..steps).fold(number, |number, step| mix(number.wrapping_add(u64::from(step))))
}

/// About 50 ns.
pub fn small(number: u64) -> u64 {
    chain(number, 14)
}

pub const SMALL_ITEMS: usize = 2_000_000;

/// About 5 µs, but of one item in 500 about 5 ms.
pub fn skewed(number: u64) -> u64 {
    chain(number, if number % 500 == 499 { 1_400_000 } else { 1_400 })
}

pub const SKEWED_ITEMS: usize = 40_000;

/// About 200 µs.
pub fn request(number: u64) -> u64 {
    chain(number, 56_000)
}

/// As [`request`], but one in a thousand kills its process.
pub fn crashing_request(number: u64) -> u64 {
    if is_deadly(number) {
        let _ = raise(Signal::SIGKILL);
    }
    request(number)
}

fn is_deadly(number: u64) -> bool {
    number % 1_000 == 499
}

/// How many requests each of the four threads makes.
const REQUESTS: usize = 1_500;
pub const CLIENTS: u64 = 4;

/// The numbers of the requests of one thread.
pub fn requests_of(client: u64, scale: Scale) -> impl Iterator<Item = u64> {
    (client..scale.times(REQUESTS) as u64 * CLIENTS).step_by(4)
}

/// What became of the requests of one thread or of all.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Answers {
    pub sum: u64,
    pub failed: u64,
}

impl Answers {
    #[must_use]
    pub fn record<E>(mut self, answer: std::result::Result<u64, E>) -> Self {
        match answer {
            Ok(number) => self.sum = self.sum.wrapping_add(number),
            Err(_) => self.failed += 1,
        }
        self
    }

    #[must_use]
    pub fn merge(self, other: Self) -> Self {
        Self { sum: self.sum.wrapping_add(other.sum), failed: self.failed + other.failed }
    }

    /// With crashes, exactly the deadly requests must have failed.
    pub fn check(self, scale: Scale, crashes: bool) -> Result<()> {
        let all = 0..scale.times(REQUESTS) as u64 * CLIENTS;
        let (failing, answered): (Vec<u64>, Vec<u64>) = all.partition(|&number| crashes && is_deadly(number));
        check("number of failed requests", failing.len() as u64, self.failed)?;
        let sum = answered.into_iter().fold(0_u64, |sum, number| sum.wrapping_add(request(number)));
        check("sum of all answers", sum, self.sum)
    }
}

/// A sleep of 1 ms.
pub fn nap(number: u64) -> u64 {
    thread::sleep(Duration::from_millis(1));
    number
}

pub const NAPS: usize = 5_000;

const WIDTH: u32 = 1_600;
const ITERATIONS: u16 = 512;

/// How many rows the picture has.
pub fn rows(scale: Scale) -> u64 {
    scale.times(WIDTH as usize) as u64
}

/// After how many iterations each point of a row is known not to be in the set.
pub fn mandelbrot_row((row, rows): (u64, u64)) -> Vec<u16> {
    let step = 2.6 / f64::from(WIDTH);
    let imaginary = (real_of(row) - real_of(rows - 1) / 2.0) * (2.6 / real_of(rows));
    (0..WIDTH).map(|column| escape(f64::from(column) * step - 2.0, imaginary)).collect()
}

fn escape(x: f64, y: f64) -> u16 {
    let (mut real, mut imaginary) = (0.0, 0.0);
    for iteration in 0..ITERATIONS {
        let (squared, other) = (real * real, imaginary * imaginary);
        if squared + other > 4.0 {
            return iteration;
        }
        imaginary = 2.0 * real * imaginary + y;
        real = squared - other + x;
    }
    ITERATIONS
}

#[allow(clippy::cast_precision_loss)] // the number of a row
fn real_of(number: u64) -> f64 {
    number as f64
}

/// The set lies the same above and below the axis. Every 97th row is computed again.
pub fn check_mandelbrot(scale: Scale, picture: &[Vec<u16>]) -> Result<()> {
    let rows = rows(scale);
    check("number of rows", rows, picture.len() as u64)?;
    let is_right = |row: usize| picture[row] == mandelbrot_row((row as u64, rows));
    let mirrored = picture.iter().eq(picture.iter().rev());
    if mirrored && (0..picture.len()).step_by(97).all(is_right) {
        Ok(())
    } else {
        Err(Wrong("a row of the Mandelbrot set is wrong".to_owned()).into())
    }
}

pub const SEEDS: usize = 2_000;
const SAMPLES: u32 = 100_000;

/// How many random points lie in a quarter of a circle.
pub fn hits(seed: u64) -> u64 {
    let mut random = Random(mix(seed));
    let is_hit = |_: &u32| {
        let (x, y) = (random.real(), random.real());
        x * x + y * y < 1.0
    };
    (0..SAMPLES).filter(is_hit).count() as u64
}

/// Every 97th is computed again, and all together must give π.
pub fn check_monte_carlo(scale: Scale, results: &[u64]) -> Result<()> {
    let seeds = scale.times(SEEDS) as u64;
    check_mapped(seeds, results, hits)?;
    let share = real_of(results.iter().sum()) / (real_of(seeds) * f64::from(SAMPLES));
    if (share * 4.0 - std::f64::consts::PI).abs() < 0.01 {
        Ok(())
    } else {
        Err(Wrong(format!("π is not {}", share * 4.0)).into())
    }
}

pub type Hash = [u8; 32];
const BLOB: usize = 8 * MIB;

/// Blobs that all differ, made one after another.
pub fn blobs(scale: Scale) -> impl Iterator<Item = Vec<u8>> {
    let template = bytes(BLOB);
    (0..scale.times(64) as u64).map(move |number| {
        let mut blob = template.clone();
        blob[..8].copy_from_slice(&number.to_le_bytes());
        blob
    })
}

pub fn hash(blob: &[u8]) -> Hash {
    Sha256::digest(blob).into()
}

/// Every 13th is computed again, and no two are the same.
pub fn check_hashes(scale: Scale, hashes: &[Hash]) -> Result<()> {
    check("number of hashes", scale.times(64) as u64, hashes.len() as u64)?;
    let is_right =
        |(number, (blob, expected)): (usize, (Vec<u8>, &Hash))| number % 13 > 0 || hash(&blob) == *expected;
    let mut different = hashes.to_vec();
    different.sort_unstable();
    different.dedup();
    check("number of different hashes", hashes.len() as u64, different.len() as u64)?;
    if blobs(scale).zip(hashes).enumerate().all(is_right) {
        Ok(())
    } else {
        Err(Wrong("a hash is wrong".to_owned()).into())
    }
}

/// 50 MB of numbers.
const TABLE: usize = 6_250_000;
pub const LOOK_UPS: usize = 40_000;

/// Stands for a table that is read from a file.
pub fn load_table() -> Vec<u64> {
    (0..TABLE as u64).map(mix).collect()
}

/// Two thousand entries of the table at random, about 20 µs.
pub fn look_up(table: &[u64], number: u64) -> u64 {
    let mut random = Random(mix(number));
    (0..2_000).fold(0_u64, |sum, _| sum.wrapping_add(table[random.below(table.len())]))
}

pub fn check_look_ups(scale: Scale, results: &[u64]) -> Result<()> {
    let table = load_table();
    check_mapped(scale.times(LOOK_UPS) as u64, results, |number| look_up(&table, number))
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: Scale = Scale { quick: true };

    #[test]
    fn a_wrong_row_is_noticed() {
        let rows = rows(QUICK);
        let mut picture: Vec<_> = (0..rows).map(|row| mandelbrot_row((row, rows))).collect();
        check_mandelbrot(QUICK, &picture).unwrap();
        picture[3][700] += 1;
        assert!(check_mandelbrot(QUICK, &picture).is_err());
    }

    #[test]
    fn a_lost_request_and_one_that_did_not_crash_are_noticed() {
        let few = Scale { quick: true };
        let answer = |number| if is_deadly(number) { Err(()) } else { Ok(request(number)) };
        let of = |client| requests_of(client, few).map(answer).fold(Answers::default(), Answers::record);
        let all = (0..CLIENTS).map(of).fold(Answers::default(), Answers::merge);
        all.check(few, true).unwrap();
        assert!(all.check(few, false).is_err());
        assert!(Answers { failed: all.failed + 1, ..all }.check(few, true).is_err());
        assert!(Answers { sum: all.sum + 1, ..all }.check(few, true).is_err());
    }

    #[test]
    fn swapped_hashes_are_noticed() {
        let mut hashes: Vec<_> = blobs(QUICK).map(|blob| hash(&blob)).collect();
        check_hashes(QUICK, &hashes).unwrap();
        hashes.swap(0, 1);
        assert!(check_hashes(QUICK, &hashes).is_err());
    }
}
