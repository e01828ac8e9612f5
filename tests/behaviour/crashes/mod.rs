//! **Crashes**: an error shows what crashed and where, and nothing hangs or is lost.

mod core_dumps;
mod damage;
mod functions;
mod handlers;
mod lines;
mod stress;

use libtest_mimic::Trial;
use multiproc::{Error, Process, RemoteFn};
use nix::sys::signal::Signal;

pub(crate) fn trials() -> Vec<Trial> {
    let all = [
        core_dumps::trials(),
        damage::trials(),
        functions::trials(),
        handlers::trials(),
        lines::trials(),
        stress::trials(),
    ];
    all.into_iter().flatten().collect()
}

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
