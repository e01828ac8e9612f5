//! Compares one run with the expectation of its block.

use std::{collections::BTreeSet, fmt, time::Duration};

use super::{expectation::Expectation, order};
use crate::runner::{Ending, Observed, Process};

/// One difference between a run and its block; its `Display` is a sentence.
#[derive(Clone, Debug, PartialEq)]
pub enum Failure {
    NotRun(String),
    OverLimit(Duration),
    Signalled(String),
    ExitCode {
        expected: i32,
        got: i32,
    },
    OnError,
    NothingOnError,
    MissingLines(Vec<String>),
    ExtraLines(Vec<String>),
    WrongOrder,
    UnfinishedLine,
    RepeatedNumber(String),
    Ratio {
        at_least: f64,
        times: Vec<f64>,
    },
    TooQuick {
        at_least: Duration,
        elapsed: Duration,
    },
    TooSlow {
        below: Duration,
        elapsed: Duration,
    },
    Leaked(Process),
    LeftBehind(String),
    HeldOpen,
    /// Only from a self-test: the change of the expectation that the comparison accepted.
    Unnoticed(String),
}

/// All differences; empty if the run is as expected.
pub fn compare(expected: &Expectation, seen: &Observed) -> Vec<Failure> {
    let mut failures = Vec::new();
    failures.extend(ending(expected, seen));
    failures.extend(streams(expected, seen));
    failures.extend(time(expected, seen));
    failures.extend(seen.leaked.iter().cloned().map(Failure::Leaked));
    failures.extend(seen.left_behind.iter().cloned().map(Failure::LeftBehind));
    failures.extend(seen.held_open.then_some(Failure::HeldOpen));
    failures
}

fn ending(expected: &Expectation, seen: &Observed) -> Option<Failure> {
    match &seen.ending {
        Ending::Limit(limit) => Some(Failure::OverLimit(*limit)),
        Ending::Signal(name) => Some(Failure::Signalled(name.clone())),
        Ending::Exit(got) if *got == expected.exit => None,
        Ending::Exit(got) => Some(Failure::ExitCode { expected: expected.exit, got: *got }),
    }
}

fn streams(expected: &Expectation, seen: &Observed) -> Vec<Failure> {
    let mut failures = Vec::new();
    match (expected.stderr, seen.stderr.is_empty()) {
        (false, false) => failures.push(Failure::OnError),
        (true, true) => failures.push(Failure::NothingOnError),
        _ => {}
    }
    if [&seen.stdout, &seen.stderr].iter().any(|text| !text.is_empty() && !text.ends_with('\n')) {
        failures.push(Failure::UnfinishedLine);
    }
    let text = seen.shown(expected.stderr);
    failures.extend(lines(expected, &text.split_terminator('\n').collect::<Vec<_>>()));
    failures
}

fn lines(expected: &Expectation, output: &[&str]) -> Vec<Failure> {
    match order::arrange(&expected.lines, output) {
        Some(partners) => {
            let repeated = repeated_number(expected, output, &partners);
            repeated.into_iter().chain(ratio(expected, output, &partners)).collect()
        }
        None => mismatches(expected, output),
    }
}

fn repeated_number(expected: &Expectation, output: &[&str], partners: &[usize]) -> Option<Failure> {
    if !expected.distinct {
        return None;
    }
    let numbers =
        expected.lines.iter().zip(partners).filter_map(|(line, &at)| line.pattern.numbers(output[at]));
    let mut seen = BTreeSet::new();
    let mut repeated = numbers.flatten().filter(|number| !seen.insert(*number));
    repeated.next().map(|number| Failure::RepeatedNumber(number.to_owned()))
}

fn ratio(expected: &Expectation, output: &[&str], partners: &[usize]) -> Option<Failure> {
    let at_least = expected.ratio?;
    let times = expected.lines.iter().zip(partners).flat_map(|(line, &at)| line.pattern.times(output[at]));
    let times: Vec<f64> = times.collect();
    let holds = matches!(times[..], [first, .., last] if first >= at_least * last);
    (!holds).then_some(Failure::Ratio { at_least, times })
}

/// What is wrong with lines that cannot be arranged as expected.
fn mismatches(expected: &Expectation, output: &[&str]) -> Vec<Failure> {
    let partners = order::pair(&expected.lines.iter().collect::<Vec<_>>(), output);
    let missing: Vec<_> = expected
        .lines
        .iter()
        .zip(&partners)
        .filter(|(_, partner)| partner.is_none())
        .map(|(line, _)| line.pattern.to_string())
        .collect();
    let extra: Vec<_> = (0..output.len())
        .filter(|&at| !partners.contains(&Some(at)))
        .map(|at| output[at].to_owned())
        .collect();
    if missing.is_empty() && extra.is_empty() {
        return vec![Failure::WrongOrder];
    }
    let missing = (!missing.is_empty()).then_some(Failure::MissingLines(missing));
    let extra = (!extra.is_empty()).then_some(Failure::ExtraLines(extra));
    missing.into_iter().chain(extra).collect()
}

fn time(expected: &Expectation, seen: &Observed) -> Option<Failure> {
    let elapsed = seen.elapsed;
    if matches!(seen.ending, Ending::Limit(_)) {
        return None;
    }
    if let Some(at_least) = expected.at_least.filter(|&at_least| elapsed < at_least) {
        return Some(Failure::TooQuick { at_least, elapsed });
    }
    let below = expected.below.filter(|&below| elapsed >= below)?;
    Some(Failure::TooSlow { below, elapsed })
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::NotRun(reason) => write!(f, "It could not be run: {reason}."),
            Self::OverLimit(limit) => write!(f, "It did not end within {limit:?} and was killed."),
            Self::Signalled(name) => write!(f, "It was killed by {name}."),
            Self::ExitCode { expected, got } => write!(f, "It exited with {got} instead of {expected}."),
            Self::OnError => f.write_str("It wrote something to standard error."),
            Self::NothingOnError => f.write_str("It wrote nothing to standard error."),
            Self::MissingLines(lines) => some_lines(f, "missing", lines),
            Self::ExtraLines(lines) => some_lines(f, "not expected", lines),
            Self::WrongOrder => f.write_str("All the lines are there, but in a wrong order."),
            Self::UnfinishedLine => f.write_str("The last line does not end."),
            Self::RepeatedNumber(number) => write!(f, "The number {number} comes more than once."),
            Self::Ratio { at_least, times } => {
                write!(f, "Of the times {times:?} s, the first is not at least {at_least} times the last.")
            }
            Self::TooQuick { at_least, elapsed } => {
                write!(f, "It took {elapsed:.3?}, which is less than {at_least:?}.")
            }
            Self::TooSlow { below, elapsed } => {
                write!(f, "It took {elapsed:.3?}, which is not below {below:?}.")
            }
            Self::Leaked(Process { pid, command }) => {
                write!(f, "Process {pid} outlived it: `{command}`.")
            }
            Self::LeftBehind(name) => write!(f, "It left `{name}` in its temporary folder."),
            Self::HeldOpen => {
                f.write_str("Its output is still open, so a process must have escaped that cannot be found.")
            }
            Self::Unnoticed(change) => write!(f, "A changed expectation was still accepted: {change}."),
        }
    }
}

fn some_lines(f: &mut fmt::Formatter, what: &str, lines: &[String]) -> fmt::Result {
    match lines {
        [line] => write!(f, "A line is {what}: `{line}`."),
        _ => write!(f, "{} lines are {what}, the first of them `{}`.", lines.len(), lines[0]),
    }
}
