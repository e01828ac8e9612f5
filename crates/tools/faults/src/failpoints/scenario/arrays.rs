//! A shared array whose chunks children fill, and give back or return.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use multiproc::failpoints::now;
use multiproc::{ArrayChunk, Error, Process, SharedArray};

use super::{AllowedFailures, Observed};

const CHUNKS: usize = 4;
/// The elements of a chunk: it begins and ends inside of a page.
const CHUNK: usize = 1_000;
const FILLED: u64 = 1;
const RETURNED: u64 = 2;
/// How long chunks may be on their way; what comes late is noticed in any case.
const BOUND: Duration = Duration::from_secs(20);

pub(super) fn filled(allowed: AllowedFailures) -> Result<Observed> {
    let mut observed = Observed::default();
    let array = SharedArray::<u64>::zeroed(CHUNK * CHUNKS);
    let Some(mut array) = observed.tolerate(array, allowed)? else { return Ok(observed) };
    let Some(chunks) = observed.tolerate(array.chunks_mut(CHUNK), allowed)? else { return Ok(observed) };
    let children: Vec<_> = chunks.enumerate().map(|(number, chunk)| spawn(number, chunk)).collect();
    let mut are_whole = Vec::new();
    for child in children {
        let end = observed.tolerate(child.and_then(Process::join), allowed)?;
        are_whole.push(match end {
            Some(Ok(chunk)) => chunk.map_or(Ok(true), |chunk| take_back(chunk, allowed))?,
            Some(Err(error)) if !allowed.is_refusal(&error) => bail!("a child fails: {error}"),
            _ => false,
        });
    }
    ensure!(array.join_timeout(BOUND)?, "a chunk is not back");
    observed.settled = Some(now());
    let Some(elements) = observed.tolerate(array.into_shared(), allowed)? else { return Ok(observed) };
    for (chunk, is_whole) in elements.chunks(CHUNK).zip(are_whole) {
        ensure!(chunk.iter().all(|element| [0, FILLED, RETURNED].contains(element)), "elements are torn");
        ensure!(!is_whole || chunk.iter().all(|&element| element != 0), "a chunk is not filled");
    }
    Ok(observed)
}

/// Every other child returns its chunk.
fn spawn(number: usize, chunk: ArrayChunk<u64>) -> Result<Process<Filled>, Error> {
    Process::spawn(fill, (chunk, number.is_multiple_of(2)))
}

type Filled = Result<Option<ArrayChunk<u64>>, Error>;

fn fill(mut chunk: ArrayChunk<u64>, returns: bool) -> Filled {
    chunk.take()?.fill(FILLED);
    Ok(returns.then_some(chunk))
}

/// The handle that was returned has the chunk, with all that the child wrote.
fn take_back(mut chunk: ArrayChunk<u64>, allowed: AllowedFailures) -> Result<bool> {
    match chunk.take() {
        Err(error) if allowed.is_refusal(&error) => Ok(false),
        elements => {
            let elements = elements?;
            ensure!(elements.iter().all(|&element| element == FILLED), "other elements come back");
            elements.fill(RETURNED);
            Ok(true)
        }
    }
}
