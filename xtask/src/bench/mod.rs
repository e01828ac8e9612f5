//! `cargo xtask bench`: measures the library beside the hand-written baseline and other libraries, all in one
//! run, and says which targets it meets.
//!
//! A round is a process that checks its own work and prints one figure (see the package `bench`). The rounds
//! of a case are interleaved: each entrant one, then each the next. A wrong result fails the command, and
//! so does a round of this library that fails or leaves something behind; another library's failure is a row.

mod chart;
mod programs;
mod report;
mod results;
mod rounds;
mod table;
mod targets;

use std::fs::{self, OpenOptions};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bench::case::{self, Case};
use clap::Args;
use console::style;
use experiments::Machine;
use serde::Serialize;

use crate::output::{complain, say};
use crate::runner::Runner;
use programs::{Entrants, Programs};
use results::Results;
use rounds::Rounds;
use targets::Verdict;

/// A round that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(120);

/// A process that dies with its parent learns of it only afterwards: how long it has to follow.
const GRACE: Duration = Duration::from_secs(1);

#[derive(Args)]
#[allow(clippy::struct_excessive_bools)] // each is a word on the command line
pub struct Options {
    /// Only these workloads (W1 to W12, cluster, growth, real) or cases (such as W4-8B or real-words)
    #[arg(long, value_name = "NAME", num_args = 1.., value_delimiter = ',')]
    only: Vec<String>,
    /// Also measure other libraries and Python's multiprocessing; compiling them takes minutes
    #[arg(long)]
    peers: bool,
    /// The number of rounds of each entrant
    #[arg(long, value_name = "N", default_value = "5")]
    rounds: NonZeroUsize,
    /// A short, rough benchmark: fewer repetitions in each round, and growth to 10⁷ items only
    #[arg(long)]
    quick: bool,
    /// Also write everything to this file as one JSON document; `-` is standard output, for nothing else then
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write docs/performance.md and its charts; for that, everything must be measured
    #[arg(long, requires = "peers", conflicts_with = "only")]
    write: bool,
    /// List the measurements, and make none
    #[arg(long, conflicts_with_all = ["json", "write"])]
    list: bool,
}

/// The results of a run.
#[derive(Serialize)]
struct Report {
    machine: Machine,
    rounds: usize,
    quick: bool,
    versions: Vec<(String, String)>,
    notes: Vec<String>,
    results: Results,
    targets: Vec<Verdict>,
}

/// Returns whether all work was right. A missed target is no failure.
pub fn run(options: &Options) -> Result<bool> {
    let cases = selected(&options.only)?;
    let programs = Programs::open()?;
    let entrants = programs.entrants(&cases, options.peers)?;
    if options.list {
        table::list(&cases, &entrants);
        return Ok(true);
    }
    let to_stdout = options.json.as_ref().is_some_and(|file| file.as_os_str() == "-");
    let cannot_write = |file: &Path| format!("cannot write {}", file.display());
    if let Some(file) = options.json.as_ref().filter(|_| !to_stdout) {
        // A bad path fails before the measurement. The file keeps its contents until then.
        OpenOptions::new().append(true).create(true).open(file).with_context(|| cannot_write(file))?;
    }
    let runner = Runner::new(&programs.root, GRACE)?;
    runner.end_at_interrupt(rounds::cleanup)?;

    let report = measure(options, &cases, entrants, &runner, !to_stdout);
    if !to_stdout {
        table::show_targets(&report);
    }
    if options.write {
        report::write(&report, &programs.root.join("docs"))?;
    }
    match &options.json {
        Some(_) if to_stdout => say!("{}", serde_json::to_string_pretty(&report)?),
        Some(file) => {
            let text = serde_json::to_string_pretty(&report)? + "\n";
            fs::write(file, text).with_context(|| cannot_write(file))?;
        }
        None => {}
    }
    let failures = report.results.failures();
    for failure in &failures {
        complain(format_args!("{} {failure}", style("failed:").for_stderr().red()));
    }
    Ok(failures.is_empty())
}

fn measure(
    options: &Options,
    cases: &[&'static Case],
    entrants: Entrants,
    runner: &Runner,
    aloud: bool,
) -> Report {
    let Entrants { entries, versions, notes } = entrants;
    // The programs that run are release builds, whatever this one is.
    let machine = Machine { build: "release", ..Machine::here() };
    if aloud {
        table::show_head(&machine, options.quick, &notes);
    }
    let rounds = Rounds { runner, count: options.rounds.get(), quick: options.quick };
    let show = |results: &Results, case: &Case| {
        if aloud {
            table::show_case(results, case);
        }
    };
    let results = rounds.run(cases, &entries, show);
    let targets = targets::judge(&results, cases);
    Report { machine, rounds: rounds.count, quick: options.quick, versions, notes, results, targets }
}

/// The cases whose workload or name, or the beginning of it, is among `only`; all, if that is empty.
fn selected(only: &[String]) -> Result<Vec<&'static Case>> {
    let means = |name: &str, case: &Case| {
        let [name, id] = [name, case.id].map(str::to_lowercase);
        case.workload.to_lowercase() == name || id == name || id.starts_with(&format!("{name}-"))
    };
    for name in only {
        ensure!(case::ALL.iter().any(|case| means(name, case)), "no workload and no case is named `{name}`");
    }
    let wanted = |case: &&Case| only.is_empty() || only.iter().any(|name| means(name, case));
    Ok(case::ALL.into_iter().filter(wanted).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(only: &[&str]) -> Vec<&'static str> {
        let only: Vec<_> = only.iter().map(ToString::to_string).collect();
        selected(&only).unwrap().iter().map(|case| case.id).collect()
    }

    #[test]
    fn cases_are_selected_by_workload_and_by_name() {
        assert_eq!(ids(&[]).len(), case::ALL.len());
        assert_eq!(ids(&["w5"]), ["W5-hot", "W5-sleep"]);
        assert_eq!(ids(&["W4-8B"]), ["W4-8B", "W4-8B-batch", "W4-8B-2x2"]);
        assert_eq!(ids(&["real-hash"]), ["real-hash", "real-hash-shared"]);
        assert_eq!(ids(&["real"]).len(), case::ALL.into_iter().filter(|case| case.is_real()).count());
        assert_eq!(ids(&["W4-1MiB", "W3-hot"]), ["W3-hot", "W4-1MiB"]);
        assert!(selected(&["W99".to_owned()]).is_err());
    }
}
