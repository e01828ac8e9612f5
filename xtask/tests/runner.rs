//! The runner reports and removes what small shell programs leave behind.

#![allow(clippy::unwrap_used)] // A test that cannot be set up fails.

use std::{fs, path::Path, time::Duration};

use xtask::runner::{Ending, Observed, Process, Runner};

/// Nothing here takes this long, however busy the machine is.
const LONG: Duration = Duration::from_secs(100);

/// How long a test waits that knows what is left over.
const SHORT: Duration = Duration::from_millis(100);

fn run(script: &str) -> Observed {
    run_with(LONG, LONG, script)
}

/// For a program that leaves a process behind.
fn run_leaky(script: &str) -> Observed {
    run_with(LONG, SHORT, script)
}

fn run_with(limit: Duration, grace: Duration, script: &str) -> Observed {
    let arguments = ["-c".to_owned(), script.to_owned()];
    Runner::new(Path::new("/"), grace).unwrap().run(Path::new("/bin/sh"), &arguments, limit).unwrap()
}

/// Whether no such process is there, not even a dead one.
fn is_gone(pid: i32) -> bool {
    !Path::new("/proc").join(pid.to_string()).exists()
}

#[test]
fn a_clean_run_has_nothing_to_report() {
    let seen = run("echo out; echo err >&2; pwd; exit 3");
    assert_eq!((seen.stdout.as_str(), seen.stderr.as_str()), ("out\n/\n", "err\n"));
    assert_eq!(seen.ending, Ending::Exit(3));
    assert!(seen.leaked.is_empty() && seen.left_behind.is_empty() && !seen.held_open);
}

#[test]
fn standard_input_is_empty() {
    assert_eq!(run("cat; echo end").stdout, "end\n");
}

/// Each of the two pipes lets a process wait for another, without a guess at how long that takes.
const PIPES: &str = "mkfifo $TMPDIR/ready $TMPDIR/never";

#[test]
fn a_leaked_process_is_named_and_killed() {
    let leak = "echo $$; echo > $TMPDIR/ready; read line < $TMPDIR/never";
    let seen = run_leaky(&format!("{PIPES}; sh -c '{leak}' leak & read line < $TMPDIR/ready"));
    let pid: i32 = seen.stdout.trim().parse().unwrap();
    assert_eq!(seen.ending, Ending::Exit(0));
    assert_eq!(seen.leaked, [Process { pid, command: format!("sh -c {leak} leak") }]);
    assert!(is_gone(pid));
    assert!(!seen.held_open, "it held the output open, but only until it was killed");
}

#[test]
fn a_leaked_process_is_found_in_another_session() {
    let leak = "sleep 1000 & sleep 1000 & echo > $TMPDIR/ready; wait";
    let seen = run_leaky(&format!("{PIPES}; setsid sh -c '{leak}' & read line < $TMPDIR/ready"));
    assert_eq!(seen.leaked.len(), 3, "{seen:?}");
    assert!(seen.leaked.iter().all(|process| is_gone(process.pid)));
}

#[test]
fn a_leaked_process_is_found_without_its_environment() {
    let seen = run_leaky("env -i sleep 1000 &");
    assert_eq!(seen.leaked.len(), 1, "{seen:?}");
    assert!(is_gone(seen.leaked[0].pid));
}

#[test]
fn processes_that_end_soon_after_are_no_leak() {
    // The child waits for the end of the pipe, which comes when the parent is gone.
    let child = "while read line; do :; done < $TMPDIR/pipe; rm $TMPDIR/pipe";
    let seen = run(&format!("mkfifo $TMPDIR/pipe; ({child}) & exec 3> $TMPDIR/pipe; echo end"));
    assert_eq!(seen.stdout, "end\n");
    assert!(seen.leaked.is_empty() && seen.left_behind.is_empty(), "{seen:?}");
}

#[test]
fn a_file_left_behind_is_named_and_removed() {
    let runner = Runner::new(Path::new("/"), LONG).unwrap();
    let script = "touch $TMPDIR/b; mkdir $TMPDIR/a; touch $TMPDIR/a/c; echo $TMPDIR".to_owned();
    let seen = runner.run(Path::new("/bin/sh"), &["-c".to_owned(), script], LONG).unwrap();
    assert_eq!(seen.left_behind, ["a", "b"]);
    assert!(!fs::exists(seen.stdout.trim()).unwrap());
}

#[test]
fn a_program_that_never_ends_is_killed_at_its_limit() {
    let seen = run_with(SHORT, LONG, "echo $$; sleep 1000 & while :; do sleep 1; done");
    assert_eq!(seen.ending, Ending::Limit(SHORT));
    assert!(seen.elapsed >= SHORT);
    assert!(seen.leaked.is_empty(), "its group died with it: {seen:?}");
    // A busy machine may not have let it say anything.
    assert!(seen.stdout.trim().parse().is_ok_and(is_gone) || seen.stdout.is_empty());
}

#[test]
fn a_signal_is_named() {
    assert_eq!(run("kill -SEGV $$").ending, Ending::Signal("SIGSEGV".to_owned()));
    assert_eq!(run("kill -KILL $$").ending, Ending::Signal("SIGKILL".to_owned()));
}

#[test]
fn a_flood_of_output_ends() {
    let seen = run("exec yes");
    assert_eq!(seen.stdout.len(), 1 << 20);
    assert_eq!(seen.ending, Ending::Signal("SIGPIPE".to_owned()));
}

/// Many programs at once: each end is told to the starter of the program, and orphans are not mistaken
/// for it.
#[test]
fn many_runs_at_once_do_not_mix_up() {
    let runner = Runner::new(Path::new("/"), LONG).unwrap();
    std::thread::scope(|scope| {
        for number in 0..40 {
            let runner = &runner;
            scope.spawn(move || {
                let script = format!("(true &) & (true &); echo {number}; exit {number}");
                let seen = runner.run(Path::new("/bin/sh"), &["-c".to_owned(), script], LONG).unwrap();
                assert_eq!((seen.stdout, seen.ending), (format!("{number}\n"), Ending::Exit(number)));
                assert!(seen.leaked.is_empty());
            });
        }
    });
}

#[test]
fn a_program_that_is_not_there_cannot_be_run() {
    let runner = Runner::new(Path::new("/"), LONG).unwrap();
    assert!(runner.run(Path::new("/no/such/program"), &[], LONG).is_err());
}
