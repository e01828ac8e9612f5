//! **Security**: other users and executed programs get neither in nor anything out.

mod bootstrap;
mod executable;
mod isolation;
mod privileges;

use std::borrow::Cow;
use std::env;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use libtest_mimic::Trial;
use multiproc::Process;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socketpair, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};

pub(crate) fn trials() -> Vec<Trial> {
    [bootstrap::trials(), executable::trials(), isolation::trials(), privileges::trials()]
        .into_iter()
        .flatten()
        .collect()
}

const BOOTSTRAP_MESSAGES: &str = env!("CARGO_BIN_EXE_bootstrap_messages");
/// Another program, and so another build. It prints that its main runs.
const HASTY: &str = env!("CARGO_BIN_EXE_hasty");

/// A temporary folder, removed on drop.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = env::temp_dir().join(format!("multiproc-{name}-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        Self(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Copies a program by `cp`: a child that another test starts just then would inherit a descriptor open for
/// writing, and the kernel executes no such file.
fn copy(program: &str, place: &Path) {
    assert!(Command::new("cp").arg(program).arg(place).status().unwrap().success());
}

/// A bootstrap message that was written for a child of the fixture.
fn bootstrap(purpose: &str) -> Vec<u8> {
    let folder = Folder::new(purpose);
    let file = folder.0.join("bootstrap");
    assert!(Command::new(BOOTSTRAP_MESSAGES).arg("keep").arg(&file).status().unwrap().success());
    fs::read(file).unwrap()
}

/// A pair of sockets of some kind.
fn sockets(kind: SockType) -> (OwnedFd, OwnedFd) {
    socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC).unwrap()
}

/// A pair of start sockets as a parent makes them: the second one, the child's, is marked.
fn start_sockets() -> (OwnedFd, OwnedFd) {
    let (ours, theirs) = sockets(SockType::SeqPacket);
    setsockopt(&theirs, sockopt::SendTimeout, &TimeVal::seconds(0x6d75_6c74)).unwrap();
    (ours, theirs)
}

/// Runs a program to its end, with this socket as standard input.
fn run_with(socket: OwnedFd, program: &mut Command) -> Output {
    program.stdin(socket).stdout(Stdio::piped()).stderr(Stdio::piped()).output().unwrap()
}

fn text(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

/// The uid and gid of the user with the fewest rights.
const UNPRIVILEGED: u32 = 65_534;

fn become_unprivileged() {
    setgroups(&[]).unwrap();
    setgid(Gid::from_raw(UNPRIVILEGED)).unwrap();
    setuid(Uid::from_raw(UNPRIVILEGED)).unwrap();
}

/// The output of such a program: its rights, and those of its children by each method.
fn rights(program: PathBuf, what: &str) -> Vec<String> {
    let run = |program: PathBuf, what: String| {
        become_unprivileged();
        let output = Command::new(program).arg(what).stdin(Stdio::null()).output().unwrap();
        text(&output.stdout).lines().map(str::to_owned).collect()
    };
    Process::spawn(run, (program, what.to_owned())).unwrap().join().unwrap()
}
