//! Crashes by each start method, and checks that the error shows the file and the line that crashed. The
//! arguments are names of cases; without any, all run. `.ci/run` runs the release build of this, with
//! `debug = 1`.

#![allow(clippy::unwrap_used, reason = "a fixture ends where something does not go as it should")]

use std::env;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use multiproc::{Error, Process, RemoteFn, Result, StartMethod, TaskError};
use nix::sys::signal::Signal;
use tests::crashes::{abort_in_c, first_level, ignore, overflow_the_stack};

type Case = (&'static str, fn() -> Result<()>);

const CASES: [Case; 4] = [("segfault", segfault), ("abort", abort), ("overflow", overflow), ("panic", panic)];

const METHODS: [StartMethod; 2] = [StartMethod::ForkServer, StartMethod::Spawn];

const CRASHES: (&str, &str) = ("tests/src/crashes.rs", include_str!("../crashes.rs"));
const IN_C: (&str, &str) = ("tests/src/crash.c", include_str!("../crash.c"));

fn main() -> Result<()> {
    multiproc::init();
    let names: Vec<_> = env::args().skip(1).collect();
    if names == ["one panic"] {
        return print_panic();
    }
    let wanted =
        CASES.iter().filter(|(name, _)| names.is_empty() || names.iter().any(|wanted| wanted == name));
    for (name, case) in wanted {
        tests::watched(name, case)?;
        println!("{name}: the line is shown");
    }
    Ok(())
}

fn segfault() -> Result<()> {
    for method in METHODS {
        let error = died_by(method, || ignore(first_level(16)), Signal::SIGSEGV)?;
        assert_lines(
            &error,
            &[
                ("dereference", CRASHES, "the fault"),
                ("third_level", CRASHES, "reads"),
                ("second_level", CRASHES, "calls the third"),
                ("first_level", CRASHES, "calls the second"),
            ],
        );
    }
    Ok(())
}

fn abort() -> Result<()> {
    for method in METHODS {
        let error = died_by(method, || abort_in_c(7), Signal::SIGABRT)?;
        assert_lines(&error, &[("abort_in_c", IN_C, "in C"), ("abort_in_c", CRASHES, "calls C")]);
    }
    Ok(())
}

fn overflow() -> Result<()> {
    for method in METHODS {
        assert_overflows(&died_by(method, || ignore(overflow_the_stack(0)), Signal::SIGABRT)?);
        let in_a_thread = || drop(thread::spawn(|| overflow_the_stack(0)).join());
        assert_overflows(&died_by(method, in_a_thread, Signal::SIGABRT)?);
    }
    Ok(())
}

/// Under the rules of the environment it has a backtrace, too.
fn panic() -> Result<()> {
    let line = format!("src/bin/crash_lines.rs:{}:", line_of(include_str!("crash_lines.rs"), "the panic"));
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
            let mut program = Command::new(env::current_exe().unwrap());
            program.arg("one panic").env("MULTIPROC_START_METHOD", method).stderr(Stdio::null());
            for (name, value) in [("RUST_BACKTRACE", all), ("RUST_LIB_BACKTRACE", libraries)] {
                program.env_remove(name).envs(value.map(|value| (name, value)));
            }
            let output = String::from_utf8(program.output().map_err(TaskError::from)?.stdout).unwrap();
            let (message, backtrace) = output.split_once('\n').unwrap();
            assert!(message.contains(&line) && message.contains("on purpose"), "{output}");
            let frame = backtrace.split_once("panic_here").map(|(_, below)| below);
            assert_eq!(frame.is_some(), expected, "{all:?} {libraries:?}: {output}");
            assert!(frame.is_none_or(|below| below.contains(&line)), "{output}");
        }
    }
    Ok(())
}

/// Prints the error of a task that panicked, and its backtrace if it has one.
fn print_panic() -> Result<()> {
    let Err(error) = Process::spawn(panic_here, (7,))?.join() else { return Ok(()) };
    println!("{}", error.to_string().replace('\n', " "));
    println!("{}", error.backtrace().map(|backtrace| backtrace.to_string()).unwrap_or_default());
    Ok(())
}

#[inline(never)]
fn panic_here(number: u64) {
    assert_ne!(number, 7, "on purpose"); // the panic
}

fn died_by<F: RemoteFn<(), Output = ()>>(method: StartMethod, function: F, signal: Signal) -> Result<Error> {
    let error = Process::builder().start_method(method).spawn(function, ())?.join().unwrap_err();
    assert_eq!(error.signal(), Some(signal as i32), "{error}");
    Ok(error)
}

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
