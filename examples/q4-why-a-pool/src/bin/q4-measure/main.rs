//! The benefits of a pool: each claim of the README, measured on this machine.

mod order;
mod repair;
mod sizes;
mod uneven;
mod workers;

use std::process::ExitCode;

use anyhow::Result;
use experiments::{Experiment, Finding};

fn main() -> Result<ExitCode> {
    multiproc::init();
    experiments::run("Measures on this machine what a pool of processes is good for", &EXPERIMENTS)
}

const EXPERIMENTS: [Experiment; 9] = [
    // Started once, used many times.
    claim("small tasks cost less in a pool", "32 of 10 µs, or a process for each", sizes::small),
    claim("a pool pays from smaller tasks on", "where it beats one process, in turn", sizes::crossing),
    claim("with long tasks it hardly matters", "tasks of 10 ms, or a process for each", sizes::long),
    // A bound.
    claim("no more tasks run at once than workers", "12 naps of 30 ms, 3 workers", workers::bound),
    // Features of this pool that not every pool has.
    claim("a dead worker fails its own task alone", "one of 12 tasks aborts", repair::one_task_fails),
    claim("a dead worker is replaced", "worker ids, before and after", repair::replaced),
    claim("results come in the order of the input", "naps that end the other way round", order::of_input),
    claim("handing out balances, fixed shares do not", "16 uneven naps, 4 workers", uneven::handed_out),
    claim(
        "a long task at the end is waited for",
        "1 long nap among 16, last or first",
        uneven::long_one_last,
    ),
];

const fn claim(claim: &'static str, method: &'static str, run: fn() -> Result<Finding>) -> Experiment {
    Experiment { claim, method, run }
}
