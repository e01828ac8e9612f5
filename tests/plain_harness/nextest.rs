//! The tests of `main.rs` under `cargo nextest`, which runs each in a process of its own.

use std::process::{Command, Stdio};

use tests::cannot_run;

#[test]
fn the_tests_pass_under_nextest() {
    let cargo = || Command::new(env!("CARGO"));
    let has_it = cargo().args(["nextest", "--version"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !has_it.is_ok_and(|status| status.success()) {
        return cannot_run("`cargo nextest` is not installed");
    }
    let mut tests = cargo();
    tests.args(["nextest", "run", "--workspace", "--test", "plain_harness", "--locked", "--no-fail-fast"]);
    // Of the features of this build, so that nothing is compiled again.
    for (feature, is_on) in [("tests/async", cfg!(feature = "async")), ("tests/log", cfg!(feature = "log"))] {
        if is_on {
            tests.args(["--features", feature]);
        }
    }
    let Ok(output) = tests.env_remove("NEXTEST_PROFILE").output() else { panic!("cannot run {tests:?}") };
    let report = String::from_utf8_lossy(&output.stderr);
    if report.contains("failed to download") {
        return cannot_run("nextest reads the manifests of all packages, and there is no network for them");
    }
    assert!(output.status.success() && report.contains(" passed"), "{tests:?}:\n{report}");
    assert!(!report.contains(" 0 tests run"), "{report}");
}
