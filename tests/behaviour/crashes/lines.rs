//! An error shows the file and the line that crashed, by each start method.

use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use multiproc::{Error, RemoteFn, StartMethod};
use nix::sys::signal::Signal;
use tests::abort_in_c;

use super::{first_level, ignore, overflow_the_stack};
use crate::support::{METHODS, Outcome, trials, with};

trials![
    a_segfault_three_functions_deep_has_its_lines,
    an_abort_in_a_c_function_has_its_line,
    a_stack_overflow_has_its_line,
    a_panic_has_its_line_under_the_rules_of_the_environment,
];

const CRASHES: (&str, &str) = ("tests/behaviour/crashes/mod.rs", include_str!("mod.rs"));
const LIBRARY: (&str, &str) = ("tests/src/lib.rs", include_str!("../../src/lib.rs"));
const IN_C: (&str, &str) = ("tests/src/crash.c", include_str!("../../src/crash.c"));

/// The number of the line that ends with this comment.
fn line_of(text: &str, comment: &str) -> u32 {
    let line = text.lines().position(|line| line.ends_with(&format!(" // {comment}")));
    u32::try_from(line.unwrap() + 1).unwrap()
}

/// Asserts that these functions are in the backtrace, the innermost first, each with its file and the line
/// that ends with the comment.
fn assert_lines(error: &Error, expected: &[(&str, (&str, &str), &str)]) {
    let backtrace = error.backtrace().unwrap();
    let mut frames = backtrace.frames().iter();
    for &(name, (file, text), comment) in expected {
        let is_it = |function: &str| function.contains(name);
        let frame = frames.find(|frame| frame.function().is_some_and(is_it));
        let frame = frame.unwrap_or_else(|| panic!("no {name} in order: {backtrace}"));
        assert!(frame.file().is_some_and(|path| path.ends_with(file)), "{name}: {backtrace}");
        assert_eq!(frame.line(), Some(line_of(text, comment)), "{name}: {backtrace}");
    }
}

fn died_by<F: RemoteFn<(), Output = ()>>(method: StartMethod, function: F, signal: Signal) -> Outcome<Error> {
    let error = with(method).spawn(function, ())?.join().unwrap_err();
    assert_eq!(error.signal(), Some(signal as i32), "{error}");
    Ok(error)
}

fn a_segfault_three_functions_deep_has_its_lines() -> Outcome {
    for method in METHODS {
        let error = died_by(method, || ignore(first_level(16)), Signal::SIGSEGV)?;
        assert_lines(
            &error,
            &[
                ("dereference", LIBRARY, "the fault"),
                ("third_level", CRASHES, "reads"),
                ("second_level", CRASHES, "calls the third"),
                ("first_level", CRASHES, "calls the second"),
            ],
        );
    }
    Ok(())
}

fn an_abort_in_a_c_function_has_its_line() -> Outcome {
    for method in METHODS {
        let error = died_by(method, || abort_in_c(7), Signal::SIGABRT)?;
        assert_lines(&error, &[("abort_in_c", IN_C, "in C"), ("abort_in_c", LIBRARY, "calls C")]);
    }
    Ok(())
}

fn a_stack_overflow_has_its_line() -> Outcome {
    for method in METHODS {
        assert_overflows(&died_by(method, || ignore(overflow_the_stack(0)), Signal::SIGABRT)?);
        let in_a_thread = || drop(thread::spawn(|| overflow_the_stack(0)).join());
        assert_overflows(&died_by(method, in_a_thread, Signal::SIGABRT)?);
    }
    Ok(())
}

fn assert_overflows(error: &Error) {
    let backtrace = error.backtrace().unwrap();
    let is_it = |function: &str| function.contains("overflow_the_stack");
    let frames = backtrace.frames().iter().filter(|frame| frame.function().is_some_and(is_it));
    let frames: Vec<_> = frames.take(4).collect();
    assert_eq!(frames.len(), 4, "{backtrace}");
    let is_here = |file: &Path| file.ends_with(CRASHES.0);
    assert!(frames.iter().all(|frame| frame.file().is_some_and(is_here)), "{backtrace}");
    // The innermost may have overflowed the stack anywhere.
    let line = Some(line_of(CRASHES.1, "goes deeper"));
    assert!(frames[1..].iter().all(|frame| frame.line() == line), "{backtrace}");
}

fn a_panic_has_its_line_under_the_rules_of_the_environment() -> Outcome {
    let text = include_str!("../../src/bin/panicked.rs");
    let line = format!("src/bin/panicked.rs:{}:", line_of(text, "the panic"));
    // Whether there is a backtrace with RUST_BACKTRACE and RUST_LIB_BACKTRACE.
    let rules = [
        (None, None, false),
        (Some("0"), None, false),
        (Some("1"), None, true),
        (Some("full"), None, true),
        (Some("1"), Some("0"), false),
        (Some("0"), Some("1"), true),
    ];
    for method in ["fork-server", "spawn"] {
        for (all, libraries, expected) in rules {
            let mut program = Command::new(env!("CARGO_BIN_EXE_panicked"));
            program.env("MULTIPROC_START_METHOD", method).stderr(Stdio::null());
            for (name, value) in [("RUST_BACKTRACE", all), ("RUST_LIB_BACKTRACE", libraries)] {
                program.env_remove(name).envs(value.map(|value| (name, value)));
            }
            let output = String::from_utf8(program.output()?.stdout)?;
            let (message, backtrace) = output.split_once('\n').unwrap();
            assert!(message.contains(&line) && message.contains("on purpose"), "{output}");
            let frame = backtrace.split_once("panic_here").map(|(_, below)| below);
            assert_eq!(frame.is_some(), expected, "{all:?} {libraries:?}: {output}");
            assert!(frame.is_none_or(|below| below.contains(&line)), "{output}");
        }
    }
    Ok(())
}
