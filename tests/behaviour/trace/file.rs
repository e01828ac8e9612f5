//! The file: of a killed program, of one that another one has, and of one that begins late.

use std::fs::{self, OpenOptions};
use std::io::{self, BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use trace_file::Trace;

use super::{TraceFile, program};
use crate::support::{METHODS, Outcome, eventually, trials};

trials![
    a_killed_program_leaves_a_file_that_can_be_read,
    a_program_that_a_traced_one_executes_leaves_the_file_alone,
    a_file_that_another_program_has_is_left_alone,
    a_file_that_blocks_stops_no_pool,
    a_file_that_blocks_does_not_keep_a_program_from_its_exit,
    a_trace_can_begin_late,
    one_of_two_threads_begins_the_trace,
    a_file_that_cannot_be_written_does_not_stop_the_program,
];

fn a_killed_program_leaves_a_file_that_can_be_read() -> Outcome {
    for method in METHODS {
        let file = TraceFile::new();
        let mut child = program("endless", method, &file).spawn()?;
        eventually("there are items in the file", || {
            let text = fs::read_to_string(file.path()).unwrap_or_default();
            let has_both = text.contains("pool-worker 0") && text.contains("pool-worker 1");
            has_both && text.matches("traced::pause").count() > 20
        });
        child.kill()?;
        assert_eq!(child.wait()?.signal(), Some(9));
        let trace = file.read();
        assert!(trace.items() > 20, "{}", trace.items());
        assert_eq!(trace.names().len(), 3);
    }
    Ok(())
}

fn a_program_that_a_traced_one_executes_leaves_the_file_alone() -> Outcome {
    for method in METHODS {
        let file = TraceFile::new();
        let output = program("nested", method, &file).output()?;
        let messages = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && messages.is_empty(), "{messages}");
        let trace = file.read();
        let tasks: Vec<_> = trace.of_category("task").map(|task| &*task.name).collect();
        assert_eq!(tasks, ["traced::execute_this"]);
        assert_eq!(trace.items(), 0, "those of the other programs");
    }
    Ok(())
}

fn a_file_that_another_program_has_is_left_alone() -> Outcome {
    let file = TraceFile::new();
    let mut first = program("endless", METHODS[0], &file).spawn()?;
    eventually("the file is taken", || fs::read(file.path()).is_ok_and(|text| text.len() > 100));
    let output = program("work", METHODS[0], &file).output()?;
    first.kill()?;
    first.wait()?;
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.success() && message.contains("another program is writing its trace to"),
        "{message}"
    );
    assert!(file.read().named("traced::add_one").next().is_none());
    Ok(())
}

/// All tasks are done while none of the file is read.
fn a_file_that_blocks_stops_no_pool() -> Outcome {
    for method in METHODS {
        let file = TraceFile::new();
        mkfifo(file.path(), Mode::S_IRWXU)?;
        let fifo = OpenOptions::new().read(true).write(true).open(file.path())?;
        let mut program = program("many tasks", method, &file).stdout(Stdio::piped()).spawn()?;
        let mut said = String::new();
        BufReader::new(program.stdout.take().unwrap()).read_line(&mut said)?;
        assert_eq!(said, "done\n");
        let reader = OpenOptions::new().read(true).open(file.path())?;
        drop(fifo); // the file ends when the program has ended
        let text = io::read_to_string(reader)?;
        assert!(program.wait()?.success());
        let trace = Trace::read(&text)?;
        let (submits, takes) = (trace.named("submit").count(), trace.named("take").count());
        assert!((submits, takes) == (2000, 2000), "{submits} {takes} {}", trace.lost());
        assert!(trace.items() + trace.lost() >= 2000, "{} {}", trace.items(), trace.lost());
    }
    Ok(())
}

fn a_file_that_blocks_does_not_keep_a_program_from_its_exit() -> Outcome {
    let file = TraceFile::new();
    mkfifo(file.path(), Mode::S_IRWXU)?;
    let _unread = OpenOptions::new().read(true).write(true).open(file.path())?;
    let mut program = program("many tasks", METHODS[0], &file).stdout(Stdio::null()).spawn()?;
    eventually("it has ended", || program.try_wait().unwrap().is_some());
    assert!(program.wait()?.success());
    Ok(())
}

fn a_trace_can_begin_late() -> Outcome {
    for method in METHODS {
        let (file, unused) = (TraceFile::new(), TraceFile::new());
        let mut program = program("program", method, &unused);
        let status = program.arg(file.path()).env_remove("MULTIPROC_TRACE").status()?;
        assert!(status.success() && !unused.path().exists());
        let trace = file.read();
        let mut names: Vec<_> = trace.names().into_values().collect();
        names.sort_unstable();
        assert_eq!(names, ["main", "traced"]);
        assert!(trace.named("exit").count() >= 1, "the earlier child may have ended before");
    }
    Ok(())
}

fn a_file_that_cannot_be_written_does_not_stop_the_program() -> Outcome {
    let file = TraceFile(std::env::temp_dir().join("no such folder/trace.json"));
    let output = program("work", METHODS[0], &file).stderr(Stdio::piped()).output()?;
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && message.contains("no such folder/trace.json"), "{message}");
    assert!(Trace::read("[\n{}").is_ok_and(|trace| trace.events.is_empty()), "a line that is cut off");
    Ok(())
}

fn one_of_two_threads_begins_the_trace() -> Outcome {
    for _ in 0..20 {
        let files = [TraceFile::new(), TraceFile::new()];
        let mut twice = program("twice", METHODS[0], &files[0]);
        let output =
            twice.env_remove("MULTIPROC_TRACE").args(files.each_ref().map(TraceFile::path)).output()?;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
