//! How `multiproc` behaves across real processes. Every test's name says what it holds the library to.

#![allow(
    clippy::unwrap_used,
    clippy::unnecessary_wraps,
    reason = "a test ends where something does not go as it should, and all tests have the same type"
)]

mod abuse;
mod frozen;
mod interrupt;
mod kills;
mod misfits;
mod output;
mod pipe;
mod pool;
mod process;
mod programs;
mod queue;
mod scarce;
mod scribble;
mod security;
mod start;
mod support;

use std::process::ExitCode;

use libtest_mimic::Arguments;

fn main() -> ExitCode {
    multiproc::init();
    tests::end_at_interrupts();
    let trials = [
        process::trials(),
        start::trials(),
        pool::trials(),
        queue::trials(),
        kills::trials(),
        pipe::trials(),
        frozen::trials(),
        programs::trials(),
        abuse::trials(),
        interrupt::trials(),
        scarce::trials(),
        scribble::trials(),
        security::trials(),
        misfits::trials(),
        output::trials(),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials.into_iter().flatten().collect()).exit_code()
}
