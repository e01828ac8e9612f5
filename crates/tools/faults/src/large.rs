//! Large values: around the sizes at which 32-bit numbers overflow, each arrives whole or is refused.

use std::fs;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use faults::Row;
use multiproc::{Pool, Process, queue};

/// The number of copies of a value that can be in memory at one time.
const COPIES: u64 = 4;

struct Case {
    name: &'static str,
    length: u64,
    /// Has another process make a value of this many bytes.
    fetch: fn(u64) -> multiproc::Result<Vec<u8>>,
}

const CASES: [Case; 5] = [
    Case { name: "a result of 2 GiB less 1 byte", length: (1 << 31) - 1, fetch: from_a_pool },
    Case { name: "a result of 2 GiB and 1 byte", length: (1 << 31) + 1, fetch: from_a_pool },
    Case { name: "a result of 4 GiB and 5 bytes", length: (1 << 32) + 5, fetch: from_a_pool },
    Case { name: "what a process returns, 4 GiB", length: 1 << 32, fetch: from_a_process },
    Case { name: "an item of a queue, 4 GiB and 5 bytes", length: (1 << 32) + 5, fetch: from_a_queue },
];

/// Fetches all for which there is memory.
pub(crate) fn run() -> Result<bool> {
    let mut good = true;
    for Case { name, length, fetch } in CASES {
        let mut line = Row::new("large", name);
        line.points = 1;
        if available()? < COPIES * length {
            line.fault.push_str(" (not tried: there is not enough memory)");
        } else {
            let begun = Instant::now();
            match fetch(length) {
                Ok(bytes) if is_whole(&bytes, length) => {
                    line.passed(Some(begun.elapsed().as_secs_f64() * 1e3));
                }
                Ok(_) => line.fail("it is torn".to_owned()),
                Err(error) => line.fail(error.to_string()),
            }
        }
        good &= line.failures.is_empty();
        line.print();
    }
    Ok(good)
}

/// A pattern that does not repeat at any power of two.
fn byte(index: usize) -> u8 {
    (index % 251).to_le_bytes()[0]
}

fn make(length: u64) -> Vec<u8> {
    let pattern: Vec<u8> = (0..251 * 4096).map(byte).collect();
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(usize::MAX));
    while (bytes.len() as u64) < length {
        let some = (length - bytes.len() as u64).min(pattern.len() as u64);
        bytes.extend_from_slice(&pattern[..usize::try_from(some).unwrap_or(0)]);
    }
    bytes
}

fn is_whole(bytes: &[u8], length: u64) -> bool {
    let pattern: Vec<u8> = (0..251 * 4096).map(byte).collect();
    bytes.len() as u64 == length && bytes.chunks(pattern.len()).all(|piece| pattern[..piece.len()] == *piece)
}

fn from_a_pool(length: u64) -> multiproc::Result<Vec<u8>> {
    Pool::new(1)?.apply(make, (length,))
}

fn from_a_process(length: u64) -> multiproc::Result<Vec<u8>> {
    Process::spawn(make, (length,))?.join()
}

fn from_a_queue(length: u64) -> multiproc::Result<Vec<u8>> {
    let (sender, receiver) = queue::bounded(1)?;
    let child = Process::spawn(
        |items: queue::Sender<Vec<u8>>, length: u64| items.send(make(length)).map_err(multiproc::Error::from),
        (sender, length),
    )?;
    let item = receiver.recv();
    child.join()??;
    item
}

/// How many bytes of memory are available.
fn available() -> Result<u64> {
    let memory = fs::read_to_string("/proc/meminfo")?;
    let line = memory.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kilobytes = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    let bytes = kilobytes.context("/proc/meminfo does not say how much memory is available")? * 1024;
    ensure!(bytes > 0, "the system has no memory");
    Ok(bytes)
}
