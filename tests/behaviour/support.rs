//! Helpers of the tests.

use std::fs;
use std::io::BufRead;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::{Failed, Trial};
use multiproc::{Connection, Process, ProcessBuilder, RemoteFn, Result, StartMethod, pipe};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};
pub(crate) use tests::cannot_run;

/// How a test ends: it panics, returns an error, or passes.
pub(crate) type Outcome<T = ()> = Result<T, Failed>;

/// How long a test waits for an event before it fails. Generous: it measures nothing.
pub(crate) const TEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Every way to start a process.
pub(crate) const METHODS: [StartMethod; 2] = [StartMethod::ForkServer, StartMethod::Spawn];

/// A child that is started by this method.
pub(crate) fn with(method: StartMethod) -> ProcessBuilder {
    Process::builder().start_method(method)
}

/// Makes a module's `trials()` from the names of its tests.
macro_rules! trials {
    ($($(#[$condition:meta])* $test:ident),* $(,)?) => {
        pub(crate) fn trials() -> Vec<libtest_mimic::Trial> {
            vec![$($(#[$condition])* crate::support::trial(module_path!(), stringify!($test), $test)),*]
        }
    };
}
pub(crate) use trials;

pub(crate) fn trial(module: &str, name: &str, test: fn() -> Outcome) -> Trial {
    let name = format!("{}::{name}", module.trim_start_matches("behaviour::"));
    Trial::test(name.clone(), move || tests::watched(&name, test))
}

/// Whether this user is root; without that, [the test cannot run](cannot_run).
pub(crate) fn is_root() -> bool {
    let is_root = Uid::effective().is_root();
    if !is_root {
        cannot_run("this user is not root");
    }
    is_root
}

/// Runs a test in a process of its own: no other test opens a descriptor there, has a child, or is about to
/// start a program, which holds copies of everything that is open until it really runs.
pub(crate) fn alone<F: RemoteFn<(), Output = Result<()>>>(test: F) -> Outcome {
    Ok(Process::spawn(test, ())?.join()??)
}

/// A process that holds the other end blocks until this one is dropped.
pub(crate) type Latch = Connection<(), ()>;

/// Reports that it has begun, and blocks until the latch is dropped.
pub(crate) fn block(latch: Latch) {
    let _ = latch.send(());
    let _ = latch.recv();
}

/// A child that has begun, and blocks until its latch is dropped.
pub(crate) fn blocked_child() -> Result<(Process<()>, Latch)> {
    blocked_child_by(Process::builder())
}

pub(crate) fn blocked_child_by(builder: ProcessBuilder) -> Result<(Process<()>, Latch)> {
    let (latch, theirs) = pipe()?;
    let child = builder.spawn(block, (theirs,))?;
    assert!(latch.poll(TEST_TIMEOUT)?, "the child did not begin");
    latch.recv()?;
    Ok((child, latch))
}

/// The numbers of the descriptors that this process holds, in order.
pub(crate) fn descriptors() -> Vec<u32> {
    let entries: Vec<_> = fs::read_dir("/proc/self/fd").unwrap().map(|entry| entry.unwrap().path()).collect();
    // The descriptor that listed them is closed by now.
    let still_open = entries.iter().filter(|path| fs::symlink_metadata(path).is_ok());
    let mut numbers: Vec<u32> =
        still_open.map(|path| path.file_name().unwrap().to_str().unwrap().parse().unwrap()).collect();
    numbers.sort_unstable();
    numbers
}

/// The children of this process and their names, zombies included, pre-forked children not.
pub(crate) fn children() -> Vec<(u32, String)> {
    let all = tests::children_of(std::process::id());
    all.into_iter().filter(|(pid, name)| !tests::is_preforked(*pid, name)).collect()
}

/// The fork server of this process.
pub(crate) fn fork_server() -> Option<u32> {
    let is_it = |pid, name: &str| name == "fork-server" && tests::was_executed(pid);
    children().into_iter().find_map(|(pid, name)| is_it(pid, &name).then_some(pid))
}

/// How many descriptors are open when no child lives but a fork server. That of a child is open a moment
/// longer than the child lives.
pub(crate) fn open_without_children() -> usize {
    let process = |number| {
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{number}")).ok()?;
        Some(info.lines().find_map(|line| line.strip_prefix("Pid:"))?.trim().to_owned())
    };
    let is_fork_server = |pid: &String| {
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "fork-server\n")
    };
    eventually("the children are closed", || {
        let pids: Vec<String> = descriptors().into_iter().filter_map(process).collect();
        pids.len() <= 1 && pids.iter().all(is_fork_server)
    });
    if let Some(server) = fork_server() {
        wait_for_state(server, 'S'); // it has forked all that was ordered
    }
    let preforked = || {
        let mut all = tests::children_of(std::process::id());
        all.retain(|(pid, name)| tests::is_preforked(*pid, name));
        all
    };
    eventually("none of them is about to end", || preforked().iter().all(|&(pid, _)| is_in_state(pid, 'S')));
    descriptors().len() - preforked().len() // each pre-forked child has a socket
}

/// The lines that a fixture program prints.
pub(crate) fn printed_by(program: &str, argument: Option<&str>, method: StartMethod) -> Vec<String> {
    let method = if method == StartMethod::Spawn { "spawn" } else { "fork-server" };
    let mut program = Command::new(program);
    program.env("MULTIPROC_START_METHOD", method).args(argument).stdin(Stdio::null());
    let output = program.stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "{program:?}: {}", output.status);
    output.stdout.lines().map(|line| line.unwrap()).collect()
}

pub(crate) fn send_signal(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid.cast_signed()), signal).unwrap();
}

/// Polls until a condition is true.
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < TEST_TIMEOUT, "it never comes that {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Waits until the process is in a state: `S` for asleep in a system call, `T` for stopped.
pub(crate) fn wait_for_state(pid: u32, state: char) {
    eventually(&format!("process {pid} is in state {state}"), || is_in_state(pid, state));
}

/// Whether all threads of the process are in this state: in a fork server, the first thread is idle.
fn is_in_state(pid: u32, state: char) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    threads.flatten().all(|thread| {
        let stat = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        stat.rsplit(") ").next().unwrap_or_default().starts_with(state)
    })
}

/// A value that can be encoded, or decoded, or neither.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadValue {
    Fine(u32),
    Unencodable,
    Undecodable,
}

impl Serialize for BadValue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match *self {
            Self::Fine(number) => Some(number).serialize(serializer),
            Self::Unencodable => Err(ser::Error::custom("this value stays at home")),
            Self::Undecodable => None::<u32>.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for BadValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = Option::deserialize(deserializer)?;
        number.map(Self::Fine).ok_or_else(|| de::Error::custom("this value does not feel at home"))
    }
}
