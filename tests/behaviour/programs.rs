//! Whole programs: each test runs its own fixture program.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write, pipe};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio, id};
use std::thread::available_parallelism;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::support::{Outcome, TEST_TIMEOUT, cannot_run, eventually, trials};

trials![
    a_program_without_init_starts_no_second_process,
    a_child_that_does_not_reach_init_in_time_is_an_error,
    a_child_that_exits_before_init_is_an_error,
    a_child_that_finds_another_standard_input_does_not_run_main,
    a_child_that_closes_standard_input_and_stays_is_killed,
    a_child_that_lacks_descriptors_says_so,
    a_child_that_has_no_descriptor_left_does_not_run_main,
    a_killed_parent_leaves_no_child_behind,
    a_child_whose_parent_ends_before_init_does_not_run_main,
    a_program_that_leaks_its_pools_exits_with_0_and_leaves_nothing,
    a_closed_stream_does_not_break_a_child,
    a_broken_stream_does_not_break_a_child,
    what_has_the_number_of_a_stream_is_no_stream,
    a_thread_and_a_program_can_start_children_at_their_ends,
    lines_are_never_torn_and_unfinished_ones_never_lost,
    what_a_task_has_printed_is_out_before_its_result_is_seen,
    nothing_has_a_name_in_the_file_system,
    a_pool_has_a_worker_for_each_cpu_that_the_program_may_use,
    a_pool_has_as_many_workers_as_the_control_groups_quota_has_cpus,
];

/// Runs a fixture program until all holders of its standard output have ended.
fn run(program: &mut Command) -> Output {
    let output = program.stdin(Stdio::null()).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "{program:?}: {}", output.status);
    output
}

/// The lines that a fixture program prints.
fn lines(program: &mut Command) -> Vec<String> {
    run(program).stdout.lines().map(Result::unwrap).collect()
}

fn a_program_without_init_starts_no_second_process() -> Outcome {
    let lines = lines(&mut Command::new(env!("CARGO_BIN_EXE_without_init")));
    let [begins, process, pool, no_child] = &lines[..] else { panic!("it ran more than once: {lines:?}") };
    assert_eq!((&begins[..], &no_child[..]), ("begins", "has no child"));
    for error in [process, pool] {
        assert!(error.contains("call multiproc::init() as the first line of main"), "{error}");
    }
    Ok(())
}

fn a_child_that_does_not_reach_init_in_time_is_an_error() -> Outcome {
    children_that_do_not_come_up("sleep", "did not start: it did not reach multiproc::init() within 0.2 s")
}

fn a_child_that_exits_before_init_is_an_error() -> Outcome {
    children_that_do_not_come_up(
        "exit",
        "did not start: it exited with code 3 before it reached multiproc::init()",
    )
}

/// It does not take itself for the first process, which would start children of its own, and so on.
fn a_child_that_finds_another_standard_input_does_not_run_main() -> Outcome {
    children_that_do_not_come_up(
        "closed",
        "did not start: it exited with code 1 before it reached multiproc::init()",
    )
}

/// Its start socket has hung up, as that of a child that has started may have.
fn a_child_that_closes_standard_input_and_stays_is_killed() -> Outcome {
    let mut program = Command::new(env!("CARGO_BIN_EXE_late_init"));
    let lines = lines(program.arg("silent").env("MULTIPROC_START_METHOD", "spawn"));
    let [process, pool, rest] = &lines[..] else { panic!("{lines:?}") };
    assert!(process.contains("did not reach multiproc::init() within 0.2 s"), "{process}");
    assert!(pool.contains("did not start"), "{pool}");
    assert_eq!(rest, "0 children left");
    Ok(())
}

fn a_child_that_lacks_descriptors_says_so() -> Outcome {
    children_that_do_not_come_up("poor", "cannot open /dev/null: Too many open files (os error 24) (in ")
}

/// The fixture's process and its pool both fail to start, say why, and leave nothing behind.
fn children_that_do_not_come_up(what_they_do: &str, expected: &str) -> Outcome {
    let lines = lines(Command::new(env!("CARGO_BIN_EXE_late_init")).arg(what_they_do));
    let [process, pool, rest] = &lines[..] else { panic!("{lines:?}") };
    for error in [process, pool] {
        assert!(error.contains(expected), "{error}");
    }
    assert_eq!(rest, "0 children left");
    Ok(())
}

fn a_child_that_has_no_descriptor_left_does_not_run_main() -> Outcome {
    let lines = lines(&mut Command::new(env!("CARGO_BIN_EXE_crowded")));
    let [error] = &lines[..] else { panic!("{lines:?}") };
    assert!(error.contains("exited with code 1 before it reached multiproc::init()"), "{error}");
    Ok(())
}

fn a_killed_parent_leaves_no_child_behind() -> Outcome {
    let mut program = Command::new(env!("CARGO_BIN_EXE_orphans")).stdout(Stdio::piped()).spawn()?;
    let mut output = BufReader::new(program.stdout.take().unwrap());
    let lines = output.by_ref().lines().map_while(|line| line.ok()?.parse().ok());
    let mut pids: Vec<i32> = lines.collect();
    pids.sort_unstable();
    pids.dedup();
    assert_eq!(pids.len(), 6, "three children and grandchildren and three workers: {pids:?}");
    program.kill()?;
    assert_eq!(program.wait()?.signal(), Some(9));

    // All of them hold the program's standard output, which ends when the last of them is gone.
    let mut ended = [PollFd::new(output.get_ref().as_fd(), PollFlags::POLLIN)];
    assert_eq!(poll(&mut ended, PollTimeout::try_from(TEST_TIMEOUT)?)?, 1, "some child lives on");
    assert_eq!(output.read_to_end(&mut Vec::new())?, 0);
    Ok(())
}

fn a_child_whose_parent_ends_before_init_does_not_run_main() -> Outcome {
    assert_eq!(lines(&mut Command::new(env!("CARGO_BIN_EXE_hasty"))), ["main runs"]);
    Ok(())
}

fn a_program_that_leaks_its_pools_exits_with_0_and_leaves_nothing() -> Outcome {
    // `lines` ends only when no process holds the program's standard output any more.
    assert_eq!(lines(&mut Command::new(env!("CARGO_BIN_EXE_leaked_pool"))), ["ends"]);
    Ok(())
}

/// How `closed_streams` ends when a shell starts it with these redirections.
fn end_with_streams(redirections: &str) -> ExitStatus {
    let script = format!("exec \"$0\" {redirections}");
    Command::new("sh").args(["-c", &script, env!("CARGO_BIN_EXE_closed_streams")]).status().unwrap()
}

fn a_closed_stream_does_not_break_a_child() -> Outcome {
    for input in ["</dev/null", "<&-"] {
        for output in [">/dev/null", ">&-"] {
            for errors in ["2>/dev/null", "2>&-"] {
                let redirections = [input, output, errors].join(" ");
                assert_eq!(end_with_streams(&redirections).code(), Some(42), "{redirections}");
            }
        }
    }
    Ok(())
}

fn what_has_the_number_of_a_stream_is_no_stream() -> Outcome {
    assert_eq!(Command::new(env!("CARGO_BIN_EXE_reused_streams")).status()?.code(), Some(42));
    Ok(())
}

fn a_thread_and_a_program_can_start_children_at_their_ends() -> Outcome {
    let said = lines(&mut Command::new(env!("CARGO_BIN_EXE_last_words")));
    assert_eq!(said, ["a thread", "the first thread", "the program"]);
    Ok(())
}

fn a_broken_stream_does_not_break_a_child() -> Outcome {
    assert_eq!(end_with_streams(">/dev/full 2>/dev/full").code(), Some(42));
    let (reader, writer) = pipe()?;
    drop(reader);
    let mut program = Command::new(env!("CARGO_BIN_EXE_closed_streams"));
    let status = program.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer).status()?;
    assert_eq!(status.code(), Some(42));
    Ok(())
}

fn lines_are_never_torn_and_unfinished_ones_never_lost() -> Outcome {
    let output = run(&mut Command::new(env!("CARGO_BIN_EXE_lines"))).stdout;
    let mut text = String::from_utf8(output)?;
    for letter in ('a'..='h').chain('A'..='H') {
        // An unfinished line of a child may stand in front of another process's line.
        let unfinished = format!("[{letter}]");
        assert_eq!(text.matches(&unfinished).count(), 1, "{unfinished}");
        text = text.replace(&unfinished, "");
    }
    for letter in ('a'..='h').chain('A'..='H') {
        let lengths = text.lines().filter(|line| line.starts_with(letter)).map(|line| {
            assert!(line.chars().all(|other| other == letter), "a torn line: {line}");
            line.len()
        });
        let expected = (0..100).map(|number| 1 + (number * 73) % 1000);
        assert!(lengths.eq(expected), "lines of {letter} are missing, torn or out of order");
    }
    assert_eq!(text.lines().count(), 1600);
    Ok(())
}

fn what_a_task_has_printed_is_out_before_its_result_is_seen() -> Outcome {
    let file = File::from(memfd_create("printed", MFdFlags::MFD_CLOEXEC)?);
    let mut program = Command::new(env!("CARGO_BIN_EXE_printed"));
    let status = program.stdin(Stdio::null()).stdout(file.try_clone()?).status()?;
    assert!(status.success(), "{status}");
    assert_eq!(file.metadata()?.len(), 2_001 + 2_000);
    Ok(())
}

fn nothing_has_a_name_in_the_file_system() -> Outcome {
    // A folder for temporary files that does not exist: whatever needs one fails, and whatever makes one
    // shows.
    let folder = std::env::temp_dir().join(format!("multiproc-no-such-folder-{}", id()));
    run(Command::new(env!("CARGO_BIN_EXE_nameless")).env("TMPDIR", &folder));
    assert!(!folder.exists());
    Ok(())
}

fn a_pool_has_a_worker_for_each_cpu_that_the_program_may_use() -> Outcome {
    let program = || Command::new(env!("CARGO_BIN_EXE_cpus"));
    assert_eq!(lines(&mut program()), [available_parallelism()?.to_string()]);
    assert_eq!(lines(program().arg("1")), ["1"]);
    Ok(())
}

/// A new control group whose processes have the time of one CPU; `None` where this process may not make one.
fn group_of_one_cpu() -> Option<PathBuf> {
    let versions = [
        ("/sys/fs/cgroup/cpu", "cpu.cfs_quota_us", "100000"),
        ("/sys/fs/cgroup", "cpu.max", "100000 100000"),
    ];
    versions.into_iter().find_map(|(parent, file, quota)| {
        let group = Path::new(parent).join(format!("multiproc-test-{}", id()));
        fs::create_dir(&group).ok()?;
        let limited = File::options().write(true).open(group.join(file));
        if limited.and_then(|mut file| file.write_all(quota.as_bytes())).is_ok() {
            return Some(group);
        }
        let _ = fs::remove_dir(group);
        None
    })
}

fn a_pool_has_as_many_workers_as_the_control_groups_quota_has_cpus() -> Outcome {
    let Some(group) = group_of_one_cpu() else {
        cannot_run("this user may not make a control group with a limit of CPU time");
        return Ok(());
    };
    let join_and_run = "echo $$ > $0/cgroup.procs && exec $1";
    let workers =
        lines(Command::new("sh").args(["-c", join_and_run]).arg(&group).arg(env!("CARGO_BIN_EXE_cpus")));
    eventually("the group is empty", || fs::remove_dir(&group).is_ok());
    assert_eq!(workers, ["1"]);
    Ok(())
}
