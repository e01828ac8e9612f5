//! How processes and threads differ: each claim of the README, measured on this machine.

mod containment;
mod cost;
mod sharing;
mod speed;

use std::process::ExitCode;

use anyhow::Result;
use experiments::{Experiment, Finding};

fn main() -> Result<ExitCode> {
    multiproc::init();
    experiments::run("Measures on this machine how processes and threads differ", &EXPERIMENTS)
}

const EXPERIMENTS: [Experiment; 13] = [
    // Common to both.
    claim("threads use all cores, as processes do", "the same work on all cores and one", speed::in_parallel),
    claim("a panic ends one thread or one child", "another waits for it and goes on", containment::panic),
    // The additional cost of a process.
    claim("a process takes longer to start", "one that does nothing, to its end", cost::start),
    claim("a small message need not take longer", "there and back: channel, pipe", cost::round_trip),
    claim("a process gets a copy, a thread the thing", "1 MiB there, an answer back", cost::megabyte),
    claim("a process takes more memory", "PSS: parked threads, idle workers", cost::memory),
    // Sharing.
    claim("only threads share statics", "4 of each add 1 to a static", sharing::statics),
    claim("only threads share a working directory", "one of each changes it", sharing::working_directory),
    // The benefits of a process.
    claim(
        "a child's segfault ends that child only",
        "it reads a forbidden page",
        containment::child_segfault,
    ),
    claim(
        "a thread's segfault ends its process",
        "a child starts such a thread",
        containment::thread_segfault,
    ),
    claim("an endless child can be ended", "SIGKILL, then join", containment::endless_child),
    claim("an endless thread runs on", "50 ms after its handle is dropped", containment::endless_thread),
    claim(
        "a reader learns that the writer was killed",
        "it sends 2 items, is killed",
        containment::killed_writer,
    ),
];

const fn claim(claim: &'static str, method: &'static str, run: fn() -> Result<Finding>) -> Experiment {
    Experiment { claim, method, run }
}
