//! Runs one program with a time limit, and observes its output, its exit and its leftovers.
//!
//! `verify`, `compare`, `bench` and `faults` use it; it knows none of them.

mod observed;
pub(crate) mod processes;

use std::{
    ffi::OsString,
    fs,
    io::{self, Read, Write},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc::{self, Receiver, Sender},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::output;
pub use observed::{Ending, Observed, Process};

/// How much of a stream is kept. Then it is closed, which ends a program that never stops writing.
const MAX_OUTPUT: u64 = 1 << 20;

/// How long it may take to read the rest when no writer is left.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

pub struct Runner {
    /// Holds the temporary folder of each run. The path of that one is also the mark of the run.
    folder: TempDir,
    working_folder: PathBuf,
    /// How long the other processes of a program may outlive it.
    grace: Duration,
    runs: AtomicUsize,
}

impl Runner {
    pub fn new(working_folder: &Path, grace: Duration) -> Result<Self> {
        processes::adopt_orphans().context("cannot become the parent of orphans")?;
        let folder = tempfile::Builder::new().prefix("verify-").tempdir()?;
        Ok(Self { folder, working_folder: working_folder.to_owned(), grace, runs: AtomicUsize::new(0) })
    }

    /// On Ctrl-C and on a closed pipe: kills every running program, calls the cleanup, and ends this program.
    pub fn end_at_interrupt(&self, clear_up: fn()) -> Result<()> {
        let folder = self.folder.path().to_owned();
        output::set_clean_up(move || {
            processes::kill_everything(&folder);
            _ = fs::remove_dir_all(&folder);
            clear_up();
        });
        Ok(ctrlc::set_handler(|| output::end_early(130))?)
    }

    /// A temporary folder for one more run, and its mark.
    pub fn new_run(&self) -> io::Result<PathBuf> {
        let folder = self.folder.path().join(self.runs.fetch_add(1, Ordering::Relaxed).to_string());
        fs::create_dir(&folder)?;
        Ok(folder)
    }

    pub fn run(&self, program: &Path, arguments: &[String], limit: Duration) -> Result<Observed> {
        let mut command = Command::new(program);
        command.args(arguments);
        self.run_command(command, limit)
    }

    /// As [`run`](Self::run), for a command that has its arguments, and perhaps variables.
    pub fn run_command(&self, mut command: Command, limit: Duration) -> Result<Observed> {
        let folder = self.new_run()?;
        command.current_dir(&self.working_folder).env("TMPDIR", &folder);
        // A README shows the output in a plain environment.
        command.env_remove("RUST_BACKTRACE").env_remove("RUST_LIB_BACKTRACE").env_remove("COLUMNS");
        // With it, Python writes the end of a line apart from the line, and processes mix them up.
        command.env_remove("PYTHONUNBUFFERED");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());

        let start = Instant::now();
        let mut child = processes::start(&mut command, &folder)
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        let stdout = child.stdout.take().map(Capture::start);
        let stderr = child.stderr.take().map(Capture::start);
        let in_time = processes::wait(&child, limit);
        let elapsed = start.elapsed();
        let leaked = processes::clear_up(&child, &folder, self.grace);
        let status = processes::reap(&mut child)?;

        let deadline = Instant::now() + DRAIN_TIMEOUT;
        let (stdout, stdout_closed) = stdout.map(|stream| stream.until(deadline)).unwrap_or_default();
        let (stderr, stderr_closed) = stderr.map(|stream| stream.until(deadline)).unwrap_or_default();
        let left_behind = names_in(&folder)?;
        fs::remove_dir_all(&folder)?;
        Ok(Observed {
            stdout,
            stderr,
            ending: if in_time? { ending(status) } else { Ending::Limit(limit) },
            elapsed,
            leaked,
            left_behind,
            held_open: !(stdout_closed && stderr_closed),
        })
    }
}

fn ending(status: ExitStatus) -> Ending {
    match (status.code(), status.signal()) {
        (Some(code), _) => Ending::Exit(code),
        (None, Some(number)) => {
            let name = Signal::try_from(number).map(|signal| signal.to_string());
            Ending::Signal(name.unwrap_or_else(|_| format!("signal {number}")))
        }
        (None, None) => Ending::Signal(status.to_string()),
    }
}

fn names_in(folder: &Path) -> io::Result<Vec<String>> {
    let names = fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name()));
    let mut names = names.collect::<io::Result<Vec<OsString>>>()?;
    names.sort();
    Ok(names.into_iter().map(|name| name.to_string_lossy().into_owned()).collect())
}

/// Reads a stream in a thread of its own. A process that holds the stream open blocks only that thread.
struct Capture(Receiver<Vec<u8>>);

impl Capture {
    fn start(stream: impl Read + Send + 'static) -> Self {
        let (chunks, capture) = mpsc::channel();
        thread::spawn(move || io::copy(&mut stream.take(MAX_OUTPUT), &mut Chunks(chunks)));
        Self(capture)
    }

    /// The output until `deadline`, and whether the stream has ended.
    fn until(self, deadline: Instant) -> (String, bool) {
        let mut bytes = Vec::new();
        let closed = loop {
            match self.0.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(chunk) => bytes.extend(chunk),
                Err(reason) => break reason == mpsc::RecvTimeoutError::Disconnected,
            }
        };
        (String::from_utf8_lossy(&bytes).into_owned(), closed)
    }
}

struct Chunks(Sender<Vec<u8>>);

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.send(bytes.to_owned()).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
