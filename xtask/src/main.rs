//! The arguments of `cargo xtask`; the work is in the library beside it.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use xtask::output::complain;
use xtask::{bench, compare, faults, report, trace_check, valgrind, verify};

fn main() -> ExitCode {
    let good = match Arguments::parse().command {
        Command::Bench(options) => bench::run(&options),
        Command::Compare(options) => compare::run(&options),
        Command::Faults(options) => faults::run(&options),
        Command::Report(_) => report::run(),
        Command::TraceCheck(options) => trace_check::run(&options),
        Command::Valgrind => valgrind::run(),
        Command::Verify(options) => verify::run(&options),
    };
    match good {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            complain(format_args!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Verify, measure and try to break what is in this repository
#[derive(Parser)]
#[command(bin_name = "cargo xtask", arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure the library beside the hand-written baseline and, with --peers, beside other libraries
    Bench(bench::Options),
    /// Run each program and the Python beside it, and compare their output and time
    Compare(compare::Options),
    /// Kill and stop processes and refuse system calls, at every step and at random
    Faults(faults::Options),
    /// Run every program, and write a page that shows the code, output, timelines, charts and tables
    Report(report::Options),
    /// Have every program write its timeline, and check that
    TraceCheck(trace_check::Options),
    /// Run unit tests of the library that touch memory under valgrind
    Valgrind,
    /// Run every command that a README under examples/ shows, and compare its output with the README
    Verify(verify::Options),
}
