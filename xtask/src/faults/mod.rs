//! `cargo xtask faults`: runs the fault suite, and reports its results.
//!
//! The suite is the program of the package `faults`, built with failpoints into its own target folder, so
//! that other builds stay valid. Each part runs under both start methods at the same time.

mod peers;
mod report;
mod table;

use std::env;
use std::fmt;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use cargo_metadata::MetadataCommand;
use clap::Args;
use experiments::Machine;
use faults::Row;

use crate::output::{complain, say};
use crate::programs::{built, cargo_build};
use crate::runner::Runner;
use peers::Comparison;

#[derive(Args)]
pub struct Options {
    /// The random seed; the same seed gives the same sequence of operations
    #[arg(long, value_name = "N", default_value = "1")]
    seed: u64,
    /// The duration of each soak, such as 30s or 10m
    #[arg(long = "for", value_name = "TIME", default_value = "10m", value_parser = as_time)]
    time: String,
    /// The number of soaks, each with another seed
    #[arg(long, value_name = "N", default_value = "3")]
    soaks: u64,
    /// The number of random kills
    #[arg(long, value_name = "N", default_value = "10000")]
    kills: u64,
    /// The number of rounds in which shared memory is overwritten
    #[arg(long, value_name = "N", default_value = "10000")]
    rounds: u64,
    /// Only this part (failpoints, random-kills, mix, corruption, soak, large, peers), or this failpoint
    #[arg(long, value_name = "PART|POINT")]
    only: Option<String>,
    /// Also inflict the same six faults on other libraries, and compare; compiling them takes minutes
    #[arg(long)]
    peers: bool,
    /// A short run: each failpoint once, 100 kills, 100 rounds of corruption, one soak of 10 s
    #[arg(long, conflicts_with_all = ["time", "soaks", "kills", "rounds"])]
    quick: bool,
    /// Write docs/reliability.md; for that, everything must be run
    #[arg(long, requires = "peers", conflicts_with_all = ["only", "quick"])]
    write: bool,
}

/// The text of a valid duration.
fn as_time(text: &str) -> Result<String> {
    faults::parse_time(text).map(|_| text.to_owned())
}

/// The start methods, as values of the environment variable `MULTIPROC_START_METHOD`.
const METHODS: [&str; 2] = ["fork-server", "spawn"];

/// The results of a run.
struct Report {
    machine: Machine,
    /// The extent of the parts.
    scale: Scale,
    /// For each start method, in the order of [`METHODS`].
    lines: [Vec<Row>; METHODS.len()],
    comparison: Option<Comparison>,
}

struct Scale {
    times: u32,
    kills: u64,
    rounds: u64,
    time: String,
    seeds: Vec<u64>,
}

/// Returns whether every fault was survived.
pub fn run(options: &Options) -> Result<bool> {
    let metadata = MetadataCommand::new().no_deps().exec()?;
    let (root, target) = (metadata.workspace_root.as_std_path(), metadata.target_directory.as_std_path());
    let program = build(root, target, options.quick)?;
    let scale = Scale::of(options);
    let commands = commands(options, &scale)?;
    say!("{}", Machine { build: "release", ..Machine::here() });
    say!("seeds {}", scale.seeds.iter().map(u64::to_string).collect::<Vec<_>>().join(", "));
    let lines = thread::scope(|scope| {
        let runs =
            METHODS.map(|method| scope.spawn(|| run_parts(&program, &commands, method, options.quick)));
        runs.map(|run| run.join().unwrap_or_else(|_| bail!("a thread has panicked")))
    });
    let [first, second] = lines;
    let mut lines = [first?, second?];
    if options.only.as_deref().is_none_or(|only| only == "large") && !options.quick {
        for (method, lines) in METHODS.iter().zip(&mut lines) {
            // One at a time, for its memory.
            lines.extend(run_part(&program, &["large".to_owned()], method, false)?);
        }
    }
    let compares = options.peers || options.only.as_deref() == Some("peers");
    let report = Report {
        machine: Machine { build: "release", ..Machine::here() },
        scale,
        lines,
        comparison: compares.then(|| compare(root, target, &program)).transpose()?,
    };
    table::show(&report);
    if options.write {
        report::write(&report, &root.join("docs/reliability.md"))?;
    }
    let mut lines = report.lines.iter().flatten().peekable();
    ensure!(lines.peek().is_some() || compares, "with these options there is nothing to do");
    let survived = lines.all(|line| line.failures.is_empty());
    Ok(survived && report.comparison.is_none_or(|comparison| comparison.failures().is_empty()))
}

/// Inflicts the six faults on this library and others.
fn compare(root: &Path, target: &Path, own: &Path) -> Result<Comparison> {
    let runner = Runner::new(root, Duration::ZERO)?;
    runner.end_at_interrupt(|| ())?;
    peers::compare(&runner, root, target, own)
}

impl Scale {
    fn of(options: &Options) -> Self {
        let Options { seed, time, soaks, kills, rounds, .. } = options;
        if options.quick {
            return Self { times: 1, kills: 100, rounds: 100, time: "10s".to_owned(), seeds: vec![*seed] };
        }
        Self {
            times: 3,
            kills: *kills,
            rounds: *rounds,
            time: time.clone(),
            seeds: (0..*soaks).map(|number| seed.wrapping_add(number)).collect(),
        }
    }
}

/// The command lines of the selected parts.
fn commands(options: &Options, scale: &Scale) -> Result<Vec<Vec<String>>> {
    let Scale { times, kills, rounds, time, seeds } = scale;
    let words = |words: &[&dyn fmt::Display]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
    let points = words(&[&"failpoints", &"--parent", &"--times", times]);
    let random = words(&[&"random-kills", &"--count", kills, &"--seed", &options.seed]);
    let corruption = words(&[&"corruption", &"--rounds", rounds, &"--seed", &options.seed]);
    let rounds_with_trace = (rounds / 20).max(1).to_string();
    let trace = words(&[
        &"corruption",
        &"--work",
        &"a trace",
        &"--rounds",
        &rounds_with_trace,
        &"--seed",
        &options.seed,
    ]);
    let soaks = seeds.iter().map(|seed| words(&[&"soak", &"--for", time, &"--seed", seed]));
    Ok(match options.only.as_deref() {
        None => [points, random, corruption, trace].into_iter().chain(soaks).collect(),
        Some("failpoints") => vec![points],
        Some("random-kills") => vec![random],
        Some("mix") => {
            let target = words(&[&"--target", &"all that is shared"]);
            vec![random.into_iter().chain(target).collect()]
        }
        Some("corruption") => vec![corruption, trace],
        Some("large" | "peers") => Vec::new(),
        Some("soak") => soaks.collect(),
        Some(point) if point.contains(':') => {
            vec![points.into_iter().chain(words(&[&"--only", &point])).collect()]
        }
        Some(other) => {
            bail!(
                "`{other}` is no part (failpoints, random-kills, mix, corruption, soak, large, peers) \
                 and no failpoint (such as child:started)"
            )
        }
    })
}

/// Builds the program with failpoints; returns its path.
fn build(root: &Path, target: &Path, is_quick: bool) -> Result<PathBuf> {
    let target = target.join("faults");
    let mut flags = env::var("RUSTFLAGS").unwrap_or_default();
    flags.push_str(" --cfg multiproc_faults");
    let mut build = cargo_build(root);
    // Optimised code takes longer to compile than a short run takes.
    build.args(["--profile", if is_quick { "quick" } else { "release" }, "--locked"]);
    build.args(["--package", "faults", "--bin", "faults", "--features", "log"]);
    build
        .env("RUSTFLAGS", flags.trim())
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env("CARGO_TARGET_DIR", target);
    built(&mut build)?.into_values().next().context("cargo did not build `faults`")
}

/// Runs all parts under one start method: one after another, but the soaks at the same time; if `is_quick`, beside the
/// others, which mostly wait then.
fn run_parts(program: &Path, commands: &[Vec<String>], method: &str, is_quick: bool) -> Result<Vec<Row>> {
    let (soaks, others): (Vec<_>, Vec<_>) = commands.iter().partition(|arguments| arguments[0] == "soak");
    let run_others = || -> Result<Vec<_>> {
        let rows = others.iter().map(|arguments| run_part(program, arguments, method, is_quick));
        Ok(rows.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
    };
    let mut all = if is_quick { Vec::new() } else { run_others()? };
    thread::scope(|scope| {
        let run = |arguments: &'_ Vec<String>| {
            let arguments = arguments.clone();
            scope.spawn(move || run_part(program, &arguments, method, is_quick))
        };
        let runs: Vec<_> = soaks.into_iter().map(run).collect();
        if is_quick {
            all = run_others()?;
        }
        for run in runs {
            for line in run.join().unwrap_or_else(|_| bail!("a thread has panicked"))? {
                match all.iter_mut().find(|known: &&mut Row| known.same_fault(&line)) {
                    Some(known) => known.add(line),
                    None => all.push(line),
                }
            }
        }
        Ok(all)
    })
}

fn run_part(program: &Path, arguments: &[String], method: &str, is_quick: bool) -> Result<Vec<Row>> {
    let what = format!("`faults {}` under {method}", arguments.join(" "));
    let mut part = Command::new(program)
        .args(is_quick.then_some("--beside-load")) // in a review it runs beside the tests
        .args(arguments)
        .env("MULTIPROC_START_METHOD", method)
        .env_remove("RUST_BACKTRACE")
        // The C library returns blocks of this size to the kernel at once, so that a leak shows.
        .env("MALLOC_MMAP_THRESHOLD_", "32768")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {what}"))?;
    let output = part.stdout.take().context("it has no output")?;
    let mut lines = Vec::new();
    for line in BufReader::new(output).lines() {
        let line = line?;
        let line: Row = serde_json::from_str(&line).with_context(|| format!("{what} printed {line:?}"))?;
        for failure in &line.failures {
            complain(format_args!("{method}: {}: {failure}", line.fault));
        }
        lines.push(line);
    }
    let status = part.wait()?;
    let failed = lines.iter().any(|line| !line.failures.is_empty());
    if !status.success() && !failed {
        let mut line = Row::new(&arguments[0], what);
        line.fail(format!("it ended with {status}"));
        lines.push(line);
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Asked {
        #[command(flatten)]
        options: Options,
    }

    fn commands_of(arguments: &[&str]) -> Result<Vec<String>> {
        let options = Asked::try_parse_from([&["faults"], arguments].concat())?.options;
        let commands = commands(&options, &Scale::of(&options))?;
        Ok(commands.into_iter().map(|words| words.join(" ")).collect())
    }

    #[test]
    fn the_selected_parts_are_run() {
        assert_eq!(
            commands_of(&["--quick"]).unwrap(),
            [
                "failpoints --parent --times 1",
                "random-kills --count 100 --seed 1",
                "corruption --rounds 100 --seed 1",
                "corruption --work a trace --rounds 5 --seed 1",
                "soak --for 10s --seed 1"
            ]
        );
        assert_eq!(
            commands_of(&["--only", "soak", "--seed", "7", "--for", "1m", "--soaks", "2"]).unwrap(),
            ["soak --for 1m --seed 7", "soak --for 1m --seed 8"]
        );
        assert_eq!(
            commands_of(&["--only", "child:started"]).unwrap(),
            ["failpoints --parent --times 3 --only child:started"]
        );
        assert!(commands_of(&["--only", "everything"]).is_err());
    }
}
