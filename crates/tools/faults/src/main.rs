//! The parts of the fault suite, each a command of its own. `cargo xtask faults` builds this program, with
//! the points at which it strikes, and runs all of them.

mod event_log;
mod interrupt;
mod peers;
mod resources;
mod target;
mod watchdog;
mod workload;

#[cfg(multiproc_faults)]
mod failpoints;
mod large;
mod locks;
mod random_kills;
mod scribble;
mod soak;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;

fn main() -> ExitCode {
    multiproc::init();
    let _ = set_pdeathsig(Signal::SIGINT); // it ends with who has started it, as with Ctrl-C
    let good = match Arguments::parse().part {
        Part::Soak(options) => soak::run(&options),
        Part::RandomKills(options) => random_kills::run(&options),
        Part::Large => large::run(),
        Part::Scribble(options) => scribble::run(&options),
        #[cfg(multiproc_faults)]
        Part::Failpoints(options) => failpoints::run(&options),
        #[cfg(not(multiproc_faults))]
        Part::Failpoints => {
            Err(anyhow::anyhow!("this program is built without the points: run `cargo xtask faults`"))
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
    #[command(subcommand)]
    part: Part,
}

#[derive(Subcommand)]
enum Part {
    /// Kill at random instants
    RandomKills(random_kills::Options),
    /// Hand over values of some gigabytes
    Large,
    /// Overwrite shared memory at random, while it is used
    Scribble(scribble::Options),
    /// Do random operations, and know what must come of them
    Soak(soak::Options),
    /// Kill, stop or refuse at every step of every protocol
    #[cfg(multiproc_faults)]
    Failpoints(failpoints::Options),
    /// Kill, stop or refuse at every step of every protocol
    #[cfg(not(multiproc_faults))]
    Failpoints,
    /// Do to the library what `cargo xtask faults --peers` also does to others, and say what its caller saw
    Peers { fault: peers::Fault },
}
