//! The comparison accepts good runs and refuses bad ones.

#![allow(clippy::unwrap_used)] // A test that cannot be set up fails.

use std::time::Duration;

use xtask::runner::{Ending, Observed, Process};
use xtask::verify::{
    differences::{Failure, compare},
    expectation::Expectation,
    order,
};

fn expect(words: &str, lines: &[&str]) -> Expectation {
    Expectation::parse(words, lines).unwrap()
}

/// A run with nothing wrong about it.
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

fn printed(words: &str, lines: &[&str], output: &[&str]) -> Vec<Failure> {
    let output: Vec<_> = output.iter().flat_map(|line| [line, "\n"]).collect();
    compare(&expect(words, lines), &run(&output.concat()))
}

fn accepts(words: &str, lines: &[&str], output: &[&str]) {
    assert_eq!(printed(words, lines, output), [], "`{words}` {lines:?} against {output:?}");
}

fn missing(line: &str) -> Failure {
    Failure::MissingLines(vec![line.to_owned()])
}

fn extra(line: &str) -> Failure {
    Failure::ExtraLines(vec![line.to_owned()])
}

#[test]
fn accepts_what_is_expected() {
    accepts("", &[], &[]);
    accepts("", &["a", "b [NUMBER]"], &["a", "b 7"]);
    accepts("", &["a", ""], &["a", ""]);
    accepts("exit=0 at-least=4s below=4.001s distinct", &["[PID] [PID]"], &["1 2"]);
}

#[test]
fn refuses_a_missing_line() {
    assert_eq!(printed("", &["a", "b", "c"], &["a", "c"]), [missing("b")]);
    assert_eq!(printed("", &["a"], &[]), [missing("a")]);
    assert_eq!(printed("", &["a", ""], &["a"]), [missing("")]);
    assert_eq!(printed("unordered", &["a", "a"], &["a"]), [missing("a")]);
}

#[test]
fn refuses_a_line_too_many() {
    assert_eq!(printed("", &["a", "b"], &["a", "x", "b"]), [extra("x")]);
    assert_eq!(printed("", &[], &[""]), [extra("")]);
    assert_eq!(printed("unordered", &["a", "b"], &["a", "b", "b"]), [extra("b")]);
    assert_eq!(printed("", &["a"], &["a", "b", "c"]), [Failure::ExtraLines(vec!["b".into(), "c".into()])]);
}

#[test]
fn refuses_another_line() {
    assert_eq!(printed("", &["task 1"], &["task 2"]), [missing("task 1"), extra("task 2")]);
    assert_eq!(printed("", &["a"], &["a "]), [missing("a"), extra("a ")]);
    assert_eq!(printed("", &["[1..=9]"], &["10"]), [missing("[1..=9]"), extra("10")]);
    assert_eq!(printed("", &["a"], &["a\r"]), [missing("a"), extra("a\r")]);
}

#[test]
fn refuses_a_wrong_order() {
    assert_eq!(printed("", &["a", "b"], &["b", "a"]), [Failure::WrongOrder]);
    assert_eq!(printed("unordered=1-2", &["a", "b", "c"], &["a", "c", "b"]), [Failure::WrongOrder]);
    assert_eq!(printed("floating=3", &["a", "b", "f"], &["b", "f", "a"]), [Failure::WrongOrder]);
    let groups = ["a", "b", "c", "d"];
    assert_eq!(printed("unordered=1-2,3-4", &groups, &["a", "c", "b", "d"]), [Failure::WrongOrder]);
}

#[test]
fn accepts_every_order_that_is_allowed() {
    accepts("unordered", &["a", "b", "c"], &["c", "a", "b"]);
    accepts("unordered=2-3", &["a", "b", "c", "d"], &["a", "c", "b", "d"]);
    accepts("unordered=1-2,3-4", &["a", "b", "c", "d"], &["b", "a", "d", "c"]);
    for output in [["f", "a", "b"], ["a", "f", "b"], ["a", "b", "f"]] {
        accepts("floating=3", &["a", "b", "f"], &output);
        accepts("floating=1", &["f", "a", "b"], &output);
    }
    accepts("floating=1 unordered=2-3", &["f", "a", "b"], &["b", "f", "a"]);
}

/// The first line that fits is not always the right one.
#[test]
fn pairs_lines_with_care() {
    accepts("unordered", &["[..]", "a", "[NUMBER]"], &["1", "a", "2"]);
    accepts("unordered", &["[NUMBER]", "[1..=5]", "1"], &["1", "5", "9"]);
    accepts("unordered", &["[1..=3]", "[1..=2]", "[2..=3]", "[1..=1]"], &["1", "2", "3", "2"]);
    accepts("floating=1", &["[NUMBER]", "1", "2"], &["1", "2", "3"]);
    accepts("floating=1", &["[NUMBER]", "1", "2"], &["1", "1", "2"]);
    accepts("floating=1,2", &["[..]", "[NUMBER]", "1", "a"], &["1", "1", "a", "a"]);
    let numbers = ["[1..=3]", "[1..=2]", "1", "[1..=2]"];
    assert_eq!(printed("unordered", &numbers, &["3", "1", "2", "3"]).len(), 2);
}

/// Every assignment of up to four lines is found, and none that is not there: as many as trying all of them.
#[test]
fn pairs_as_trying_everything_does() {
    let patterns = ["1", "2", "[1..=2]", "[NUMBER]"];
    let numbers = ["1", "2", "3"];
    let permutations: Vec<_> = permutations().collect();
    for code in 0..(4 * 3_usize).pow(4) {
        let digit = |place: u32, base: usize, code: usize| code / base.pow(place) % base;
        let lines: Vec<_> = (0..4).map(|place| patterns[digit(place, 4, code % 256)]).collect();
        let output: Vec<_> = (0..4).map(|place| numbers[digit(place, 3, code / 256)]).collect();
        for words in ["unordered", "unordered=1-2", "floating=1", "floating=2,4"] {
            let expected = expect(words, &lines);
            let exists = permutations
                .iter()
                .any(|order| is_allowed(words, order) && is_fit(&expected, &output, order));
            assert_eq!(
                order::arrange(&expected.lines, &output).is_some(),
                exists,
                "{words} {lines:?} {output:?}"
            );
        }
    }
}

/// For each of four lines the place where it stands, in every possible way.
fn permutations() -> impl Iterator<Item = [usize; 4]> {
    (0..256_usize)
        .map(|code| [code / 64, code / 16 % 4, code / 4 % 4, code % 4])
        .filter(|order| (0..4).all(|place| order.contains(&place)))
}

fn is_allowed(words: &str, order: &[usize; 4]) -> bool {
    match words {
        "unordered" => true,
        "unordered=1-2" => order[0] < 2 && order[1] < 2 && order[2] < order[3],
        "floating=1" => order[1] < order[2] && order[2] < order[3],
        _ => order[0] < order[2],
    }
}

fn is_fit(expected: &Expectation, output: &[&str], order: &[usize; 4]) -> bool {
    expected.lines.iter().zip(order).all(|(line, &place)| line.pattern.fits(output[place]))
}

#[test]
fn refuses_a_last_line_without_end() {
    assert_eq!(compare(&expect("", &["a"]), &run("a")), [Failure::UnfinishedLine]);
}

#[test]
fn refuses_two_equal_numbers_under_distinct() {
    let lines = ["worker [PID]", "worker [PID] in [SECONDS] s"];
    accepts("distinct", &lines, &["worker 7", "worker 8 in 1.000 s"]);
    accepts("", &lines, &["worker 7", "worker 7 in 1.000 s"]);
    let failures = printed("distinct", &lines, &["worker 7", "worker 7 in 1.000 s"]);
    assert_eq!(failures, [Failure::RepeatedNumber("7".to_owned())]);
    assert_eq!(
        printed("distinct", &["[1..=9] [NUMBER]"], &["3 3"]),
        [Failure::RepeatedNumber("3".to_owned())]
    );
}

#[test]
fn refuses_a_wrong_time() {
    let elapsed = Duration::from_secs(4);
    let at_least = Duration::from_millis(4001);
    assert_eq!(printed("at-least=4001ms", &[], &[]), [Failure::TooQuick { at_least, elapsed }]);
    let below = elapsed;
    assert_eq!(printed("below=4s", &[], &[]), [Failure::TooSlow { below, elapsed }]);
}

#[test]
fn refuses_a_wrong_end() {
    let end = |ending, words| compare(&expect(words, &[]), &Observed { ending, ..run("") });
    assert_eq!(end(Ending::Exit(2), "exit=2"), []);
    assert_eq!(end(Ending::Exit(2), ""), [Failure::ExitCode { expected: 0, got: 2 }]);
    assert_eq!(end(Ending::Exit(0), "exit=2"), [Failure::ExitCode { expected: 2, got: 0 }]);
    assert_eq!(end(Ending::Signal("SIGSEGV".into()), "exit=2"), [Failure::Signalled("SIGSEGV".into())]);
    let limit = Duration::from_secs(1);
    assert_eq!(end(Ending::Limit(limit), "below=1s"), [Failure::OverLimit(limit)]);
}

#[test]
fn refuses_something_on_standard_error_that_is_not_shown() {
    let seen = |stdout: &str, stderr: &str| Observed { stderr: stderr.to_owned(), ..run(stdout) };
    assert_eq!(compare(&expect("", &["a"]), &seen("a\n", "\n")), [Failure::OnError]);
    assert_eq!(compare(&expect("stderr", &["a"]), &seen("", "a\n")), []);
    assert_eq!(compare(&expect("stderr", &["x", "a"]), &seen("x\n", "a\n")), []);
    assert_eq!(compare(&expect("stderr", &["a", "x"]), &seen("x\n", "a\n")), [Failure::WrongOrder]);
    assert_eq!(compare(&expect("stderr", &["a"]), &seen("a\n", "")), [Failure::NothingOnError]);
}

#[test]
fn refuses_times_in_another_ratio() {
    let lines = ["slow: [SECONDS] s", "between", "quick: [SECONDS] s"];
    accepts("ratio=3", &lines, &["slow: 3.000 s", "between", "quick: 1.000 s"]);
    let failures = printed("ratio=3", &lines, &["slow: 2.999 s", "between", "quick: 1.000 s"]);
    assert_eq!(failures, [Failure::Ratio { at_least: 3.0, times: vec![2.999, 1.0] }]);
    let failures = printed("ratio=3", &["[SECONDS]"], &["1.000"]);
    assert_eq!(failures, [Failure::Ratio { at_least: 3.0, times: vec![1.0] }]);
}

#[test]
fn refuses_what_is_left_over() {
    let process = Process { pid: 7, command: "sleep 1000".to_owned() };
    let seen = Observed {
        leaked: vec![process.clone()],
        left_behind: vec!["queue".to_owned()],
        held_open: true,
        ..run("")
    };
    let failures = [Failure::Leaked(process), Failure::LeftBehind("queue".to_owned()), Failure::HeldOpen];
    assert_eq!(compare(&expect("", &[]), &seen), failures);
}

#[test]
fn every_word_after_console_has_one_meaning() {
    let lines = ["a", "b", "c"];
    for words in [
        "unorderd",
        "unordered=",
        "unordered=1",
        "unordered=2-2",
        "unordered=0-1",
        "unordered=2-4",
        "unordered=1-2,2-3",
        "floating",
        "floating=0",
        "floating=4",
        "floating=x",
        "floating=1,1",
        "unordered floating=1",
        "at-least",
        "at-least=3",
        "below=xs",
        "below=-1s",
        "at-least=3s below=3s",
        "exit",
        "exit=x",
        "exit=1 exit=1",
        "stderr=1",
        "distinct=1",
        "alone=1",
        "limit",
        "limit=NaNs",
        "Stderr",
    ] {
        assert!(Expectation::parse(words, &lines).is_err(), "{words}");
    }
}

#[test]
fn a_block_with_a_time_runs_alone() {
    for (words, alone) in
        [("", false), ("below=1s", true), ("at-least=1s", true), ("limit=1s", false), ("alone", true)]
    {
        assert_eq!(expect(words, &[]).alone, alone, "{words}");
    }
}

#[test]
fn the_limit_follows_the_time() {
    for (words, limit) in [("", 30), ("below=2s", 30), ("below=20s", 60), ("limit=5s below=20s", 5)] {
        assert_eq!(expect(words, &[]).limit, Duration::from_secs(limit), "{words}");
    }
}
