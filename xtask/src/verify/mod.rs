//! `cargo xtask verify`: runs every command that a README under `examples/` shows, and compares its output
//! with the README. The README is the only specification.
//!
//! A command stands in a fenced block whose info string begins with `console`: in its first line after `$ `,
//! and below that is its standard output, to the letter except for the placeholders of [`pattern::Kind`].
//! These words after `console` say more:
//!
//! | word | meaning |
//! |---|---|
//! | `unordered`, `unordered=1-4`, `unordered=1-2,3-4` | the lines, or those of each range, in any order |
//! | `floating=5`, `floating=2,5` | these lines may stand anywhere |
//! | `distinct` | the numbers for which placeholders stand are pairwise different |
//! | `stderr` | the block shows standard error, too, after standard output; without this word it is empty |
//! | `exit=2` | the exit code, if it is not 0 |
//! | `at-least=3s`, `below=250ms` | how long it takes; such a command runs alone |
//! | `ratio=3` | the first `[SECONDS]` is at least 3 times the last; such a command runs alone |
//! | `alone` | nothing runs beside it |
//! | `limit=60s` | when it is killed, if not after 30 seconds or three times `below` |
//!
//! A program must not leave anything either: no process, and no file in its temporary folder.

pub mod command;
pub mod differences;
pub mod expectation;
pub mod order;
pub mod pattern;
pub mod programs;
pub mod python;
pub mod readme;
mod report;
mod schedule;
pub mod self_test;

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroUsize,
    path::PathBuf,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};

use crate::output::complain;
use crate::runner::{Observed, Runner};
use differences::{Failure, compare};
use programs::{Program, Workspace};
use python::Script;
use readme::{Block, Problem};
use report::Report;

/// A process that dies with its parent learns of it only afterwards: how long it has to follow.
const GRACE: Duration = Duration::from_secs(1);

#[derive(Args)]
pub struct Options {
    /// Only the commands with this text in them or in the name of their question
    #[arg(long, value_name = "PATTERN")]
    only: Option<String>,
    /// Run every command this many times, and count how often it fails
    #[arg(long, value_name = "N", default_value = "1")]
    repeat: NonZeroUsize,
    /// Run this many commands at once [default: one for each core]
    #[arg(long, value_name = "N")]
    jobs: Option<NonZeroUsize>,
    /// Show the commands and run none of them
    #[arg(long)]
    list: bool,
    /// How to show the results
    #[arg(long, value_enum, default_value = "human", conflicts_with = "list")]
    format: Format,
    /// Change every word of a README, one at a time, and check that each change is refused
    #[arg(long, conflicts_with_all = ["repeat", "list"])]
    self_test: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Human,
    /// One document with everything
    Json,
}

/// The commands to run with their programs, and the problems of the READMEs.
pub struct Plan {
    pub commands: Vec<(Block, Program)>,
    pub scripts: Vec<Script>,
    problems: Vec<Problem>,
}

/// A command to be run once.
struct Task<'a> {
    block: &'a Block,
    program: &'a PathBuf,
}

/// The outcome of a command.
struct Outcome<'a> {
    block: &'a Block,
    failures: Vec<Failure>,
    /// `None` if the command could not be run.
    seen: Option<Observed>,
    /// How often a self-test changed the expectation.
    changes: usize,
}

/// Whether everything is as the READMEs say.
pub fn run(options: &Options) -> Result<bool> {
    let workspace = Workspace::load()?;
    let Plan { commands, scripts, problems } = plan(&workspace, options.only.as_deref())?;
    if options.list {
        let scripts = scripts.iter().map(|script| &script.block);
        report::list(commands.iter().map(|(block, _)| block).chain(scripts), &problems);
        return Ok(problems.is_empty());
    }
    let built = workspace.build()?;
    let python = crate::programs::python().map(|(python, _)| python);
    if python.is_none() && !scripts.is_empty() {
        complain(format_args!("The Python files are skipped: there is no python3 on this machine."));
    }
    let scripts = python.iter().flat_map(|python| scripts.iter().map(move |script| (&script.block, python)));
    let tasks = tasks(programs_of(&commands, &built)?.into_iter().chain(scripts).collect(), options.repeat);
    let runner = Runner::new(&workspace.root, GRACE)?;
    runner.end_at_interrupt(|| ())?;

    let mut report = Report::new(options.format, tasks.len(), options.repeat.get() > 1, problems);
    let jobs = options.jobs.unwrap_or_else(cores);
    schedule::run_all(&tasks, jobs, |task| run_task(&runner, task, options.self_test), &mut report);
    report.end()
}

/// Reads the READMEs; `only` is as in [`Options`].
pub fn plan(workspace: &Workspace, only: Option<&str>) -> Result<Plan> {
    let (blocks, mut problems) = readme::read_all(&workspace.examples())?;
    let mut commands = Vec::new();
    for block in blocks {
        match workspace.find(&block.command) {
            Ok(program) => commands.push((block, program)),
            Err(error) => problems.push(Problem::new(&block.question, Some(block.line), error.to_string())),
        }
    }
    let shown: BTreeSet<_> = commands.iter().map(|(_, program)| program.clone()).collect();
    problems.extend(workspace.not_shown(&shown));

    let (mut scripts, more) = python::scripts(workspace, &commands);
    problems.extend(more);

    let only = only.unwrap_or_default();
    let wanted = |block: &Block| block.question.contains(only) || block.command.text.contains(only);
    scripts.retain(|script| wanted(&script.block));
    commands.retain(|(block, _)| wanted(block));
    problems.retain(|problem| problem.question.contains(only));
    let nothing = commands.is_empty() && scripts.is_empty() && problems.is_empty();
    ensure!(!nothing, "no question and no command contains `{only}`");
    Ok(Plan { commands, scripts, problems })
}

/// The blocks of the programs, and where cargo has built each.
fn programs_of<'a>(
    commands: &'a [(Block, Program)],
    built: &'a BTreeMap<Program, PathBuf>,
) -> Result<Vec<(&'a Block, &'a PathBuf)>> {
    let program_of = |(block, program): &'a (Block, Program)| {
        let path = built.get(program).with_context(|| format!("cargo did not build `{}`", program.1))?;
        Ok((block, path))
    };
    commands.iter().map(program_of).collect()
}

/// Each command, as often as it runs.
fn tasks<'a>(programs: Vec<(&'a Block, &'a PathBuf)>, repeat: NonZeroUsize) -> Vec<Task<'a>> {
    let task = |&(block, program): &(&'a Block, &'a PathBuf)| Task { block, program };
    (0..repeat.get()).flat_map(|_| programs.iter().map(task).collect::<Vec<_>>()).collect()
}

fn run_task<'a>(runner: &Runner, task: &Task<'a>, self_test: bool) -> Outcome<'a> {
    let block = task.block;
    let seen = match runner.run(task.program, &block.command.arguments, block.expected.limit) {
        Ok(seen) => seen,
        Err(error) => {
            let failures = vec![Failure::NotRun(format!("{error:#}"))];
            return Outcome { block, failures, seen: None, changes: 0 };
        }
    };
    let mut failures = compare(&block.expected, &seen);
    let mut changes = 0;
    if self_test && failures.is_empty() {
        (changes, failures) = self_test::self_test(&block.expected, &seen, compare);
    }
    Outcome { block, failures, seen: Some(seen), changes }
}

fn cores() -> NonZeroUsize {
    thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

impl Outcome<'_> {
    fn elapsed(&self) -> Duration {
        self.seen.as_ref().map_or(Duration::ZERO, |seen| seen.elapsed)
    }
}
