//! A child held by a pidfd (`pidfd_open(2)`): unlike a pid, it never comes to mean another process.

use std::fs;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, geteuid};

use super::poll::{Deadline, PollFlags, ready};
use super::process_local::ProcessLocal;
use crate::error::{Error, Result};

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Code(i32),
    Signal(i32),
    /// Other code collected the status, or the program ignores SIGCHLD.
    Lost,
}

/// How often [`PidFd::wait_or_until`] asks whether to stop waiting.
const EXIT_RECHECK: Duration = Duration::from_secs(1);

/// Its overflow does no harm: only a change matters.
static OBSERVED_EXITS: AtomicU32 = AtomicU32::new(0);

/// A count that changes whenever this process sees another one's exit.
pub(crate) fn observed_exits() -> u32 {
    OBSERVED_EXITS.load(Relaxed)
}

#[derive(Debug)]
pub(crate) struct PidFd(OwnedFd);

impl PidFd {
    /// Opens the pidfd of a child that was not reaped yet, so that its pid is still its own. Kills the child
    /// if there is no descriptor for it.
    ///
    /// The pid may come from memory that other processes can write. If it is no child's, the result acts as
    /// an ended process that takes no signal.
    pub(crate) fn of_child(pid: u32) -> Result<Self> {
        let child = Pid::from_raw(pid.cast_signed());
        let is_ours = child.as_raw() > 0 && is_our_child(libc::P_PID, pid);
        let opened = if is_ours { Self::open(pid) } else { Self::already_dead() };
        opened.map_err(|errno| {
            if is_ours {
                let _ = kill(child, Signal::SIGKILL).and_then(|()| waitpid(child, None));
            }
            Error::os("open a descriptor for a child process", errno)
        })
    }

    fn open(pid: u32) -> nix::Result<Self> {
        // SAFETY: the call takes two numbers and gives a new descriptor or an error.
        let fd = match Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) }) {
            Err(Errno::ESRCH) => return Self::already_dead(),
            fd => RawFd::try_from(fd?).map_err(|_| Errno::EBADF)?,
        };
        // SAFETY: a new descriptor, ours alone.
        let pidfd = Self(unsafe { OwnedFd::from_raw_fd(fd) });
        if is_our_child(libc::P_PIDFD, fd.cast_unsigned()) { Ok(pidfd) } else { Self::already_dead() }
    }

    /// For a child that was reaped before: a readable descriptor, as an ended process's pidfd is.
    fn already_dead() -> nix::Result<Self> {
        EventFd::from_value_and_flags(1, EfdFlags::EFD_CLOEXEC).map(|fd| Self(fd.into()))
    }

    /// Sends a signal. A process that has ended is no error.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let (fd, number) = (self.0.as_raw_fd(), signal as i32);
        // SAFETY: no pointer but a null one, which asks for the ordinary signal information.
        let result = unsafe {
            libc::syscall(libc::SYS_pidfd_send_signal, fd, number, std::ptr::null::<libc::siginfo_t>(), 0)
        };
        match Errno::result(result) {
            Ok(_) | Err(Errno::ESRCH | Errno::EBADF) => Ok(()), // ended, or `already_dead`
            Err(errno) => Err(Error::os(&format!("send {signal} to a child"), errno)),
        }
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.wait(Deadline::now())
    }

    /// Waits until it has ended; returns whether that was before the deadline.
    pub(crate) fn wait(&self, deadline: Deadline) -> bool {
        self.wait_or_until(deadline, || false)
    }

    /// As [`wait`](Self::wait), but asks once a second whether that is enough; then returns false, too.
    pub(crate) fn wait_or_until(&self, deadline: Deadline, may_stop: impl Fn() -> bool) -> bool {
        loop {
            match ready(self.0.as_fd(), PollFlags::POLLIN, deadline.or_within(EXIT_RECHECK)) {
                Ok(false) if deadline.is_over() || may_stop() => return false,
                Ok(false) => {}
                Ok(true) => {
                    OBSERVED_EXITS.fetch_add(1, Relaxed);
                    return true;
                }
                Err(_) => return matches!(deadline, Deadline::Never), // `reap` waits then
            }
        }
    }

    /// Collects the status of a child of ours that has ended, which [`wait`](Self::wait) need not have seen.
    ///
    /// A debugger that is attached to the child gets the status first, and may take as long as its user. Then this
    /// reads it, and a later call collects it.
    pub(crate) fn reap(&self, pid: u32) -> Exit {
        OBSERVED_EXITS.fetch_add(1, Relaxed);
        collect_held();
        if let Some(exit) = collect(self.as_fd(), libc::WNOHANG) {
            return exit;
        }
        if !self.is_readable() {
            return collect(self.as_fd(), 0).unwrap_or(Exit::Lost);
        }
        // It may have ended just now, or the debugger may have let it go.
        collect(self.as_fd(), libc::WNOHANG).unwrap_or_else(|| {
            hold(self.as_fd());
            held_exit(pid).unwrap_or(Exit::Lost)
        })
    }

    fn is_readable(&self) -> bool {
        ready(self.as_fd(), PollFlags::POLLIN, Deadline::now()).unwrap_or(false)
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Collects a child's status. `None` if, with `WNOHANG`, there is none to be had now.
fn collect(pidfd: BorrowedFd<'_>, flags: libc::c_int) -> Option<Exit> {
    // SAFETY: all-zero bytes are a valid siginfo_t.
    let mut info: libc::siginfo_t = unsafe { mem::zeroed() };
    let id = pidfd.as_raw_fd().cast_unsigned();
    loop {
        // SAFETY: `info` is ours and of the right type. (`nix` fails on real-time signals.)
        match Errno::result(unsafe { libc::waitid(libc::P_PIDFD, id, &raw mut info, libc::WEXITED | flags) })
        {
            Err(Errno::EINTR) => {}
            Err(_) => return Some(Exit::Lost),
            Ok(_) => break,
        }
    }
    // SAFETY: `waitid` has filled in the variant for SIGCHLD, or nothing.
    let pid = unsafe { info.si_pid() };
    // SAFETY: as above.
    let status = unsafe { info.si_status() };
    let exit = if info.si_code == libc::CLD_EXITED { Exit::Code(status) } else { Exit::Signal(status) };
    (pid != 0).then_some(exit)
}

/// The exit of a child that has ended, and whose status a debugger holds. `None` if /proc does not show it.
fn held_exit(pid: u32) -> Option<Exit> {
    let folder = format!("/proc/{pid}");
    let stat = fs::read(format!("{folder}/stat")).ok()?;
    let stat = String::from_utf8_lossy(&stat); // a process's name may be any bytes
    let mut fields = stat.rsplit_once(") ")?.1.split_ascii_whitespace();
    let status: i32 = fields.nth(49)?.parse().ok()?; // the 52nd of all, as `wait` gives it
    if libc::WIFSIGNALED(status) {
        return Some(Exit::Signal(libc::WTERMSIG(status)));
    }
    // The kernel shows 0 for a process of another user.
    let is_shown = status != 0 || fs::metadata(folder).ok()?.uid() == geteuid().as_raw();
    is_shown.then(|| Exit::Code(libc::WEXITSTATUS(status)))
}

/// Children whose status a debugger holds, until it can be collected.
static HELD: ProcessLocal<Mutex<Vec<OwnedFd>>> = ProcessLocal::new(|_| Mutex::default());

fn held() -> MutexGuard<'static, Vec<OwnedFd>> {
    HELD.get().lock().unwrap_or_else(PoisonError::into_inner)
}

fn hold(pidfd: BorrowedFd<'_>) {
    // Without a descriptor, the child stays a zombie for as long as this process lives.
    if let Ok(pidfd) = pidfd.try_clone_to_owned() {
        held().push(pidfd);
    }
}

fn collect_held() {
    held().retain(|pidfd| collect(pidfd.as_fd(), libc::WNOHANG).is_none());
}

/// Whether that is a child of ours that was not reaped yet.
fn is_our_child(kind: libc::idtype_t, id: u32) -> bool {
    // SAFETY: all-zero bytes are a valid siginfo_t.
    let mut info: libc::siginfo_t = unsafe { mem::zeroed() };
    let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT; // changes nothing
    // SAFETY: `info` is ours and of the right type.
    Errno::result(unsafe { libc::waitid(kind, id, &raw mut info, flags) }) != Err(Errno::ECHILD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_that_is_no_childs_acts_as_an_ended_process() {
        let not_a_child = PidFd::of_child(std::os::unix::process::parent_id()).unwrap();
        assert!(not_a_child.has_ended());
        assert_eq!(not_a_child.reap(std::os::unix::process::parent_id()), Exit::Lost);
        assert!(not_a_child.signal(Signal::SIGCONT).is_ok());
    }
}
