//! The program of the fault suite: a subcommand for each part. `cargo xtask faults` builds it with failpoints
//! and runs all parts.

mod event_log;
mod interrupt;
mod peers;
mod resources;
mod stalls;
mod target;
mod watchdog;
mod workload;

mod corruption;
#[cfg(multiproc_faults)]
mod failpoints;
mod large;
mod locks;
mod mix;
mod random_kills;
mod soak;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;

fn main() -> ExitCode {
    multiproc::init();
    let _ = set_pdeathsig(Signal::SIGINT); // it ends with its parent, as with Ctrl-C
    let arguments = Arguments::parse();
    if arguments.beside_load {
        stalls::expect_load();
    }
    let good = match arguments.part {
        Part::Soak(options) => soak::run(&options),
        Part::RandomKills(options) => random_kills::run(&options),
        Part::Large => large::run(),
        Part::Corruption(options) => corruption::run(&options),
        #[cfg(multiproc_faults)]
        Part::Failpoints(options) => failpoints::run(&options),
        #[cfg(not(multiproc_faults))]
        Part::Failpoints => {
            Err(anyhow::anyhow!("this program is built without failpoints: run `cargo xtask faults`"))
        }
        Part::Peers { fault } => peers::run(fault),
    };
    match good {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[derive(Parser)]
struct Arguments {
    /// Other programs have the CPUs, too: take off the time in which a process waits for one
    #[arg(long)]
    beside_load: bool,
    #[command(subcommand)]
    part: Part,
}

#[derive(Subcommand)]
enum Part {
    /// Kill at random instants
    RandomKills(random_kills::Options),
    /// Send values of some gigabytes
    Large,
    /// Overwrite shared memory at random, while it is used
    Corruption(corruption::Options),
    /// Run random operations against a model
    Soak(soak::Options),
    /// Kill, stop or refuse at every step of every protocol
    #[cfg(multiproc_faults)]
    Failpoints(failpoints::Options),
    /// Kill, stop or refuse at every step of every protocol
    #[cfg(not(multiproc_faults))]
    Failpoints,
    /// Run one of the six faults of `cargo xtask faults --peers`, and print what the caller saw
    Peers { fault: peers::Fault },
}
