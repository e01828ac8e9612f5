//! Shows the progress and the results of the commands.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Result;
use console::style;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use similar::{ChangeTag, TextDiff};

use super::{
    Format, Outcome,
    differences::Failure,
    expectation::{Expectation, LineOrder},
    order,
    readme::{Block, Problem},
};
use crate::output::say;

/// How many lines of a stream are worth showing.
const SHOWN: usize = 40;

pub(super) struct Report<'a> {
    format: Format,
    repeated: bool,
    problems: Vec<Problem>,
    outcomes: Vec<Outcome<'a>>,
    running: Vec<&'a Block>,
    bar: ProgressBar,
}

pub(super) fn list<'a>(blocks: impl Iterator<Item = &'a Block>, problems: &[Problem]) {
    for block in blocks {
        say!("{}  {}", block.question, block.command.text);
    }
    show_problems(problems);
}

impl<'a> Report<'a> {
    pub(super) fn new(format: Format, tasks: usize, repeated: bool, problems: Vec<Problem>) -> Self {
        // It draws on standard error, and only if that is a terminal.
        let bar = ProgressBar::new(tasks as u64);
        if let Ok(style) = ProgressStyle::with_template("{spinner} {pos} of {len} in {elapsed}: {wide_msg}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(100));
        Self { format, repeated, problems, outcomes: Vec::new(), running: Vec::new(), bar }
    }

    pub(super) fn start(&mut self, block: &'a Block) {
        self.running.push(block);
        self.show_running();
    }

    pub(super) fn add(&mut self, outcome: Outcome<'a>) {
        if let Some(at) = self.running.iter().position(|block| std::ptr::eq(*block, outcome.block)) {
            self.running.remove(at);
        }
        self.bar.inc(1);
        self.show_running();
        if self.format == Format::Human {
            self.bar.suspend(|| {
                if !self.repeated {
                    show_verdict(&outcome);
                }
                show_failures(&outcome);
            });
        }
        self.outcomes.push(outcome);
    }

    /// Says whether everything is good.
    pub(super) fn end(self) -> Result<bool> {
        self.bar.finish_and_clear();
        let failed = self.outcomes.iter().filter(|outcome| !outcome.failures.is_empty()).count();
        match self.format {
            Format::Json => self.show_document()?,
            Format::Human => {
                if self.repeated {
                    self.show_counts();
                }
                show_problems(&self.problems);
                self.show_summary(failed);
            }
        }
        Ok(failed == 0 && self.problems.is_empty())
    }

    fn show_running(&self) {
        let commands: Vec<_> = self.running.iter().map(|block| block.command.text.as_str()).collect();
        self.bar.set_message(commands.join(", "));
    }

    /// How often each command failed, and how long it took.
    fn show_counts(&self) {
        let mut by_block: BTreeMap<_, Vec<&Outcome>> = BTreeMap::new();
        for outcome in &self.outcomes {
            by_block.entry((&outcome.block.question, outcome.block.line)).or_default().push(outcome);
        }
        for ((question, _), outcomes) in by_block {
            let failed = outcomes.iter().filter(|outcome| !outcome.failures.is_empty()).count();
            let times = || outcomes.iter().map(|outcome| outcome.elapsed().as_secs_f64());
            let (quickest, slowest) = (times().fold(f64::MAX, f64::min), times().fold(0.0, f64::max));
            let count = format!("{failed} of {} failed", outcomes.len());
            let count = if failed == 0 { style(count).green() } else { style(count).red() };
            let command = &outcomes[0].block.command.text;
            say!("{count}  {quickest:.3} to {slowest:.3} s  {question}  {command}");
        }
    }

    fn show_summary(&self, failed: usize) {
        let count = self.outcomes.len();
        let changes: usize = self.outcomes.iter().map(|outcome| outcome.changes).sum();
        if changes > 0 {
            let unnoticed = |failure: &&Failure| matches!(failure, Failure::Unnoticed(_));
            let failures = self.outcomes.iter().flat_map(|outcome| &outcome.failures);
            say!("{changes} changes made, {} refused", changes - failures.filter(unnoticed).count());
        }
        let problems = match self.problems.len() {
            0 => String::new(),
            1 => ", and a problem".to_owned(),
            count => format!(", and {count} problems"),
        };
        let runs = if count == 1 { "run" } else { "runs" };
        say!("{count} {runs}, {failed} failed{problems}");
    }

    fn show_document(&self) -> Result<()> {
        let results = self.outcomes.iter().map(|outcome| OutcomeDocument {
            question: &outcome.block.question,
            line: outcome.block.line,
            command: &outcome.block.command.text,
            verdict: verdict(outcome),
            seconds: outcome.elapsed().as_secs_f64(),
            failures: outcome.failures.iter().map(ToString::to_string).collect(),
            stdout: outcome.seen.as_ref().map_or("", |seen| &seen.stdout),
            stderr: outcome.seen.as_ref().map_or("", |seen| &seen.stderr),
            changes: outcome.changes,
        });
        let document = Document { results: results.collect(), problems: &self.problems };
        say!("{}", serde_json::to_string_pretty(&document)?);
        Ok(())
    }
}

#[derive(Serialize)]
struct Document<'a> {
    results: Vec<OutcomeDocument<'a>>,
    problems: &'a [Problem],
}

#[derive(Serialize)]
struct OutcomeDocument<'a> {
    question: &'a str,
    line: usize,
    command: &'a str,
    verdict: &'a str,
    seconds: f64,
    failures: Vec<String>,
    stdout: &'a str,
    stderr: &'a str,
    changes: usize,
}

fn verdict(outcome: &Outcome) -> &'static str {
    if outcome.failures.is_empty() { "ok" } else { "failed" }
}

fn show_verdict(outcome: &Outcome) {
    let verdict = style(format!("{:6}", verdict(outcome)));
    let verdict = if outcome.failures.is_empty() { verdict.green() } else { verdict.red() };
    let Block { question, command, .. } = outcome.block;
    say!("{verdict} {:7.3} s  {question}  {}", outcome.elapsed().as_secs_f64(), command.text);
}

fn show_problems(problems: &[Problem]) {
    for Problem { place, what, .. } in problems {
        say!("{} {place}: {what}", style("failed").red());
    }
}

fn show_failures(outcome: &Outcome) {
    let Some(seen) = &outcome.seen else {
        outcome.failures.iter().for_each(|failure| say!("  {failure}"));
        return;
    };
    if outcome.failures.is_empty() {
        return;
    }
    let Block { question, line, command, expected } = outcome.block;
    say!("\n  {}\n  in examples/{question}/README.md:{line}", style(&command.text).bold());
    outcome.failures.iter().for_each(|failure| say!("  {failure}"));
    show_difference(expected, &seen.shown(expected.stderr));
    for (stream, text) in [("standard output", &seen.stdout), ("standard error", &seen.stderr)] {
        say!("  {stream}{}", if text.is_empty() { " is empty" } else { ":" });
        text.lines().take(SHOWN).for_each(|line| say!("    {line}"));
        if let Some(more @ 1..) = text.lines().count().checked_sub(SHOWN) {
            say!("    and {more} more lines");
        }
    }
    say!("");
}

fn show_difference(expected: &Expectation, got: &str) {
    let got: Vec<_> = got.split_terminator('\n').collect();
    let wanted = as_wanted(expected, &got);
    let wanted: Vec<_> = wanted.iter().map(String::as_str).collect();
    let difference = TextDiff::from_slices(&wanted, &got);
    if wanted == got {
        return;
    }
    say!("  expected (-) and got (+):");
    for change in difference.iter_all_changes() {
        let line = match change.tag() {
            ChangeTag::Delete => style(format!("- {}", change.value())).red(),
            ChangeTag::Insert => style(format!("+ {}", change.value())).green(),
            ChangeTag::Equal => style(format!("  {}", change.value())),
        };
        say!("    {line}");
    }
}

/// The expected lines, as like to the output as they allow: a line that has a partner there is that partner,
/// and lines that may change places have done so.
fn as_wanted(expected: &Expectation, got: &[&str]) -> Vec<String> {
    let lines: Vec<_> = expected.lines.iter().collect();
    let partners = order::pair(&lines, got);
    let text =
        |index: usize| partners[index].map_or(lines[index].pattern.to_string(), |at| got[at].to_owned());
    let (floating, others): (Vec<_>, Vec<_>) =
        (0..lines.len()).partition(|&index| lines[index].order == LineOrder::Anywhere);
    let mut wanted = Vec::new();
    for group in others.chunk_by(|&a, &b| lines[a].same_group(lines[b])) {
        let mut group = group.to_vec();
        group.sort_by_key(|&index| partners[index].unwrap_or(usize::MAX));
        wanted.extend(group.into_iter().map(text));
    }
    for index in floating {
        let at = partners[index].unwrap_or(usize::MAX).min(wanted.len());
        wanted.insert(at, text(index));
    }
    wanted
}
