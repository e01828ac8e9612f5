//! Agents, callers and waiting.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::{Failed, Trial};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getppid};
use tempfile::NamedTempFile;

pub(crate) type Outcome = Result<(), Failed>;

/// With this variable, the test's program is a caller of that server.
pub(crate) const CALLER: &str = "CLUSTER_TEST_CALLER";
/// Where the task of such a caller says that it has begun.
pub(crate) const CALLER_FOLDER: &str = "CLUSTER_TEST_CALLER_FOLDER";
/// With this variable, the test's program becomes that program.
pub(crate) const EXEC: &str = "CLUSTER_TEST_EXEC";
/// With this variable, the test's program ends when that process does.
const PARENT: &str = "CLUSTER_TEST_PARENT";
/// Too large for a message.
pub(crate) const OBJECT_LEN: usize = 2_000_000;
/// Short for a test, and long for a machine that is busy.
pub(crate) const LEASE: Duration = Duration::from_secs(2);
/// How long a test waits for an event before it fails. Generous: it measures nothing.
pub(crate) const TEST_TIMEOUT: Duration = Duration::from_secs(60);

macro_rules! trials {
    ($($test:ident),* $(,)?) => {
        pub(crate) fn trials() -> Vec<libtest_mimic::Trial> {
            vec![$(crate::support::trial(stringify!($test), $test)),*]
        }
    };
}
pub(crate) use trials;

/// A test that ends the program if it does not end.
pub(crate) fn trial(name: &'static str, test: fn() -> Outcome) -> Trial {
    Trial::test(name, move || {
        let (done, watch) = mpsc::channel::<()>();
        let watchdog = thread::spawn(move || {
            if watch.recv_timeout(TEST_TIMEOUT * 10) == Err(mpsc::RecvTimeoutError::Timeout) {
                eprintln!("{name} does not end");
                std::process::abort();
            }
        });
        let outcome = test();
        drop(done);
        let _ = watchdog.join();
        outcome
    })
}

/// A child of tests that are killed does not stay. Its own children have the variable, too, but another parent.
pub(crate) fn end_with_parent() {
    let parent = std::env::var(PARENT).ok().and_then(|pid| pid.parse().ok());
    if parent.map(Pid::from_raw) == Some(getppid()) {
        let _ = set_pdeathsig(Signal::SIGKILL);
    }
}

/// This program or one like it, as a child that ends with the test.
pub(crate) fn child(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env(PARENT, std::process::id().to_string()).stdin(Stdio::null());
    command
}

/// A test, or a part of it, cannot run here: it says so and passes, but fails if the variable `MULTIPROC_TEST_ALL` is
/// set.
pub(crate) fn cannot_run(why: &str) {
    println!("skipped: {why}");
    assert!(std::env::var_os("MULTIPROC_TEST_ALL").is_none(), "`MULTIPROC_TEST_ALL` is set: {why}");
}

/// As [`cannot_run`], for want of a program that `CI` installs: with that variable it fails, too.
pub(crate) fn cannot_run_without(program: &str) {
    let why = format!("this needs {program} (apt-get install {program})");
    assert!(std::env::var_os("CI").is_none(), "`CI` is set: {why}");
    cannot_run(&why);
}

pub(crate) fn has_server() -> bool {
    Command::new("nats-server").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

/// A process that is killed when it is dropped. It may not have panicked by then.
pub(crate) struct Running {
    process: Child,
    /// What an agent has written.
    log: Option<NamedTempFile>,
}

/// An agent with two workers.
pub(crate) fn agent(url: &str, host: &str, program: &Path) -> Running {
    agent_with(url, host, program, &[])
}

/// As [`agent`], with more variables in its environment.
pub(crate) fn agent_with(url: &str, host: &str, program: &Path, variables: &[(&str, &str)]) -> Running {
    let log = NamedTempFile::new().unwrap();
    let stderr = log.reopen().unwrap();
    let mut command = agent_command(url, host, program);
    command.envs(variables.iter().copied()).stderr(stderr);
    let mut process = None;
    wait_until("no other child has the program open that was just written", || {
        match command.spawn() {
            Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => {}
            spawned => process = Some(spawned.unwrap()),
        }
        process.is_some()
    });
    Running { process: process.unwrap(), log: Some(log) }
}

/// As [`agent`], whose standard error is a pipe.
pub(crate) fn agent_with_pipe(url: &str, host: &str) -> (Running, ChildStderr) {
    let mut command = agent_command(url, host, &std::env::current_exe().unwrap());
    let mut process = command.stderr(Stdio::piped()).spawn().unwrap();
    let output = process.stderr.take().unwrap();
    (Running::new(process), output)
}

fn agent_command(url: &str, host: &str, program: &Path) -> Command {
    let mut command = child(program);
    command.env("MULTIPROC_AGENT", url).env("MULTIPROC_AGENT_HOST", host).env("MULTIPROC_AGENT_WORKERS", "2");
    command.env("RUST_BACKTRACE", "0").stdout(Stdio::null());
    command
}

/// A caller that waits in a process of its own for [`hold`](crate::work::hold), whose arguments are in an object.
pub(crate) fn caller(url: &str, folder: &Path) -> Running {
    let mut command = child(&std::env::current_exe().unwrap());
    let process = command.env(CALLER, url).env(CALLER_FOLDER, folder).spawn().unwrap();
    Running::new(process)
}

/// This program, with one byte more: another build that does the same.
pub(crate) fn other_build(folder: &Path) -> PathBuf {
    let path = folder.join("other");
    std::fs::copy(std::env::current_exe().unwrap(), &path).unwrap();
    let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
    std::io::Write::write_all(&mut file, b"x").unwrap();
    path
}

impl Running {
    pub(crate) fn new(process: Child) -> Self {
        Self { process, log: None }
    }

    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.process.try_wait().unwrap()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.pid()).unwrap()), signal).unwrap();
    }

    pub(crate) fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// What an agent has written. Its tasks write there, too.
    pub(crate) fn log(&self) -> String {
        self.log.as_ref().map_or_else(String::new, |log| std::fs::read_to_string(log.path()).unwrap())
    }

    /// Waits for the end of an agent, which says why.
    pub(crate) fn fails_with(&mut self, text: &str) {
        let mut ended = None;
        wait_until("the process ends", || {
            ended = self.ended();
            ended.is_some()
        });
        let log = self.log();
        assert!(!ended.unwrap().success() && log.contains(text), "not {text:?}: {log}");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
        let log = self.log();
        let mut lines = log.lines();
        // Tasks may panic.
        let has_panicked =
            lines.any(|line| line.contains("panicked at") && !line.contains("cluster/work.rs"));
        assert!(!has_panicked || thread::panicking(), "{log}");
    }
}

pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + TEST_TIMEOUT;
    while !is_so() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until a task has begun in a folder at another process than those; returns the pid that it has written.
pub(crate) fn wait_for_begin(folder: &Path, known: &[u32]) -> u32 {
    let mut found = 0;
    wait_until("the task begins", || {
        let names = std::fs::read_dir(folder).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut pids = names.filter_map(|name| name.strip_prefix("begun-")?.parse().ok());
        match pids.find(|pid| !known.contains(pid)) {
            Some(pid) => found = pid,
            None => return false,
        }
        true
    });
    found
}

/// Whether a process is there and no zombie.
pub(crate) fn is_running(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    let state = stat.ok().and_then(|stat| Some(stat.rsplit_once(") ")?.1.chars().next()));
    state.flatten().is_some_and(|state| !matches!(state, 'Z' | 'X'))
}
