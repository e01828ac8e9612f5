//! The start socket: an executed child's standard input, and the other end of its parent's liveness socket.
//!
//! A process takes a task only from a start socket that its living parent has made with no more privileges
//! than it has itself. The kernel vouches for the maker (`SO_PEERCRED`).

use std::os::fd::{BorrowedFd, OwnedFd};

use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::socket::{SockType, getsockopt, setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use nix::unistd::{Gid, Uid, getppid};

use super::process::exit_immediately;
use super::socket::waiting_packet;
use super::stdio::{print_error, stdin};
use super::{privileges, program};
use crate::error::{Cause, Error, Result};

/// Which process made a pair of sockets. User and group are those of that moment: the present ones would
/// prove nothing, since the parent can execute a privileged program meanwhile.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SocketOwner {
    pid: i32,
    user: u32,
    group: u32,
}

/// The start socket, if this process was started by [`exec_self`](super::exec::exec_self) and the packet that
/// waits in it begins with the magic number.
///
/// Ends this process if the socket's maker is not its living parent: then it is an unrelated process, or the
/// parent has died and its orphan must not run the whole program instead.
pub(crate) fn take_bootstrap_socket(has_magic: impl FnOnce(&[u8]) -> bool) -> Option<(OwnedFd, SocketOwner)> {
    let stdin = stdin();
    let Some(owner) = owner(stdin) else {
        if program::is_executed_as_child() {
            cannot_start(
                "standard input was closed or replaced before multiproc::init(), which must come first",
            );
        }
        return None;
    };
    match waiting_packet(stdin) {
        Some(packet) if has_magic(&packet) => {}
        packet => return bad_magic(owner, packet.is_some()),
    }
    let tied = prctl::set_pdeathsig(Signal::SIGKILL); // before the check of the parent
    if tied.is_err() || owner.pid != getppid().as_raw() {
        exit_immediately(1);
    }
    match stdin.try_clone_to_owned() {
        Ok(socket) => Some((socket, owner)),
        Err(error) => cannot_start(&format!("cannot copy a descriptor: {error}")),
    }
}

/// Checks that the maker of the start socket had all privileges that this process has. Otherwise any user
/// could execute a program with more privileges (set-uid, set-gid, capabilities) and have it run any of its
/// tasks.
pub(crate) fn check_privileges(owner: SocketOwner) -> Result<()> {
    let (user, group) = (Uid::effective().as_raw(), Gid::effective().as_raw());
    if (user, group) != (owner.user, owner.group) {
        return Err(Error::new(Cause::Start(format!(
            "it runs as user {user} and group {group}, and its parent as user {} and group {}",
            owner.user, owner.group
        ))));
    }
    if privileges::may_have_gained_privileges() {
        return Err(Error::new(Cause::Start(
            "it gained privileges when the program was executed".to_owned(),
        )));
    }
    Ok(())
}

/// A child that cannot report to its parent tells the user. It must not run the whole program again.
fn cannot_start(why: &str) -> ! {
    print_error(&format!("a child process did not start: {why}"));
    exit_immediately(1)
}

/// Without the magic number: if this is a child, the message was lost, so it exits; otherwise the socket was
/// inherited, so it goes on as an ordinary program.
fn bad_magic<T>(owner: SocketOwner, is_waiting: bool) -> Option<T> {
    if program::is_executed_as_child() || owner.pid == getppid().as_raw() {
        cannot_start(if is_waiting {
            "what waits in its standard input is from another version of multiproc, or was read in part"
        } else {
            "standard input was read before multiproc::init(), which must come first"
        });
    }
    None
}

/// Marks a start socket, so that its holder knows it also when the message has been read.
///
/// The mark is a send timeout of 58 years, which no call here uses: a timeout is the one attribute of such a
/// socket that can be set freely and stays.
pub(super) fn mark(socket: BorrowedFd<'_>) -> nix::Result<()> {
    setsockopt(&socket, sockopt::SendTimeout, &TimeVal::seconds(MARK))
}

/// The bytes `mult`.
const MARK: i64 = 0x6d75_6c74;

/// The maker of this socket, if it is a start socket.
fn owner(socket: BorrowedFd<'_>) -> Option<SocketOwner> {
    let kind = getsockopt(&socket, sockopt::SockType).ok()?;
    let mark = getsockopt(&socket, sockopt::SendTimeout).ok()?;
    let owner = getsockopt(&socket, sockopt::PeerCredentials).ok()?;
    (kind == SockType::SeqPacket && mark.tv_sec() == MARK).then(|| SocketOwner {
        pid: owner.pid(),
        user: owner.uid(),
        group: owner.gid(),
    })
}
