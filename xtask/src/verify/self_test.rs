//! The self-test of the comparison: changes the expectation of a good run, and checks that each change is
//! refused.
//!
//! Every change here is one that no good comparison can accept. So a changed word is one that the output
//! does not contain anywhere, and two lines change places only if no other arrangement makes up for it.

use std::time::Duration;

use super::{
    differences::Failure,
    expectation::{Expectation, Line, LineOrder},
    pattern::{Kind, Pattern},
};
use crate::runner::Observed;

struct Change {
    what: String,
    expected: Expectation,
}

/// How many changes were made, and those that were accepted.
pub fn self_test(
    expected: &Expectation,
    seen: &Observed,
    compare: impl Fn(&Expectation, &Observed) -> Vec<Failure>,
) -> (usize, Vec<Failure>) {
    let output = seen.shown(expected.stderr);
    let mut changes = changed_words(expected, &output);
    changes.extend(dropped_lines(expected));
    changes.extend(added_lines(expected));
    changes.extend(swapped_lines(expected, &output.split_terminator('\n').collect::<Vec<_>>()));
    changes.extend(changed_conditions(expected, seen));
    let accepted = changes.iter().filter(|change| compare(&change.expected, seen).is_empty());
    (changes.len(), accepted.map(|change| Failure::Unnoticed(change.what.clone())).collect())
}

fn changed_words(expected: &Expectation, output: &str) -> Vec<Change> {
    let mut changes = Vec::new();
    for (index, line) in expected.lines.iter().enumerate() {
        for pattern in with_a_changed_word(&line.pattern, output) {
            let what = format!("line {} as `{pattern}`", index + 1);
            changes.push(changed(expected, what, |expected| expected.lines[index].pattern = pattern));
        }
    }
    changes
}

fn dropped_lines(expected: &Expectation) -> Vec<Change> {
    let drop = |index| {
        let what = format!("without line {}", index + 1);
        changed(expected, what, |expected| _ = expected.lines.remove(index))
    };
    (0..expected.lines.len()).map(drop).collect()
}

fn added_lines(expected: &Expectation) -> Vec<Change> {
    let add = |index| {
        let line = Line { pattern: Pattern::parse("[..]"), order: LineOrder::InOrder };
        changed(expected, format!("with one more line after line {index}"), |expected| {
            expected.lines.insert(index, line);
        })
    };
    (0..=expected.lines.len()).map(add).collect()
}

fn swapped_lines(expected: &Expectation, output: &[&str]) -> Vec<Change> {
    let lines = &expected.lines;
    let in_turn: Vec<_> =
        (0..lines.len()).filter(|&index| lines[index].order != LineOrder::Anywhere).collect();
    let nothing_floats = in_turn.len() == lines.len();
    let mut changes = Vec::new();
    for pair in in_turn.windows(2) {
        let (first, second) = (pair[0], pair[1]);
        let fits = |line: usize, text: &str| lines[line].pattern.fits(text);
        // If each has only one line of the output to stand for, they must come in the order of those two.
        let unique = |line| output.iter().filter(|text| fits(line, text)).count() == 1;
        // And if all lines are in order, each stands for the line of its own number.
        let ordered = |line: usize| nothing_floats && lines[line].order == LineOrder::InOrder;
        let exchangeable = || fits(first, output[second]) && fits(second, output[first]);
        let certain = unique(first) && unique(second) || ordered(first) && ordered(second) && !exchangeable();
        if certain && !lines[first].same_group(&lines[second]) {
            let what = format!("lines {} and {} in each other's place", first + 1, second + 1);
            changes.push(changed(expected, what, |expected| {
                expected.lines[first].pattern = lines[second].pattern.clone();
                expected.lines[second].pattern = lines[first].pattern.clone();
            }));
        }
    }
    changes
}

fn changed_conditions(expected: &Expectation, seen: &Observed) -> Vec<Change> {
    let instant = Duration::from_millis(1);
    let longer = seen.elapsed + instant;
    let mut changes = vec![
        changed(expected, format!("at least {longer:?}"), |expected| expected.at_least = Some(longer)),
        changed(expected, format!("below {:?}", seen.elapsed), |expected| {
            expected.below = Some(seen.elapsed);
        }),
        changed(expected, format!("exit code {}", expected.exit + 1), |expected| expected.exit += 1),
    ];
    let silence = if expected.stderr { "with nothing" } else { "with something" };
    changes.push(changed(expected, format!("{silence} on standard error"), |expected| {
        expected.stderr = !expected.stderr;
    }));
    if expected.ratio.is_some() {
        changes.push(changed(expected, "a ratio of a million".to_owned(), |expected| {
            expected.ratio = Some(1e6);
        }));
    }
    changes
}

fn changed(expected: &Expectation, what: String, change: impl FnOnce(&mut Expectation)) -> Change {
    let mut expected = expected.clone();
    change(&mut expected);
    Change { what, expected }
}

/// The pattern once for each of its fixed words, which is another one there.
fn with_a_changed_word(pattern: &Pattern, output: &str) -> Vec<Pattern> {
    let mut patterns = Vec::new();
    for (index, part) in pattern.parts.iter().enumerate().filter(|(_, part)| part.kind == Kind::Fixed) {
        for word in part.text.split_whitespace() {
            let start = word.as_ptr().addr() - part.text.as_ptr().addr();
            let mut text = part.text.clone();
            text.replace_range(start..start + word.len(), &another(word, output));
            let mut changed = pattern.clone();
            changed.parts[index].text = text;
            patterns.push(changed);
        }
    }
    patterns
}

/// A word much like this one that the output does not contain: another number, or one letter more.
fn another(word: &str, output: &str) -> String {
    let mut another = word.to_owned();
    while output.contains(&another) {
        another = match another.parse::<u64>() {
            Ok(number) => number.wrapping_add(1).to_string(),
            Err(_) => another + "x",
        };
    }
    another
}
