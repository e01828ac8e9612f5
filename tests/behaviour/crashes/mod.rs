//! **Crashes**: an error shows what crashed and where, and nothing hangs or is lost.

mod functions;
mod lines;
mod stress;

use std::hint::black_box;

use libtest_mimic::Trial;
use multiproc::{Error, Process, RemoteFn};
use nix::sys::signal::Signal;
use tests::dereference;

pub(crate) fn trials() -> Vec<Trial> {
    [functions::trials(), lines::trials(), stress::trials()].into_iter().flatten().collect()
}

#[inline(never)]
fn first_level(address: usize) -> u8 {
    black_box(second_level(black_box(address))).wrapping_add(1) // calls the second
}

#[inline(never)]
fn second_level(address: usize) -> u8 {
    black_box(third_level(black_box(address))).wrapping_add(1) // calls the third
}

#[inline(never)]
fn third_level(address: usize) -> u8 {
    black_box(dereference(black_box(address))).wrapping_add(1) // reads
}

#[inline(never)]
fn overflow_the_stack(depth: u64) -> u64 {
    let block = black_box([depth; 100]);
    if depth == u64::MAX {
        return 0;
    }
    black_box(overflow_the_stack(depth + 1)) // goes deeper
        + block[usize::try_from(depth % 100).unwrap()]
}

fn ignore<T>(_: T) {}

fn died_of<F: RemoteFn<()>>(function: F, signal: Signal) -> Result<Error, Error>
where
    F::Output: serde::Serialize + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let error = Process::spawn(function, ())?.join().unwrap_err();
    assert_eq!(error.signal(), Some(signal as i32), "{error}");
    Ok(error)
}

/// The names of the functions, without the generic and hash parts.
fn functions(error: &Error) -> Vec<String> {
    let backtrace = error.backtrace().unwrap();
    backtrace.frames().iter().filter_map(|frame| frame.function().map(str::to_owned)).collect()
}

/// Asserts that these functions are in the backtrace, the innermost first.
fn assert_calls(error: &Error, names: &[&str]) {
    let functions = functions(error);
    let mut rest = functions.iter();
    for name in names {
        assert!(rest.any(|function| function.contains(name)), "no {name} in order: {error:#}");
    }
}
