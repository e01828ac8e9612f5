//! A child ends with its parent: the kernel kills it when the other end of its start socket is gone.

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::libc;

use super::poll::{Deadline, PollFlags, ready};
use super::process::exit_immediately;
use crate::error::{Error, Result};

/// Ties this process's life to the other end of the socket. The parent-death signal is not enough: the kernel
/// clears it when the child changes its user, and withholds it when the parent has changed its own.
pub(crate) fn kill_on_hangup(socket: BorrowedFd<'_>) -> Result<()> {
    signal_on_hangup(socket).map_err(|errno| Error::os("tie a child to its parent", errno))?;
    if ready(socket, PollFlags::empty(), Deadline::now())? {
        exit_immediately(1); // it had hung up before the line above
    }
    Ok(())
}

/// Has the kernel send SIGKILL to this process at any event of this socket: a hang-up, a packet that arrives, room
/// after a send has found none. So a process must never fill it.
///
/// The kernel checks the permission now, so it sends the signal also when a process has changed its user.
fn signal_on_hangup(socket: BorrowedFd<'_>) -> nix::Result<()> {
    const F_SETSIG: i32 = 10; // `libc` lacks it; the same on all of Linux (asm-generic/fcntl.h)
    let fd = socket.as_raw_fd();
    let own_pid = nix::unistd::getpid().as_raw();
    for (command, argument) in
        [(libc::F_SETOWN, own_pid), (F_SETSIG, libc::SIGKILL), (libc::F_SETFL, libc::O_ASYNC)]
    {
        // SAFETY: these commands take a number.
        Errno::result(unsafe { libc::fcntl(fd, command, argument) })?;
    }
    Ok(())
}
