//! **Start methods**: what a child is, however it was started, and what a dead fork server costs.

mod environment;
mod fork_server;
mod fork_server_faults;
mod inherited;
mod method;
mod workers;

use std::fs;

use libtest_mimic::Trial;
use multiproc::{Process, Result, StartMethod};

use crate::support::{Latch, blocked_child_by, with};

pub(crate) fn trials() -> Vec<Trial> {
    [
        environment::trials(),
        fork_server::trials(),
        fork_server_faults::trials(),
        inherited::trials(),
        method::trials(),
        workers::trials(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// A child of the fork server that has begun, and blocks until its latch is dropped.
fn blocked_child() -> Result<(Process<()>, Latch)> {
    blocked_child_by(with(StartMethod::ForkServer))
}

fn lives(pid: u32) -> bool {
    fs::exists(format!("/proc/{pid}")).unwrap()
}
