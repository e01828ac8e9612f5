//! The file of a record: a text for its reader, an empty line, and what a replay needs.

use std::fmt::Write;
use std::path::Path;
use std::{fs, io};

use super::build;
use crate::error::{Error, Result};
use crate::impl_serde::impl_serde;
use crate::ipc::wire;
use crate::task::TaskId;

/// The first line.
const TITLE: &str = "multiproc record 1\n";

/// The most bytes of a panic's message, of its backtrace, and of the name of its process.
const MAX_MESSAGE: usize = 64 << 10;
/// The most earlier attempts. Each has up to 32 KiB of a crash's stack.
const MAX_ATTEMPTS: usize = 10;

/// A failed task.
#[derive(Debug)]
pub(crate) struct TaskRecord {
    /// The name of its function.
    pub(crate) function: String,
    pub(crate) task: TaskId,
    pub(crate) runner: Runner,
    pub(crate) error: Error,
    /// What its worker had run before any task: functions, and their encoded arguments.
    pub(crate) setup: Vec<(TaskId, Vec<u8>)>,
    pub(crate) arguments: Arguments,
}

/// What runs the function, which decides how it is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Runner {
    Process,
    Pool,
}

impl_serde!(
    enum Runner {
        Process,
        Pool,
    }
);

/// The encoded arguments, or why they are not recorded.
pub(crate) type Arguments = std::result::Result<Vec<u8>, String>;

/// All of a record but the arguments, which follow it.
struct Head {
    function: String,
    task: TaskId,
    runner: Runner,
    error: Error,
    setup: Vec<(TaskId, Vec<u8>)>,
    /// How many bytes of arguments follow, or why there are none.
    arguments: std::result::Result<u64, String>,
}

impl_serde!(struct Head { function, task, runner, error, setup, arguments });

impl TaskRecord {
    pub(super) fn encode(&self, build: u64) -> Result<Vec<u8>> {
        let error = self.error.shortened(MAX_MESSAGE, MAX_ATTEMPTS);
        let mut bytes = self.text(&error, build).into_bytes();
        bytes.extend_from_slice(&build.to_ne_bytes());
        let head = Head {
            function: self.function.clone(),
            task: self.task,
            runner: self.runner,
            error,
            setup: self.setup.clone(),
            arguments: self.arguments.as_ref().map(|bytes| bytes.len() as u64).map_err(Clone::clone),
        };
        wire::encode_internal(&head, &mut bytes, "a record")?;
        bytes.extend_from_slice(self.arguments.as_deref().unwrap_or_default());
        Ok(bytes)
    }

    fn text(&self, error: &Error, build: u64) -> String {
        let mut text = TITLE.to_owned();
        let program = build::program().unwrap_or_default();
        let arguments = match &self.arguments {
            Ok(bytes) => format!("{} bytes", bytes.len()),
            Err(why) => format!("not recorded: {why}"),
        };
        let message = error.to_string();
        // An empty line ends the text.
        let lines: Vec<_> = message.lines().filter(|line| !line.trim().is_empty()).collect();
        let _ = writeln!(text, "error: {}", lines.join("\n  ")); // to a string: cannot fail
        let omitted = self.error.attempts().len().saturating_sub(error.attempts().len());
        if omitted > 0 {
            let _ = writeln!(text, "before: {omitted} earlier attempts, which are not recorded");
        }
        for attempt in error.attempts() {
            let _ = writeln!(text, "before: {attempt}");
        }
        let _ = writeln!(text, "function: {}", self.function);
        let _ = writeln!(text, "arguments: {arguments}");
        let _ = writeln!(text, "build: {build:016x}");
        let _ = writeln!(text, "program: {}\n", program.display());
        text
    }

    /// Reads a record of this build.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).map_err(|error: io::Error| Error::io("read it", &error))?;
        Self::decode(&bytes, build::identity())
    }

    fn decode(bytes: &[u8], own_build: u64) -> Result<Self> {
        let damaged = || Error::invalid("it is truncated or damaged");
        let rest = bytes
            .strip_prefix(TITLE.as_bytes())
            .ok_or_else(|| Error::invalid("it is not a record of a task"))?;
        let end = rest.windows(2).position(|pair| pair == b"\n\n").ok_or_else(damaged)?;
        let (text, rest) = rest.split_at(end + 2);
        let (build, rest) = rest.split_first_chunk().ok_or_else(damaged)?;
        let build = u64::from_ne_bytes(*build);
        if build != own_build {
            let text = String::from_utf8_lossy(text);
            let program = text.lines().find_map(|line| line.strip_prefix("program: ")).unwrap_or("?");
            return Err(Error::invalid(format!(
                "another build ({build:016x}) has recorded it, whose functions and arguments this one \
                 ({own_build:016x}) cannot know; that was {program}"
            )));
        }
        let (head, arguments): (Head, _) =
            wire::decode_internal_front(rest, Vec::new(), "a record").map_err(|_| damaged())?;
        if head.arguments.as_ref().is_ok_and(|&length| length != arguments.len() as u64) {
            return Err(damaged());
        }
        Ok(Self {
            function: head.function,
            task: head.task,
            runner: head.runner,
            error: head.error,
            setup: head.setup,
            arguments: head.arguments.map(|_| arguments.to_vec()),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::error::{Cause, Origin};
    use crate::testing::{any_bytes, cases};

    fn record(arguments: Arguments) -> TaskRecord {
        TaskRecord {
            function: "program::crash".to_owned(),
            task: TaskId::from_words([1, 2]),
            runner: Runner::Pool,
            error: Error::new(Cause::Signal(11)),
            setup: Vec::new(),
            arguments,
        }
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let written = record(Ok(vec![1, 2, 3]));
        let bytes = written.encode(7).unwrap();
        let read = TaskRecord::decode(&bytes, 7).unwrap();
        assert_eq!((read.arguments, read.task), (Ok(vec![1, 2, 3]), written.task));
        assert_eq!((read.error.signal(), &read.function[..]), (Some(11), "program::crash"));
        for length in 0..bytes.len() {
            assert!(TaskRecord::decode(&bytes[..length], 7).is_err(), "of {length} bytes");
        }
    }

    #[test]
    fn the_error_is_bounded() {
        let panic = Cause::Panic { message: "ü\n".repeat(5 << 20), location: None, backtrace: None };
        let deaths = vec![Error::new(Cause::Signal(9)); 1000];
        let written =
            TaskRecord { error: Error::new(panic).with_attempts(&deaths), ..record(Ok(Vec::new())) };
        let bytes = written.encode(7).unwrap();
        assert!(bytes.len() < 4 * MAX_MESSAGE, "{}", bytes.len());
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.contains("\nbefore: 990 earlier attempts, which are not recorded\nbefore: "));
        let read = TaskRecord::decode(&bytes, 7).unwrap().error;
        assert!(read.to_string().ends_with("… (cut: it has 15728640 bytes)"));
        assert_eq!(read.attempts().len(), MAX_ATTEMPTS);
        let process = Origin::Process { name: "n".repeat(5 << 20), pid: 7 };
        let written = TaskRecord { error: written.error.with_origin(process), ..written };
        assert!(written.encode(7).unwrap().len() < 7 * MAX_MESSAGE);
    }

    #[test]
    fn another_build_refuses_it() {
        let bytes = record(Ok(Vec::new())).encode(7).unwrap();
        assert!(String::from_utf8_lossy(&bytes).contains("\nbuild: 0000000000000007\nprogram: "));
        let error = TaskRecord::decode(&bytes, 8).unwrap_err().to_string();
        assert!(error.starts_with("another build (0000000000000007) "), "{error}");
        assert!(error.contains(" this one (0000000000000008) "), "{error}");
    }

    #[test]
    fn the_text_says_why_arguments_are_missing() {
        let bytes = record(Err("they are secret".to_owned())).encode(7).unwrap();
        assert!(String::from_utf8_lossy(&bytes).contains("\narguments: not recorded: they are secret\n"));
        assert_eq!(TaskRecord::decode(&bytes, 7).unwrap().arguments, Err("they are secret".to_owned()));
    }

    proptest! {
        #![proptest_config(cases(300))]

        #[test]
        fn any_bytes_are_a_record_or_none(mut bytes in any_bytes(600)) {
            bytes.splice(0..0, TITLE.bytes().chain(*b"x\n\n").chain(7_u64.to_ne_bytes()));
            let _ = TaskRecord::decode(&bytes, 7);
        }
    }
}
