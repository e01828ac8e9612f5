//! Tests of the cluster with a NATS server, agents and callers of their own. The test's program is also the agent
//! and the caller that is killed.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::unnecessary_wraps,
    reason = "a test ends where something does not go as it should, and all tests have the same type"
)]

mod access;
mod ahead;
mod bounds;
mod calls;
mod clock;
mod damaged;
mod deaths;
mod faults;
mod forked_copy;
mod hosts;
mod inputs;
mod keys;
mod late;
mod link;
mod links;
#[cfg(feature = "log")]
mod logs;
mod network;
mod pending;
mod pulls;
mod server;
mod skips;
mod support;
mod transfers;
mod withdrawn;
mod work;

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use libtest_mimic::{Arguments, Trial};
use multiproc_cluster::Cluster;

use crate::access::AGENT_NKEY;
use crate::forked_copy::FIRST_PROCESS;
use crate::support::{CALLER, CALLER_FOLDER, EXEC, LEASE, OBJECT_LEN};

fn main() -> ExitCode {
    support::end_with_parent();
    if let Some(program) = std::env::var_os(EXEC) {
        let error = Command::new(program).args(std::env::args_os().skip(1)).exec();
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    if let Ok(url) = std::env::var(FIRST_PROCESS) {
        return forked_copy::fork_first_process(&url);
    }
    multiproc_cluster::init();
    if let Ok(seed) = std::env::var(AGENT_NKEY) {
        return access::agent_with_nkey(&seed);
    }
    if let Ok(url) = std::env::var(CALLER) {
        return wait_as_caller(&url);
    }
    let mut arguments = Arguments::from_args();
    // Most wait for hosts and the broker.
    arguments.test_threads.get_or_insert(4);
    if !support::has_server() {
        support::cannot_run_without("nats-server");
        return ExitCode::SUCCESS;
    }
    let groups = [
        bounds::trials(),
        calls::trials(),
        access::trials(),
        ahead::trials(),
        damaged::trials(),
        deaths::trials(),
        faults::trials(),
        forked_copy::trials(),
        hosts::trials(),
        inputs::trials(),
        late::trials(),
        links::trials(),
        #[cfg(feature = "log")]
        logs::trials(),
        pending::trials(),
        skips::trials(),
        transfers::trials(),
        withdrawn::trials(),
    ];
    let trials: Vec<Trial> = groups.into_iter().flatten().collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// A caller that waits for a long task, until it is killed.
fn wait_as_caller(url: &str) -> ExitCode {
    let wait = || -> multiproc::Result<()> {
        let pool = Cluster::builder(url).lease(LEASE).connect()?.pool("killed")?;
        let folder = std::env::var_os(CALLER_FOLDER).unwrap_or_default();
        pool.submit(work::hold, (folder.into(), vec![1; OBJECT_LEN]))?.get()?;
        Ok(())
    };
    match wait() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("caller: {error}");
            ExitCode::FAILURE
        }
    }
}
