//! This process: its pid, its name in `ps`, what a child sets up first, and how it ends.

use nix::libc;
use nix::sys::signal::SigSet;

use super::signals::ignore_sigint;
use crate::error::{Error, Result};

/// Sets up a child that was just executed: standard input is empty, no signal is blocked, and SIGINT does
/// nothing. (It has inherited no descriptor above standard error.)
pub(crate) fn setup_child() -> Result<()> {
    let null = std::fs::File::open("/dev/null").map_err(|error| Error::io("open /dev/null", &error))?;
    nix::unistd::dup2_stdin(&null).map_err(|errno| Error::os("replace standard input", errno))?;
    drop(null);
    ignore_sigint().map_err(|errno| Error::os("handle SIGINT", errno))?; // first: one may be pending
    SigSet::empty().thread_set_mask().map_err(|errno| Error::os("unblock signals", errno))
}

/// Sets the name that `ps` and `top` show. The kernel keeps 15 bytes of it.
pub(crate) fn set_comm(name: &str) {
    let mut bytes = [0_u8; 16];
    for (to, byte) in bytes[..15].iter_mut().zip(name.bytes().filter(|&byte| byte != 0)) {
        *to = byte;
    }
    // SAFETY: the kernel reads up to the zero at the end. Nothing depends on the name.
    unsafe { libc::syscall(libc::SYS_prctl, libc::PR_SET_NAME, bytes.as_ptr(), 0, 0, 0) };
}

/// This process's pid, from the kernel each time: a task may have forked. A bare system call, as all that a
/// forked child does before its task (see [`super::fork`]).
pub(crate) fn own_pid() -> u32 {
    // SAFETY: takes nothing.
    let pid = unsafe { libc::syscall(libc::SYS_getpid) };
    u32::try_from(pid).unwrap_or(0) // a pid is positive
}

/// Ends the process by `_exit(2)`: runs no exit handlers, and flushes nothing.
pub(crate) fn exit_immediately(code: i32) -> ! {
    // SAFETY: ends the process, whatever its state.
    unsafe { libc::_exit(code) }
}
