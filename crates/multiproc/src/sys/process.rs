//! Starting the program again, and knowing a child by its descriptor.

use std::io::{self, Write};
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::prctl;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, kill, sigaction};
use nix::sys::wait::waitpid;
use nix::unistd::{Gid, Pid, Uid, getppid};

use super::exec;
use super::failpoint::{self, Failpoint};
use super::poll::{Deadline, PollFlags, ready};
use super::socket::{self, SocketOwner};
use crate::error::{Cause, Error, Result};

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Code(i32),
    Signal(i32),
    /// Somebody else collected the status, or asked the kernel to throw it away.
    Lost,
}

/// How often a thread that waits for a child asks whether it need not wait any longer.
const RECHECK_INTERVAL: Duration = Duration::from_secs(1);

/// How often this process has seen that another one has ended.
static OBSERVED_EXITS: AtomicU32 = AtomicU32::new(0);

/// Changes whenever this process sees that another one has ended.
pub(crate) fn observed_exits() -> u32 {
    OBSERVED_EXITS.load(Relaxed)
}

/// A child, held by a descriptor: unlike a number, it can never come to mean another process.
#[derive(Debug)]
pub(crate) struct PidFd(OwnedFd);

impl From<OwnedFd> for PidFd {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl PidFd {
    /// Opens that of a child of ours whose status nobody has collected, so that its number is still its own. A child
    /// that cannot be held is ended. A number that is no child's, which may be any that stands in memory that others
    /// can write, is that of nobody.
    pub(crate) fn of_child(pid: u32) -> Result<Self> {
        let child = Pid::from_raw(pid.cast_signed());
        let is_ours = child.as_raw() > 0 && is_our_child(libc::P_PID, pid);
        let opened = if is_ours { Self::open(pid) } else { Self::already_dead() };
        opened.map_err(|errno| {
            if is_ours {
                let _ = kill(child, Signal::SIGKILL).and_then(|()| waitpid(child, None));
            }
            Error::system("open a descriptor for a child process", errno)
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

    /// For a child that has ended, and that the system or somebody else has buried, before we could open it: a
    /// descriptor that is readable, as that of an ended process is.
    fn already_dead() -> nix::Result<Self> {
        EventFd::from_value_and_flags(1, EfdFlags::EFD_CLOEXEC).map(|fd| Self(fd.into()))
    }

    /// Sends a signal; a process that has ended already needs none.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let (fd, number) = (self.0.as_raw_fd(), signal as i32);
        // SAFETY: no pointer but a null one, which asks for the ordinary signal information.
        let result = unsafe {
            libc::syscall(libc::SYS_pidfd_send_signal, fd, number, std::ptr::null::<libc::siginfo_t>(), 0)
        };
        match Errno::result(result) {
            Ok(_) | Err(Errno::ESRCH | Errno::EBADF) => Ok(()), // no process any more, or a child of nobody
            Err(errno) => Err(Error::system(&format!("send {signal} to a child"), errno)),
        }
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.wait(Deadline::now())
    }

    /// Waits until it has ended; says whether that was before the deadline.
    pub(crate) fn wait(&self, deadline: Deadline) -> bool {
        self.wait_unless(deadline, || false)
    }

    /// As [`wait`](Self::wait), but asks once a second whether that is enough; gives false then, too.
    pub(crate) fn wait_unless(&self, deadline: Deadline, is_enough: impl Fn() -> bool) -> bool {
        loop {
            match ready(self.0.as_fd(), PollFlags::POLLIN, deadline.or_within(RECHECK_INTERVAL)) {
                Ok(false) if deadline.is_over() || is_enough() => return false,
                Ok(false) => {}
                Ok(true) => {
                    OBSERVED_EXITS.fetch_add(1, Relaxed);
                    return true;
                }
                Err(_) => return matches!(deadline, Deadline::Never), // then collecting its status waits for it
            }
        }
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

/// Whether that is a child of ours whose status nobody has collected.
fn is_our_child(kind: libc::idtype_t, id: u32) -> bool {
    // SAFETY: all-zero bytes are a valid siginfo_t.
    let mut info: libc::siginfo_t = unsafe { mem::zeroed() };
    let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT; // it stays as it is
    // SAFETY: `info` is ours and of the right type.
    Errno::result(unsafe { libc::waitid(kind, id, &raw mut info, flags) }) != Err(Errno::ECHILD)
}

/// Executes this program again, with the same arguments and environment, and `socket` as standard input.
///
/// Standard input, because that is the one descriptor that can be handed over without a moment in which another
/// thread's child could inherit it, and without code of ours between fork and exec; so the C library takes
/// its quickest way, whose cost does not grow with this program.
pub(crate) fn exec_self(socket: OwnedFd) -> Result<(u32, PidFd)> {
    if failpoint::should_fail(Failpoint::Execute) {
        return Err(Error::system("start a child process", Errno::EAGAIN));
    }
    socket::mark(socket.as_fd()).map_err(|errno| Error::system("mark a socket", errno))?;
    let pid = exec::execute(socket.as_fd())?;
    Ok((pid, PidFd::of_child(pid)?))
}

/// The start socket, if this process was started by [`exec_self`]: the packet that waits in it `is_greeting`, as far
/// as its first bytes tell. With it comes its maker, for [`check_rights`].
///
/// A greeting from any other process than our living parent ends this one: from a stranger; or from a parent
/// that has died meanwhile, whose orphan must not run the whole program instead.
pub(crate) fn take_bootstrap_socket(
    is_greeting: impl FnOnce(&[u8]) -> bool,
) -> Option<(OwnedFd, SocketOwner)> {
    let stdin = io::stdin();
    let maker = socket::maker(stdin.as_fd())?;
    match socket::waiting_packet(stdin.as_fd()) {
        Some(packet) if is_greeting(&packet) => {}
        packet => return bad_magic(maker, packet.is_some()),
    }
    let tied = prctl::set_pdeathsig(Signal::SIGKILL); // before the look at who the parent is
    if tied.is_err() || maker.pid != getppid().as_raw() {
        exit_immediately(1);
    }
    match stdin.as_fd().try_clone_to_owned() {
        Ok(socket) => Some((socket, maker)),
        Err(error) => cannot_start(&format!("cannot copy a descriptor: {error}")),
    }
}

/// Checks that the maker of the start socket had all rights that this process has. Otherwise any user could
/// execute a program that has more rights (set-uid, set-gid, with capabilities) and have it run any of its
/// tasks.
///
/// The kernel remembers user and group of the moment at which the sockets were made. The parent's present
/// ones would prove nothing, since it can execute a privileged program meanwhile.
pub(crate) fn check_rights(maker: SocketOwner) -> Result<()> {
    let (user, group) = (Uid::effective().as_raw(), Gid::effective().as_raw());
    if (user, group) != (maker.user, maker.group) {
        return Err(Error::new(Cause::Start(format!(
            "it runs as user {user} and group {group}, and its parent as user {} and group {}",
            maker.user, maker.group
        ))));
    }
    if exec::may_have_gained_rights() {
        return Err(Error::new(Cause::Start("it gained rights when the program was executed".to_owned())));
    }
    Ok(())
}

/// A child that cannot tell its parent tells the user. It must not go on: it would run the whole program again, and
/// again in its children.
fn cannot_start(why: &str) -> ! {
    let _ = writeln!(io::stderr(), "a child process did not start: {why}");
    exit_immediately(1)
}

/// A program that has inherited the start socket of another process goes on. But if the parent made that
/// socket, this is its child, and something has read the greeting, or another version of this library wrote
/// it.
fn bad_magic<T>(maker: SocketOwner, is_waiting: bool) -> Option<T> {
    if maker.pid == getppid().as_raw() {
        cannot_start(if is_waiting {
            "what waits in its standard input is from another version of multiproc, or was read in part"
        } else {
            "standard input was read before multiproc::init(), which must come first"
        });
    }
    None
}

/// Makes the process that was just started a child as it should be: it reads nothing from standard input,
/// blocks no signal, and leaves Ctrl-C to the program's first process. (It has inherited no descriptor above
/// standard error.)
pub(crate) fn setup_child() -> Result<()> {
    let nothing = std::fs::File::open("/dev/null").map_err(|error| Error::io("open /dev/null", &error))?;
    nix::unistd::dup2_stdin(&nothing).map_err(|errno| Error::system("replace standard input", errno))?;
    drop(nothing);
    ignore_sigint().map_err(|errno| Error::system("handle SIGINT", errno))?; // one may have come already
    SigSet::empty().thread_set_mask().map_err(|errno| Error::system("unblock signals", errno))
}

/// Has SIGINT do nothing, unless it is ignored, or the program has said what it is to do. A terminal sends that to all
/// processes of a program, of which the first has to know what to do: to die, and its children with it, or to end its
/// work in good order, for which it may need them.
///
/// A handler that does nothing, for to ignore the signal would be passed on to programs that are executed here.
fn ignore_sigint() -> nix::Result<()> {
    extern "C" fn nothing(_signal: i32) {}
    let action = SigAction::new(SigHandler::Handler(nothing), SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: the handler does nothing, which is allowed at any instruction.
    let before = unsafe { sigaction(Signal::SIGINT, &action) }?;
    if !matches!(before.handler(), SigHandler::SigDfl) {
        // SAFETY: puts back what the program has set up itself.
        unsafe { sigaction(Signal::SIGINT, &before) }?;
    }
    Ok(())
}

/// Ties this process's life to the other end of the socket, beside the parent-death signal, which the kernel forgets
/// when the child changes its user, and does not deliver when the parent has changed its own.
pub(crate) fn kill_on_hangup(socket: BorrowedFd<'_>) -> Result<()> {
    socket::signal_on_hangup(socket).map_err(|errno| Error::system("tie a child to its parent", errno))?;
    if ready(socket, PollFlags::empty(), Deadline::now())? {
        exit_immediately(1); // it was gone before the line above
    }
    Ok(())
}

/// Calls `start`, which starts a thread of ours. No signal will come to that thread: they are for the user's, and one
/// who blocks a signal to wait for it must not find it taken by a thread that he does not know of.
pub(crate) fn with_signals_blocked<T>(start: impl FnOnce() -> T) -> T {
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK); // threads inherit the mask
    let started = start();
    if let Ok(before) = before {
        let _ = before.thread_set_mask();
    }
    started
}

/// The name that `ps` and `top` show, as much of it as the system keeps (15 bytes).
pub(crate) fn set_comm(name: &str) {
    let mut bytes = [0_u8; 16];
    for (place, byte) in bytes[..15].iter_mut().zip(name.bytes().filter(|&byte| byte != 0)) {
        *place = byte;
    }
    // SAFETY: the kernel reads no further than the zero at the end. What it answers is a matter of looks.
    unsafe { libc::syscall(libc::SYS_prctl, libc::PR_SET_NAME, bytes.as_ptr(), 0, 0, 0) };
}

/// The id of this process, asked anew: a copy that a task forked has another one. By a bare system call, as all that
/// a child does before its task: see [`super::fork`].
pub(crate) fn own_pid() -> u32 {
    // SAFETY: takes nothing.
    let pid = unsafe { libc::syscall(libc::SYS_getpid) };
    u32::try_from(pid).unwrap_or(0) // it fits, and cannot fail
}

/// Ends the process at once: no exit handlers, nothing flushed. For copies that must not act.
pub(crate) fn exit_immediately(code: i32) -> ! {
    // SAFETY: ends the process, whatever its state.
    unsafe { libc::_exit(code) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_has_come_to_mean_another_process_is_nobodys() {
        let stranger = PidFd::of_child(std::os::unix::process::parent_id()).unwrap();
        assert!(stranger.has_ended());
        assert_eq!(stranger.reap(), Exit::Lost);
        assert!(stranger.signal(Signal::SIGCONT).is_ok());
    }
}
