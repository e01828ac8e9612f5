//! The file: of a killed program, of one that another one has, and of one that begins late.

use std::fs::{self, OpenOptions};
use std::io::{self, BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use multiproc::{Pool, TaskError, start_trace};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use tests::{exit_at_once, fork_and_wait};
use trace_file::Trace;

use super::{TraceFile, program};
use crate::support::{METHODS, Outcome, alone, eventually, trials, with};

trials![
    a_trace_that_begins_after_its_workers_is_written,
    a_child_writes_a_trace_of_its_own,
    a_copy_of_a_traced_process_spares_a_file,
    a_killed_program_leaves_a_file_that_can_be_read,
    a_program_that_a_traced_one_executes_leaves_the_file_alone,
    a_file_that_another_program_has_is_left_alone,
    a_file_that_blocks_stops_no_pool,
    a_file_that_blocks_does_not_keep_a_program_from_its_exit,
    a_trace_can_begin_late,
    a_trace_can_begin_before_init,
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

/// So it does in the fork server, which may have no thread more.
fn a_trace_can_begin_before_init() -> Outcome {
    let folder = TraceFile::new();
    fs::create_dir(folder.path())?;
    let mut program = Command::new(env!("CARGO_BIN_EXE_traced"));
    let mut child = program.arg("states").env("TRACED_BEFORE_INIT", folder.path()).spawn()?;
    assert!(child.wait()?.success());
    let text = fs::read_to_string(folder.path().join(child.id().to_string()))?;
    fs::remove_dir_all(folder.path())?;
    assert!(text.contains("\"submit\""), "{text}");
    Ok(())
}

/// A worker that was there before needs no other child, with which the events would be taken.
fn a_trace_that_begins_after_its_workers_is_written() -> Outcome {
    alone(|| {
        let pool = Pool::new(1)?;
        assert_eq!(pool.apply(|n: u32| n + 1, (1,))?, 2);
        let file = TraceFile::new();
        start_trace(file.path())?;
        assert_eq!(pool.apply(|n: u32| n + 1, (1,))?, 2);
        eventually("the file has events", || fs::read_to_string(file.path()).unwrap().lines().count() > 1);
        Ok(())
    })
}

fn a_child_writes_a_trace_of_its_own() -> Outcome {
    let file = TraceFile::new();
    for method in METHODS {
        let begin = |path: PathBuf| -> Result<(), TaskError> { Ok(start_trace(path)?) };
        with(method).spawn(begin, (file.path().to_owned(),))?.join()??;
        assert!(fs::read_to_string(file.path())?.contains("process_name"), "{method:?}");
        fs::remove_file(file.path())?;
    }
    Ok(())
}

fn a_copy_of_a_traced_process_spares_a_file() -> Outcome {
    alone(|| {
        let [traced, other, told] = [(); 3].map(|()| TraceFile::new());
        start_trace(traced.path())?;
        fs::write(other.path(), "other").unwrap();
        if !fork_and_wait() {
            let said =
                start_trace(other.path()).map_or_else(|error| error.to_string(), |()| "begun".to_owned());
            fs::write(told.path(), said).unwrap();
            exit_at_once();
        }
        assert_eq!(fs::read_to_string(other.path()).unwrap(), "other");
        let said = fs::read_to_string(told.path()).unwrap();
        assert!(said.contains("forked copy"), "{said}");
        Ok(())
    })
}
