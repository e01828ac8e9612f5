//! The file: of a killed program, of one that another one has, and of one that begins late.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;

use trace_file::Trace;

use super::{TraceFile, program};
use crate::support::{METHODS, Outcome, eventually, trials};

trials![
    a_killed_program_leaves_a_file_that_can_be_read,
    a_program_that_a_traced_one_executes_leaves_the_file_alone,
    a_trace_can_begin_late,
    a_file_that_cannot_be_written_does_not_stop_the_program,
];

fn a_killed_program_leaves_a_file_that_can_be_read() -> Outcome {
    for method in METHODS {
        let file = TraceFile::new();
        let mut child = program("endless", method, &file).spawn()?;
        eventually("there are items in the file", || {
            let text = fs::read_to_string(file.path()).unwrap_or_default();
            text.matches("traced::pause").count() > 20
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
        assert!(output.status.success());
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(message.contains("another program is writing its trace to"), "{message}");
        let trace = file.read();
        assert_eq!(trace.of_category("task").map(|task| &*task.name).collect::<Vec<_>>(), ["traced::pause"]);
        assert_eq!(trace.items(), 0, "those of the other program");
    }
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
