//! Starting the program again, and knowing a child by its descriptor.

use std::ffi::CString;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::libc;
use nix::sys::prctl;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, pthread_sigmask};
use nix::unistd::{Uid, getpid, getppid};

use super::poll::{Deadline, PollFlags, ready};
use super::socket;
use crate::error::{Error, Result};

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Code(i32),
    Signal(i32),
    /// Somebody else collected the status, or asked the kernel to throw it away.
    Lost,
}

/// A child, held by a descriptor: unlike a number, it can never come to mean another process.
#[derive(Debug)]
pub(crate) struct PidFd(OwnedFd);

impl PidFd {
    fn open(pid: u32) -> nix::Result<Self> {
        // SAFETY: the call takes two numbers and gives a new descriptor or an error.
        let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
        // SAFETY: a new descriptor, ours alone.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(RawFd::try_from(fd).map_err(|_| Errno::EBADF)?) }))
    }

    /// Sends a signal; a process that has ended already needs none.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let (fd, number) = (self.0.as_raw_fd(), signal as i32);
        // SAFETY: no pointer but a null one, which asks for the ordinary signal information.
        let result = unsafe {
            libc::syscall(libc::SYS_pidfd_send_signal, fd, number, std::ptr::null::<libc::siginfo_t>(), 0)
        };
        match Errno::result(result) {
            Ok(_) | Err(Errno::ESRCH) => Ok(()),
            Err(errno) => Err(Error::system(&format!("send {signal} to a child"), errno)),
        }
    }

    pub(crate) fn has_ended(&self) -> bool {
        ready(self.0.as_fd(), PollFlags::POLLIN, Deadline::now()).unwrap_or(false)
    }

    /// Collects the status of a child of ours that has ended.
    pub(crate) fn reap(&self) -> Exit {
        // SAFETY: all-zero bytes are a valid siginfo_t.
        let mut info: libc::siginfo_t = unsafe { mem::zeroed() };
        let id = self.0.as_raw_fd().cast_unsigned();
        // SAFETY: `info` is ours and of the right type. (Not through `nix`, which fails on real-time signals.)
        let result = unsafe { libc::waitid(libc::P_PIDFD, id, &raw mut info, libc::WEXITED) };
        match Errno::result(result) {
            Err(Errno::EINTR) => self.reap(),
            Err(_) => Exit::Lost,
            Ok(_) => {
                // SAFETY: `waitid` has filled in the variant for SIGCHLD, which has a status.
                let status = unsafe { info.si_status() };
                if info.si_code == libc::CLD_EXITED { Exit::Code(status) } else { Exit::Signal(status) }
            }
        }
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Executes this program again, with the same arguments and environment, and `socket` as standard input.
///
/// Standard input, because that is the one descriptor that can be handed over without a moment in which another
/// thread's child could inherit it, and without code between fork and exec; so the standard library takes its
/// quickest way, whose cost does not grow with this program.
pub(crate) fn start_self(socket: OwnedFd) -> Result<(u32, PidFd)> {
    let mut arguments = std::env::args_os();
    let mut command = Command::new("/proc/self/exe"); // the very file that runs, even if it was replaced on disk
    command.arg0(arguments.next().unwrap_or_default()).args(arguments).stdin(Stdio::from(socket));
    let mut child = command.spawn().map_err(|error| Error::io("start a child process", &error))?;
    match PidFd::open(child.id()) {
        Ok(pidfd) => Ok((child.id(), pidfd)),
        Err(errno) => {
            let _ = child.kill().and_then(|()| child.wait());
            Err(Error::system("open a descriptor for a child process", errno))
        }
    }
}

/// The start socket, if this process was started by [`start_self`]: a packet that begins with `greeting` waits in it.
///
/// A greeting from anybody but our living parent ends the process: from a stranger, who may have handed his socket to
/// a set-uid program; or from a parent that has died meanwhile, whose orphan must not run the whole program instead.
pub(crate) fn start_socket(greeting: &[u8]) -> Option<OwnedFd> {
    let stdin = io::stdin();
    let (maker, user) = socket::maker(stdin.as_fd())?;
    if !socket::begins_with(stdin.as_fd(), greeting) {
        return None;
    }
    let tied = prctl::set_pdeathsig(Signal::SIGKILL); // before the look at who the parent is
    if tied.is_err() || maker != getppid().as_raw() || user != Uid::effective().as_raw() {
        leave(1);
    }
    stdin.as_fd().try_clone_to_owned().ok()
}

/// Makes the process that was just started a child as it should be: it holds only `keep` of all descriptors above
/// standard error, reads nothing from standard input, and blocks no signal.
pub(crate) fn become_child(keep: OwnedFd) -> Result<OwnedFd> {
    let nothing = std::fs::File::open("/dev/null").map_err(|error| Error::io("open /dev/null", &error))?;
    nix::unistd::dup2_stdin(&nothing).map_err(|errno| Error::system("replace standard input", errno))?;
    drop(nothing);
    let keep = lowest(keep)?;
    let above = keep.as_raw_fd().cast_unsigned() + 1;
    // SAFETY: this is the first thing the program does: nothing has opened a descriptor that it still relies on.
    Errno::result(unsafe { libc::syscall(libc::SYS_close_range, above, u32::MAX, 0) })
        .map_err(|errno| Error::system("close inherited descriptors", errno))?;
    let none = SigSet::empty();
    pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&none), None)
        .map_err(|errno| Error::system("unblock signals", errno))?;
    Ok(keep)
}

/// Moves a descriptor to number 3, closing what an ancestor may have left there.
fn lowest(fd: OwnedFd) -> Result<OwnedFd> {
    const FIRST: RawFd = 3;
    if fd.as_raw_fd() == FIRST {
        return Ok(fd);
    }
    // SAFETY: two numbers; whatever had the second is closed, and it is not ours, see `become_child`.
    Errno::result(unsafe { libc::dup3(fd.as_raw_fd(), FIRST, libc::O_CLOEXEC) })
        .map_err(|errno| Error::system("move the start socket", errno))?;
    // SAFETY: the descriptor that the line above made.
    Ok(unsafe { OwnedFd::from_raw_fd(FIRST) })
}

/// The name that `ps` and `top` show, as much of it as the system keeps (15 bytes).
pub(crate) fn show_name(name: &str) {
    let bytes: Vec<u8> = name.bytes().filter(|&byte| byte != 0).take(15).collect();
    if let Ok(name) = CString::new(bytes) {
        let _ = prctl::set_name(&name); // a matter of looks
    }
}

/// The id of this process, asked anew: a copy that a task forked has another one.
pub(crate) fn own_pid() -> u32 {
    getpid().as_raw().cast_unsigned()
}

/// Ends the process at once: no exit handlers, nothing flushed. For copies that must not act.
pub(crate) fn leave(code: i32) -> ! {
    // SAFETY: ends the process, whatever its state.
    unsafe { libc::_exit(code) }
}
