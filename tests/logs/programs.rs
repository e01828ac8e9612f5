//! Programs that set their logger at different places, with `RUST_LOG`.

use std::process::Command;

fn lines(place: &str, rust_log: &str) -> Vec<String> {
    let mut program = Command::new(env!("CARGO_BIN_EXE_logged"));
    let output = program.arg(place).env("RUST_LOG", rust_log).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

/// The text that a record from the child ends with, and whether it was written in the first process.
fn arrived(lines: &[String]) -> Vec<(&str, bool)> {
    let records = &lines[..lines.len() - 1];
    records.iter().map(|line| (line.rsplit(' ').next().unwrap(), line.starts_with("main "))).collect()
}

#[test]
fn a_child_sends_only_what_rust_log_permits() {
    let lines = lines("after-init", "app=info,app::loud=trace");
    assert_eq!(arrived(&lines), [("two", true), ("four", true)]);
    assert_eq!(lines.last().unwrap(), "[false, true, false, true]", "the others were not sent at all");
}

#[test]
fn a_logger_that_the_program_sets_before_init_stays() {
    let lines = lines("before-init", "app=debug");
    assert_eq!(arrived(&lines), [("two", false), ("three", false)]);
    assert!(lines[0].starts_with("Anna app two"), "the child has written it: {}", lines[0]);
}

#[test]
fn a_logger_that_a_start_function_sets_stays() {
    let lines = lines("at-start", "app=debug");
    assert_eq!(arrived(&lines), [("two", false), ("three", false)]);
}

#[test]
fn a_forked_copy_has_the_records_of_its_own_children() {
    let lines = lines("forked", "app=info");
    let writers: Vec<&str> = lines.iter().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(writers[..2], ["main", "copy"], "{lines:?}");
    assert!(lines.len() == 3 && lines[1].ends_with("two"), "{lines:?}");
}
