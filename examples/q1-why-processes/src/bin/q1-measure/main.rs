//! The benefits of several processes: each claim of the README, measured on this machine.

mod deaths;
mod memory;
mod state;
mod together;

use std::process::ExitCode;

use anyhow::Result;
use experiments::{Experiment, Finding};

fn main() -> Result<ExitCode> {
    multiproc::init();
    experiments::run("Measures on this machine what several processes are good for", &EXPERIMENTS)
}

const EXPERIMENTS: [Experiment; 12] = [
    // Several at once.
    claim("processes use all cores", "the same work on 1 to all cores", together::use_all_cores),
    claim(
        "children joined as they start run in turn",
        "3 naps of 60 ms, one loop or two",
        together::joined_at_once,
    ),
    // A fault that ends one process leaves the others alone.
    claim("a segfault ends that child only", "it reads a forbidden page", deaths::segfault),
    claim("an abort ends that child only", "it calls abort", deaths::abort),
    claim("a stack overflow ends that child only", "it calls itself without end", deaths::stack_overflow),
    claim("an endless loop can be ended", "SIGKILL, then join", deaths::endless_loop),
    // A limit, and an end, of its own for each.
    claim("a memory limit ends that child only", "two take 512 MiB, one may not", memory::limit),
    claim("a child's memory comes back at its end", "both processes, it holds 128 MiB", memory::comes_back),
    claim("freed memory need not come back", "15 of 16 blocks of 128 MiB freed", memory::stays),
    // Global state of its own for each.
    claim("a static changed in the child is its own", "set to 7 there, read here", state::statics),
    claim("a child's working directory is its own", "it changes to /proc", state::working_directory),
    claim("what a child gives up, the parent keeps", "it may open no more files", state::rights),
];

const fn claim(claim: &'static str, method: &'static str, run: fn() -> Result<Finding>) -> Experiment {
    Experiment { claim, method, run }
}
