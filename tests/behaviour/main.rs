//! Tests of `multiproc` across real processes. The name of a test is the property that it checks.

#![allow(
    clippy::unwrap_used,
    clippy::unnecessary_wraps,
    reason = "a test ends where something does not go as it should, and all tests have the same type"
)]

mod bad_tasks;
mod bad_values;
mod corrupted_memory;
mod crashes;
mod debugger;
mod encoding;
mod fd;
mod forgery;
mod forked_copies;
mod futures;
mod inline;
mod interrupt;
mod kill_stress;
mod output;
mod pipe;
mod pool;
mod process;
mod programs;
mod queue;
mod record;
mod regressions;
mod resource_limits;
mod security;
mod server;
mod shared_array;
mod shared_slice;
mod start;
mod support;
mod sync;
mod task_errors;
mod task_handles;
mod trace;
mod wait_any;

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
        shared_slice::trials(),
        programs::trials(),
        regressions::trials(),
        inline::trials(),
        interrupt::trials(),
        resource_limits::trials(),
        corrupted_memory::trials(),
        crashes::trials(),
        debugger::trials(),
        record::trials(),
        security::trials(),
        server::trials(),
        trace::trials(),
        shared_array::trials(),
        bad_values::trials(),
        bad_tasks::trials(),
        encoding::trials(),
        fd::trials(),
        forgery::trials(),
        forked_copies::trials(),
        futures::trials(),
        output::trials(),
        sync::trials(),
        task_errors::trials(),
        task_handles::trials(),
        wait_any::trials(),
    ];
    let mut arguments = Arguments::from_args();
    // Most trials wait for other processes, and leave the cores idle.
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    arguments.test_threads.get_or_insert(3 * cores);
    libtest_mimic::run(&arguments, trials.into_iter().flatten().collect()).exit_code()
}
