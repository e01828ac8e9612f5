//! **Output** of children, also where it cannot be written. Each test runs its own fixture program.

use std::fs::File;
use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Read, Write, pipe};
use std::process::{Command, Stdio};
use std::time::Instant;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::support::{Outcome, TEST_TIMEOUT, trials};

trials![
    a_result_does_not_wait_for_the_lock_of_standard_output,
    a_result_does_not_wait_for_the_lock_of_cs_standard_output,
    a_child_ends_though_one_of_its_threads_reads_a_c_stream,
    a_result_does_not_wait_for_a_full_pipe,
    the_time_limit_of_an_item_holds_while_its_output_is_flushed,
    what_finished_tasks_have_printed_outlives_their_worker,
    what_finished_tasks_have_printed_by_c_outlives_their_worker,
    a_forked_child_writes_its_coverage,
];

fn a_result_does_not_wait_for_the_lock_of_standard_output() -> Outcome {
    results_come_in("lock")
}

fn a_result_does_not_wait_for_the_lock_of_cs_standard_output() -> Outcome {
    results_come_in("c-lock")
}

fn a_child_ends_though_one_of_its_threads_reads_a_c_stream() -> Outcome {
    results_come_in("c-stream")
}

fn results_come_in(case: &str) -> Outcome {
    let mut program = Command::new(env!("CARGO_BIN_EXE_stuck_output"));
    let output = program.arg(case).stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
    assert!(output.status.success(), "{case}: {}", output.status);
    Ok(())
}

/// A pipe without room.
fn full_pipe() -> Outcome<(PipeReader, PipeWriter)> {
    let (reader, mut writer) = pipe()?;
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    while writer.write(&[b'.'; 4096]).is_ok() {}
    while writer.write(b".").is_ok() {}
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::empty()))?;
    Ok((reader, writer))
}

fn a_result_does_not_wait_for_a_full_pipe() -> Outcome {
    let (mut reader, writer) = full_pipe()?;
    let mut program = Command::new(env!("CARGO_BIN_EXE_stuck_output"));
    program.arg("full").stdin(Stdio::piped()).stdout(writer).stderr(Stdio::piped());
    let mut running = program.spawn()?;
    drop(program); // and the copy of the pipe's end in it
    let mut said = BufReader::new(running.stderr.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line)?;
    assert_eq!(line, "all results are here\n");

    // Nothing is lost: a process that prints waits for room.
    let (mut printed, mut part) = (String::new(), [0; 4096]);
    let begun = Instant::now();
    let are_all_in = |printed: &str| {
        let texts = ["[2]", "[3]", "[by C]", "[5]"].map(|text| printed.matches(text).count());
        texts == [1, 1, 2, 1]
    };
    // The program ends afterwards, and with it what has not been printed by then.
    while !are_all_in(&printed) {
        assert!(begun.elapsed() < TEST_TIMEOUT, "{}", printed.trim_start_matches('.'));
        let count = reader.read(&mut part)?;
        printed.push_str(std::str::from_utf8(&part[..count])?);
    }
    drop(running.stdin.take());
    assert!(running.wait()?.success());
    reader.read_to_string(&mut printed)?;
    assert!(are_all_in(&printed), "{}", printed.trim_start_matches('.'));
    Ok(())
}

fn the_time_limit_of_an_item_holds_while_its_output_is_flushed() -> Outcome {
    let (_reader, writer) = full_pipe()?;
    let mut program = Command::new(env!("CARGO_BIN_EXE_stuck_output"));
    let status = program.arg("time limit").stdin(Stdio::null()).stdout(writer).status()?;
    assert!(status.success(), "{status}");
    Ok(())
}

fn what_finished_tasks_have_printed_outlives_their_worker() -> Outcome {
    nothing_is_lost_that_was_printed("by Rust")
}

fn what_finished_tasks_have_printed_by_c_outlives_their_worker() -> Outcome {
    nothing_is_lost_that_was_printed("c")
}

fn nothing_is_lost_that_was_printed(by: &str) -> Outcome {
    let file = File::from(memfd_create("printed", MFdFlags::MFD_CLOEXEC)?);
    fcntl(&file, FcntlArg::F_SETFL(OFlag::O_APPEND))?; // several processes write there
    let mut program = Command::new(env!("CARGO_BIN_EXE_unfinished_lines"));
    let status = program.arg(by).stdin(Stdio::null()).stdout(file).status()?;
    assert!(status.success(), "{status}");
    Ok(())
}

fn a_forked_child_writes_its_coverage() -> Outcome {
    let mut program = Command::new(env!("CARGO_BIN_EXE_profiled"));
    program.env("LLVM_PROFILE_FILE", "tasks-%p.profraw").stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = program.output()?;
    assert!(output.status.success(), "{}", output.status);
    let lines: Vec<_> = std::str::from_utf8(&output.stdout)?.lines().collect();
    if lines == ["has the real ones"] {
        return Ok(()); // these tests are themselves built with coverage
    }
    let [process, worker, expected @ ..] = &lines[..] else { panic!("{lines:?}") };
    assert_eq!([*process, *worker], *expected, "each has reset, named and written its own profile");
    Ok(())
}
