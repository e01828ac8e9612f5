//! How `multiproc` behaves across real processes. Every test's name says what it holds the library to.

#![allow(
    clippy::unwrap_used,
    clippy::unnecessary_wraps,
    reason = "a test ends where something does not go as it should, and all tests have the same type"
)]

mod bad_values;
mod frozen;
mod interrupt;
mod kill_stress;
mod output;
mod pipe;
mod pool;
mod process;
mod programs;
mod queue;
mod regressions;
mod resource_limits;
mod scribble;
mod security;
mod shared_array;
mod start;
mod support;
mod sync;
mod task_errors;

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
        kill_stress::trials(),
        pipe::trials(),
        frozen::trials(),
        programs::trials(),
        regressions::trials(),
        interrupt::trials(),
        resource_limits::trials(),
        scribble::trials(),
        security::trials(),
        shared_array::trials(),
        bad_values::trials(),
        output::trials(),
        sync::trials(),
        task_errors::trials(),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials.into_iter().flatten().collect()).exit_code()
}
