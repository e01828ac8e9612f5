//! The self-test, with the real comparison and with careless ones.

#![allow(clippy::unwrap_used)] // A test that cannot be set up fails.

use std::time::Duration;

use xtask::runner::{Ending, Observed};
use xtask::verify::{
    differences::compare,
    expectation::{Expectation, LineOrder},
    self_test::self_test,
};

fn expect(words: &str, lines: &[&str]) -> Expectation {
    Expectation::parse(words, lines).unwrap()
}

fn run(stdout: &str) -> Observed {
    Observed {
        stdout: stdout.to_owned(),
        stderr: String::new(),
        ending: Ending::Exit(0),
        elapsed: Duration::from_secs(4),
        leaked: Vec::new(),
        left_behind: Vec::new(),
        held_open: false,
    }
}

const TICKETS: (&str, [&str; 4], &str) = (
    "floating=3 unordered=1-2",
    ["one [NUMBER]", "two", "ticket 5, sold", "the end [..]"],
    "two\none 7\nthe end 2\nticket 5, sold\n",
);

#[test]
fn the_self_test_makes_every_change_and_sees_it_refused() {
    let (words, lines, output) = TICKETS;
    // Seven words, four lines dropped, five added, one swap across the group's end, two times, the exit code
    // and standard error.
    assert_eq!(self_test(&expect(words, &lines), &run(output), compare), (21, vec![]));
}

/// A comparison that overlooks something is found out.
#[test]
fn the_self_test_shows_what_is_overlooked() {
    let (words, lines, output) = TICKETS;
    let unnoticed = |careless: fn(&mut Expectation)| {
        let compare = |expected: &Expectation, seen: &Observed| {
            let mut expected = expected.clone();
            careless(&mut expected);
            compare(&expected, seen)
        };
        self_test(&expect(words, &lines), &run(output), compare).1.len()
    };
    assert_eq!(unnoticed(|_| {}), 0);
    assert_eq!(unnoticed(|expected| expected.exit = 0), 1);
    assert_eq!(unnoticed(|expected| (expected.at_least, expected.below) = (None, None)), 2);
    assert_eq!(unnoticed(|expected| expected.stderr = false), 1);
    let no_order = |expected: &mut Expectation| {
        expected.lines.iter_mut().for_each(|line| line.order = LineOrder::Anywhere);
    };
    assert_eq!(unnoticed(no_order), 1);
}

/// Lines that may stand for each other make no change when they are swapped.
#[test]
fn the_self_test_is_not_fooled_by_equal_lines() {
    for (words, lines, output) in [
        ("", ["[NUMBER]", "[..]", "[1..=9]"], "1\n2\n3\n"),
        ("unordered", ["[NUMBER]", "3", "7"], "7\n3\n7\n"),
        ("floating=3", ["1", "2", "[NUMBER]"], "1\n2\n1\n"),
        ("floating=1", ["[NUMBER]", "1", "2"], "1\n2\n1\n"),
        ("floating=3", ["1", "[..]", "x"], "x\n1\nx\n"),
    ] {
        let expected = expect(words, &lines);
        assert_eq!(compare(&expected, &run(output)), []);
        assert_eq!(self_test(&expected, &run(output), compare).1, [], "{words} {lines:?}");
    }
}
