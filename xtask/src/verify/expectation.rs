//! The expectation of a console block: its lines, and the conditions in its info string.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context, Result, bail, ensure};

use super::pattern::Pattern;

/// The time limit of a command without conditions on its time.
const LIMIT: Duration = Duration::from_secs(30);

#[derive(Clone, Debug)]
pub struct Expectation {
    pub lines: Vec<Line>,
    /// Whether the block shows standard error, too, after standard output. If not, that stays empty.
    pub stderr: bool,
    pub exit: i32,
    pub at_least: Option<Duration>,
    pub below: Option<Duration>,
    /// How many times the last measured time the first one is at least.
    pub ratio: Option<f64>,
    /// Whether the numbers that placeholders stand for are pairwise different.
    pub distinct: bool,
    /// Whether nothing runs beside it.
    pub alone: bool,
    /// After this time the command is killed.
    pub limit: Duration,
}

#[derive(Clone, Debug)]
pub struct Line {
    pub pattern: Pattern,
    pub order: LineOrder,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineOrder {
    /// After the line before it, and before the line after it.
    InOrder,
    /// Like that, but the lines of one group come in any order among themselves.
    Among(usize),
    /// Anywhere at all.
    Anywhere,
}

impl Expectation {
    /// `words` is what follows `console` in the info string.
    pub fn parse(words: &str, lines: &[&str]) -> Result<Self> {
        let mut expectation = Self {
            lines: lines
                .iter()
                .map(|line| Line { pattern: Pattern::parse(line), order: LineOrder::InOrder })
                .collect(),
            stderr: false,
            exit: 0,
            at_least: None,
            below: None,
            ratio: None,
            distinct: false,
            alone: false,
            limit: LIMIT,
        };
        let mut seen = BTreeSet::new();
        for word in words.split_whitespace() {
            let (name, value) =
                word.split_once('=').map_or((word, None), |(name, value)| (name, Some(value)));
            ensure!(seen.insert(name), "the word `{name}` is given twice");
            expectation.add(name, value).with_context(|| format!("the word `{word}`"))?;
        }
        if !seen.contains("limit") {
            expectation.limit = LIMIT.max(expectation.below.unwrap_or_default() * 3);
        }
        if let (Some(at_least), Some(below)) = (expectation.at_least, expectation.below) {
            ensure!(at_least < below, "no time is at least {at_least:?} and below {below:?}");
        }
        Ok(expectation)
    }

    fn add(&mut self, name: &str, value: Option<&str>) -> Result<()> {
        match (name, value) {
            ("unordered", None) => self.group(1, self.lines.len(), 0)?,
            ("unordered", Some(ranges)) => {
                for (group, range) in ranges.split(',').enumerate() {
                    let (first, last) = range.split_once('-').context("a range is written `1-4`")?;
                    self.group(first.parse()?, last.parse()?, group)?;
                }
            }
            ("floating", Some(numbers)) => {
                for number in numbers.split(',') {
                    self.place(number.parse()?, LineOrder::Anywhere)?;
                }
            }
            ("at-least", Some(time)) => (self.at_least, self.alone) = (Some(duration(time)?), true),
            ("below", Some(time)) => (self.below, self.alone) = (Some(duration(time)?), true),
            ("limit", Some(time)) => self.limit = duration(time)?,
            ("exit", Some(code)) => self.exit = code.parse()?,
            ("ratio", Some(times)) => (self.ratio, self.alone) = (Some(times.parse()?), true),
            ("stderr", None) => self.stderr = true,
            ("distinct", None) => self.distinct = true,
            ("alone", None) => self.alone = true,
            _ => bail!("has no meaning after `console`"),
        }
        Ok(())
    }

    fn group(&mut self, first: usize, last: usize, group: usize) -> Result<()> {
        ensure!(first < last, "it takes two lines to be in any order");
        (first..=last).try_for_each(|number| self.place(number, LineOrder::Among(group)))
    }

    fn place(&mut self, number: usize, order: LineOrder) -> Result<()> {
        let count = self.lines.len();
        let line = number.checked_sub(1).and_then(|index| self.lines.get_mut(index));
        let line = line.with_context(|| format!("there is no line {number} among {count}"))?;
        ensure!(line.order == LineOrder::InOrder, "line {number} already has a place");
        line.order = order;
        Ok(())
    }
}

impl Line {
    /// Whether the two may change places.
    pub fn same_group(&self, other: &Self) -> bool {
        matches!(self.order, LineOrder::Among(_)) && self.order == other.order
    }
}

fn duration(text: &str) -> Result<Duration> {
    let (number, unit) = match text.strip_suffix("ms") {
        Some(number) => (number, 0.001),
        None => (text.strip_suffix('s').context("a time is written `3s` or `250ms`")?, 1.0),
    };
    Ok(Duration::try_from_secs_f64(number.parse::<f64>()? * unit)?)
}
