//! A program runs a recorded task again, in its first process, and ends as the task does.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use super::Directory;
use crate::support::{Outcome, trials};

trials![
    tasks_of_a_pool_fail_in_the_first_process_as_they_did,
    tasks_of_processes_fail_in_the_first_process_as_they_did,
    large_arguments_are_replayed,
    the_state_of_a_worker_is_made_first,
    a_task_that_returns_ends_the_program_with_0,
    a_task_that_took_too_long_has_no_time_limit,
    another_build_refuses_a_record,
    what_is_no_record_is_refused,
    gdb_shows_the_function_that_crashes,
];

/// How a replay ends: by an exit code or by a signal.
type End = (Option<i32>, Option<i32>);

const PANIC: End = (Some(101), None);
const ABORT: End = (None, Some(6));
const SEGFAULT: End = (None, Some(11));

fn program() -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_recorded"));
    program.env("RUST_BACKTRACE", "0").stdin(Stdio::null());
    program
}

/// Runs tasks that fail; returns the paths of their records.
fn record(directory: &Directory, how: &str, kinds: &[&str]) -> Outcome<Vec<String>> {
    let mut program = program();
    program.arg(how).args(kinds).env("MULTIPROC_RECORD", directory.path()).env("FLAKY", "1");
    let output = String::from_utf8(program.output()?.stdout)?;
    let path = |(line, kind): (&str, &&str)| line.strip_prefix(&format!("{kind} ")).unwrap().to_owned();
    assert_eq!((output.lines().count(), directory.files().len()), (kinds.len(), kinds.len()), "{output}");
    Ok(output.lines().zip(kinds).map(path).collect())
}

/// A replay is asked to record, too, and does not.
fn replay(path: &str) -> Outcome<(End, String)> {
    let mut program = program();
    if let Some(directory) = Path::new(path).parent() {
        program.env("MULTIPROC_RECORD", directory);
    }
    let Output { status, stderr, .. } = program.env("MULTIPROC_REPLAY", path).output()?;
    Ok(((status.code(), status.signal()), String::from_utf8_lossy(&stderr).into_owned()))
}

fn assert_replays(how: &str, kinds: &[(&str, End)]) -> Outcome {
    let directory = Directory::new();
    let names: Vec<_> = kinds.iter().map(|&(name, _)| name).collect();
    for ((kind, expected), path) in kinds.iter().zip(record(&directory, how, &names)?) {
        let (end, messages) = replay(&path)?;
        assert_eq!(end, *expected, "{kind}: {messages}");
        assert!(messages.contains("was recorded with this error"), "{messages}");
    }
    assert_eq!(directory.files().len(), kinds.len(), "a replay records nothing");
    Ok(())
}

fn tasks_of_a_pool_fail_in_the_first_process_as_they_did() -> Outcome {
    let exit = (Some(3), None);
    assert_replays(
        "pool",
        &[("segfault", SEGFAULT), ("abort", ABORT), ("overflow", ABORT), ("panic", PANIC), ("exit", exit)],
    )
}

fn tasks_of_processes_fail_in_the_first_process_as_they_did() -> Outcome {
    assert_replays(
        "process",
        &[("segfault", SEGFAULT), ("abort", ABORT), ("overflow", ABORT), ("panic", PANIC), ("nested", PANIC)],
    )
}

fn large_arguments_are_replayed() -> Outcome {
    let directory = Directory::new();
    for path in record(&directory, "large", &["panic", "abort"])? {
        let (end, messages) = replay(&path)?;
        assert!(end == ABORT || end == PANIC && messages.contains("number 100000"), "{messages}");
    }
    Ok(())
}

fn the_state_of_a_worker_is_made_first() -> Outcome {
    let directory = Directory::new();
    let paths = record(&directory, "state", &["panic"])?;
    let (end, messages) = replay(&paths[0])?;
    assert!(end == PANIC && messages.contains("number 7"), "{messages}");
    Ok(())
}

fn a_task_that_returns_ends_the_program_with_0() -> Outcome {
    let directory = Directory::new();
    let paths = record(&directory, "pool", &["flaky"])?;
    let (end, messages) = replay(&paths[0])?;
    assert_eq!(end, (Some(0), None), "{messages}");
    assert!(messages.contains("the task has returned"), "{messages}");
    Ok(())
}

fn a_task_that_took_too_long_has_no_time_limit() -> Outcome {
    let directory = Directory::new();
    let paths = record(&directory, "limited", &["timeout"])?;
    let (end, messages) = replay(&paths[0])?;
    assert_eq!(end, (Some(0), None), "{messages}");
    assert!(messages.contains("which took longer than 50ms"), "{messages}");
    assert!(messages.contains("the task has returned"), "{messages}");
    Ok(())
}

fn another_build_refuses_a_record() -> Outcome {
    let directory = Directory::new();
    let path = record(&directory, "pool", &["panic"])?.remove(0);
    let mut other = Command::new(env!("CARGO_BIN_EXE_crash_lines"));
    let output = other.env("MULTIPROC_REPLAY", &path).output()?;
    let messages = String::from_utf8(output.stderr)?;
    assert_eq!(output.status.code(), Some(2), "{messages}");
    let text = String::from_utf8_lossy(&fs::read(&path)?).into_owned();
    let build = text.lines().find_map(|line| line.strip_prefix("build: ")).unwrap();
    assert!(messages.contains(&format!("another build ({build}) has recorded it")), "{messages}");
    assert!(build.len() == 16 && messages.matches(build).count() == 1, "the builds differ: {messages}");
    Ok(())
}

fn what_is_no_record_is_refused() -> Outcome {
    let directory = Directory::new();
    let path = record(&directory, "pool", &["panic"])?.remove(0);
    let whole = fs::read(&path)?;
    fs::write(&path, &whole[..whole.len() - 1])?;
    for (path, why) in [
        (&path[..], "it is truncated or damaged"),
        ("/proc/self/status", "it is not a record of a task"),
        ("/no/such/file", "No such file"),
    ] {
        let (end, messages) = replay(path)?;
        assert_eq!(end, (Some(2), None), "{messages}");
        assert!(messages.contains(why), "{messages}");
    }
    Ok(())
}

fn gdb_shows_the_function_that_crashes() -> Outcome {
    if Command::new("gdb").arg("--version").output().is_err() {
        println!("A replay in gdb is not tested: there is no gdb");
        return Ok(());
    }
    let directory = Directory::new();
    let path = record(&directory, "pool", &["segfault"])?.remove(0);
    let mut gdb = Command::new("gdb");
    gdb.args(["-nx", "-batch", "-ex", "run", "-ex", "backtrace", "--args", env!("CARGO_BIN_EXE_recorded")]);
    // Without the variable, gdb asks no server for debug information.
    gdb.env("MULTIPROC_REPLAY", path).env_remove("DEBUGINFOD_URLS").stdin(Stdio::null());
    let Output { stdout, stderr, .. } = gdb.output()?;
    let (text, messages) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    if ["trace the inferior", "ptrace: Operation not permitted"].iter().any(|why| messages.contains(why)) {
        println!("A replay in gdb is not tested: ptrace is refused");
        return Ok(());
    }
    let (_, backtrace) = text.split_once("SIGSEGV").ok_or_else(|| format!("no crash: {text}{messages}"))?;
    for function in ["dereference", "third_level", "second_level", "first_level"] {
        assert!(backtrace.contains(function), "no {function}: {text}{messages}");
    }
    Ok(())
}
