//! W2, W3 and W6: a pool of two workers that are up already.

use std::ops::Range;

use anyhow::Result;
use bench::measure::{Scale, back_to_back, from_sleep, rate};
use bench::program::Measured;
use bench::work::{self, BLOCK, SUMS, SUMS_AMOUNT, check, check_cubes, cube, real};
use multiproc::pool::TaskHandle;
use multiproc::{Pool, SharedSlice};

pub(super) fn map(scale: Scale, items: usize) -> Result<Measured> {
    let pool = Pool::new(2)?;
    cubes(scale, items, |numbers| pool.map(cube, numbers))
}

pub(super) fn map_singly(scale: Scale) -> Result<Measured> {
    let pool = Pool::builder().workers(2).chunk_size(1).build()?;
    cubes(scale, 100_000, |numbers| pool.map(cube, numbers))
}

pub(super) fn submit(scale: Scale) -> Result<Measured> {
    let pool = Pool::new(2)?;
    cubes(scale, 10_000, |numbers| {
        let tasks = numbers.map(|number| pool.submit(cube, (number,)));
        let tasks: Vec<_> = tasks.collect::<multiproc::Result<_>>()?;
        tasks.into_iter().map(TaskHandle::get).collect()
    })
}

pub(super) fn submit_map(scale: Scale) -> Result<Measured> {
    let pool = Pool::new(2)?;
    cubes(scale, 1_000_000, |numbers| pool.submit_map(cube, numbers)?.get())
}

/// The elements of a slice, one by each task.
pub(super) fn map_sharing(scale: Scale) -> Result<Measured> {
    const ITEMS: usize = 100_000;
    let pool = Pool::new(2)?;
    let numbers: Vec<u64> = (0..ITEMS as u64).collect();
    let slice = SharedSlice::from_slice(&numbers)?;
    let element = |(slice, index): (SharedSlice<u64>, usize)| cube(slice[index]);
    rate(
        scale,
        real(ITEMS),
        || Ok(pool.map(element, (0..ITEMS).map(|index| (slice.clone(), index)))?),
        |results| check_cubes(ITEMS as u64, &results),
    )
}

/// The cubes of all numbers below `count`, as `call` gets them.
fn cubes(
    scale: Scale,
    count: usize,
    call: impl Fn(Range<u64>) -> multiproc::Result<Vec<u64>>,
) -> Result<Measured> {
    let items = count as u64;
    rate(scale, real(count), || Ok(call(0..items)?), |results| check_cubes(items, &results))
}

pub(super) fn apply_hot(scale: Scale) -> Result<Measured> {
    let pool = Pool::new(2)?;
    back_to_back(scale, || check("result", 27, pool.apply(cube, (3,))?))
}

pub(super) fn apply_from_sleep(scale: Scale) -> Result<Measured> {
    let pool = Pool::new(2)?;
    from_sleep(scale, || check("result", 27, pool.apply(cube, (3,))?))
}

/// Each task has bytes of its own, which are made when it is their turn.
pub(super) fn sums(scale: Scale) -> Result<Measured> {
    let block = work::bytes(BLOCK);
    let numbers = 0..SUMS as u64;
    let expected = work::sum(&block[8..]) * SUMS as u64
        + numbers.clone().map(|n| work::sum(&n.to_le_bytes())).sum::<u64>();
    let blocks = || {
        numbers.clone().map(|number| {
            let mut block = block.clone();
            block[..8].copy_from_slice(&number.to_le_bytes());
            block
        })
    };
    let pool = Pool::new(2)?;
    let add = |bytes: Vec<u8>| work::sum(&bytes);
    let work = || total(pool.imap_unordered(add, blocks()));
    rate(scale, SUMS_AMOUNT, work, |total| check("sum of all sums", expected, total))
}

pub(super) fn sums_of_shared_slice(scale: Scale) -> Result<Measured> {
    let block = work::bytes(BLOCK);
    let expected = work::sum(&block) * SUMS as u64;
    let shared_slice = SharedSlice::from_slice(&block)?;
    let pool = Pool::new(2)?;
    let add = |bytes: SharedSlice<u8>| work::sum(&bytes);
    let work = || total(pool.imap_unordered(add, std::iter::repeat_n(shared_slice.clone(), SUMS)));
    rate(scale, SUMS_AMOUNT, work, |total| check("sum of all sums", expected, total))
}

fn total(sums: impl Iterator<Item = multiproc::Result<u64>>) -> Result<u64> {
    Ok(sums.sum::<multiproc::Result<u64>>()?)
}
