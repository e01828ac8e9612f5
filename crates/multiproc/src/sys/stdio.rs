//! The standard streams as descriptors: 0, 1 and 2. No value owns them.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::libc;
use nix::unistd::write;

/// Standard input. `std::io::stdin`, as `stdout`, takes a lock at its first use, which stays locked in a copy of the
/// process that another thread forks meanwhile.
pub(crate) fn stdin() -> BorrowedFd<'static> {
    // SAFETY: no value owns a standard stream. An operation on a closed one is an error.
    unsafe { BorrowedFd::borrow_raw(libc::STDIN_FILENO) }
}

/// Standard output; as [`stdin`].
pub(crate) fn stdout() -> BorrowedFd<'static> {
    // SAFETY: as above.
    unsafe { BorrowedFd::borrow_raw(libc::STDOUT_FILENO) }
}

/// Prints a line on standard error, which may be closed. `eprintln!` takes a lock, which stays locked in a copy of the
/// process that another thread forks meanwhile.
pub(crate) fn print_error(text: &str) {
    let _ = write(io::stderr(), format!("{text}\n").as_bytes());
}

/// Makes a descriptor the standard stream with this number, which stays open through exec.
pub(crate) fn dup_onto(fd: OwnedFd, number: RawFd) -> nix::Result<()> {
    if fd.as_raw_fd() == number {
        let number = fd.into_raw_fd();
        // SAFETY: a command that takes a number.
        Errno::result(unsafe { libc::fcntl(number, libc::F_SETFD, 0) })?;
    } else {
        // SAFETY: takes two numbers; the second is a standard stream's, which no value owns.
        Errno::result(unsafe { libc::dup2(fd.as_raw_fd(), number) })?;
    }
    Ok(())
}

/// Makes standard output and error what standard input is: `/dev/null`. So this process keeps no pipe open,
/// and no other descriptor gets their numbers.
pub(crate) fn redirect_stdio_to_null() {
    for number in [libc::STDOUT_FILENO, libc::STDERR_FILENO] {
        // SAFETY: takes two numbers. No value owns a standard stream.
        unsafe { libc::dup2(libc::STDIN_FILENO, number) };
    }
}

/// Closes standard output and error, so that the next two descriptors get their numbers.
pub(crate) fn close_stdio() {
    for number in [libc::STDOUT_FILENO, libc::STDERR_FILENO] {
        // SAFETY: takes a number. No value owns a standard stream; a write to a closed one is an error.
        unsafe { libc::close(number) };
    }
}

/// A duplicate with a number of at least 10, so that the lower ones are free.
pub(crate) fn dup_above_stdio(fd: BorrowedFd<'_>) -> nix::Result<OwnedFd> {
    // SAFETY: a command that takes a number.
    let copy = Errno::result(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 10) })?;
    // SAFETY: a new descriptor, ours alone.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}
