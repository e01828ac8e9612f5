//! `cargo xtask compare`: runs each program and the Python beside it, one after the other, and shows whether
//! both print what the README shows, and how long each takes.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use console::{Alignment, measure_text_width, pad_str, style};

use crate::output::say;
use crate::programs::python;
use crate::runner::Runner;
use crate::runner::{Ending, Observed};
use crate::verify::differences::{Failure, compare};
use crate::verify::programs::Workspace;
use crate::verify::python::{Broken, Script, broken};
use crate::verify::readme::Block;
use crate::verify::{Plan, plan};

/// How long a broken Python program may run: one that hangs is killed then.
pub const BROKEN_LIMIT: Duration = Duration::from_secs(5);

/// How long a program's other processes may outlive it.
const GRACE: Duration = Duration::from_secs(1);

#[derive(Args)]
pub struct Options {
    /// Only the programs with this text in their Python file's path
    #[arg(long, value_name = "PATTERN")]
    only: Option<String>,
}

/// One program in both languages.
struct Pair {
    rust: Duration,
    python: Duration,
    /// The differences from the README, with the language in front.
    failures: Vec<String>,
}

/// Returns whether all programs print the same in both languages, and every broken one fails.
pub fn run(options: &Options) -> Result<bool> {
    let only = options.only.as_deref().unwrap_or_default();
    let workspace = Workspace::load()?;
    let Plan { commands, mut scripts, .. } = plan(&workspace, None)?;
    scripts.retain(|script| script.block.command.text.contains(only));
    let mut broken = broken(&workspace)?;
    broken.retain(|broken| broken.file.to_string_lossy().contains(only));
    ensure!(!(scripts.is_empty() && broken.is_empty()), "no Python program contains `{only}`");
    let (python, version) = python().context("there is no python3 on this machine")?;
    let built = workspace.build()?;
    let runner = Runner::new(&workspace.root, GRACE)?;
    runner.end_at_interrupt(|| ())?;

    say!("Python {version}; the Rust programs are unoptimised (`cargo build`).\n");
    let label = |script: &Script| format!("{} {}", script.block.question, commands[script.command].1.1);
    let width = scripts.iter().map(|script| measure_text_width(&label(script))).max().unwrap_or(0);
    if width > 0 {
        show_line(&pad_str("program", width, Alignment::Left, None), "Rust", "Python", "output");
    }
    let mut same = 0;
    for script in &scripts {
        let (rust, program) = &commands[script.command];
        let path = built.get(program).with_context(|| format!("cargo did not build `{}`", program.1))?;
        let pair = pair(&runner, (path, rust), (&python, &script.block))?;
        pair.show(&pad_str(&label(script), width, Alignment::Left, None));
        same += usize::from(pair.failures.is_empty());
    }
    if width > 0 {
        say!("\n{same} of {} print the same.", scripts.len());
    }
    let mut good = same == scripts.len();
    for broken in &broken {
        good &= show_broken(&runner, &python, broken)?;
    }
    Ok(good)
}

/// Runs the program in Rust, then in Python.
fn pair(runner: &Runner, rust: (&Path, &Block), python: (&Path, &Block)) -> Result<Pair> {
    let run = |(path, block): (&Path, &Block)| -> Result<(Duration, Vec<Failure>)> {
        let seen = runner.run(path, &block.command.arguments, block.expected.limit)?;
        Ok((seen.elapsed, compare(&block.expected, &seen)))
    };
    let ((rust, in_rust), (python, in_python)) = (run(rust)?, run(python)?);
    let in_rust = in_rust.iter().map(|failure| format!("Rust: {failure}"));
    let in_python = in_python.iter().map(|failure| format!("Python: {failure}"));
    Ok(Pair { rust, python, failures: in_rust.chain(in_python).collect() })
}

impl Pair {
    fn show(&self, program: &str) {
        let seconds = |time: Duration| format!("{:.3} s", time.as_secs_f64());
        let good = self.failures.is_empty();
        let output = if good { style("same").green() } else { style("differs").red() };
        show_line(program, &seconds(self.rust), &seconds(self.python), &output.to_string());
        for failure in &self.failures {
            say!("    {failure}");
        }
    }
}

fn show_line(program: &str, rust: &str, python: &str, output: &str) {
    say!("{program}  {rust:>9}  {python:>9}  {output}");
}

/// Runs a broken program, and shows its failure. Returns `false` if it works.
fn show_broken(runner: &Runner, python: &Path, broken: &Broken) -> Result<bool> {
    let arguments = ["-B".to_owned(), broken.file.display().to_string()];
    let seen = runner.run(python, &arguments, BROKEN_LIMIT)?;
    let symptom = symptom(&seen);
    say!("\n{}\n    {}", style(broken.file.display()).bold(), broken.reason);
    let seen = match &symptom {
        Some(symptom) => format!("{} {symptom}", style("seen:").yellow()),
        None => style(format!("It works, so it answers {} after all.", broken.question)).red().to_string(),
    };
    say!("    {seen}");
    Ok(symptom.is_some())
}

/// How a broken program fails; nothing if it works.
pub fn symptom(seen: &Observed) -> Option<String> {
    let last = seen.stderr.lines().last().unwrap_or("nothing on standard error");
    match &seen.ending {
        Ending::Exit(0) => None,
        Ending::Exit(code) => Some(format!("exit code {code}: {last}")),
        Ending::Signal(name) => Some(format!("killed by {name}: {last}")),
        Ending::Limit(limit) => Some(format!("still running after {} s, and killed", limit.as_secs())),
    }
}
