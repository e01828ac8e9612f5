//! Executes this program again in a child process, with `posix_spawn(3)`.
//!
//! The C library makes the child as `vfork` does: it copies no page tables, so the cost does not grow with
//! this program's memory, and no code of this library runs between fork and exec.

use std::ffi::{CStr, CString, OsString, c_int, c_void};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::{fs, io, mem, ptr};

use nix::errno::Errno;
use nix::libc;
use nix::sys::prctl::set_no_new_privs;
use nix::sys::signal::{SigSet, Signal};

use super::environment::EnvChanges;
use super::failpoint::{self, Failpoint};
use super::pidfd::PidFd;
use super::privileges::exec_gains_privileges;
use super::program::{Program, errno_of, start_error};
use super::start_socket;
use crate::error::{Error, Result};

/// Executes this program again, with the same arguments, this environment, and `socket` as standard input.
///
/// Standard input is the one descriptor that a child can get without a moment in which another thread's child
/// could inherit it, and without code between fork and exec.
pub(crate) fn exec_self(socket: OwnedFd, environment: &EnvChanges) -> Result<(u32, PidFd)> {
    if failpoint::should_fail(Failpoint::Execute) {
        return Err(Error::os("start a child process", Errno::EAGAIN));
    }
    start_socket::mark(socket.as_fd()).map_err(|errno| Error::os("mark a socket", errno))?;
    let program = Program::own()?;
    if exec_gains_privileges(&program.path_here()) {
        // For this thread, and all that it executes from now on.
        set_no_new_privs().map_err(|errno| Error::os("forbid a child to gain privileges", errno))?;
    }
    let arguments = (c_strings(std::env::args_os()), c_strings(environment.applied()));
    let pid =
        spawn(&program.path_for_child(), arguments, socket.as_fd(), close_from()).map_err(start_error)?;
    Ok((pid, PidFd::of_child(pid)?))
}

fn c_strings(texts: impl Iterator<Item = OsString>) -> Vec<CString> {
    texts.filter_map(|text| CString::new(text.into_vec()).ok()).collect() // none has a zero byte
}

/// Executes a file in a new process that inherits no descriptor above standard error.
fn spawn(
    path: &CStr,
    (arguments, environment): (Vec<CString>, Vec<CString>),
    stdin: BorrowedFd<'_>,
    close_from: Option<CloseFrom>,
) -> nix::Result<u32> {
    let pointers = |texts: &[CString]| -> Vec<*mut libc::c_char> {
        texts.iter().map(|text| text.as_ptr().cast_mut()).chain([ptr::null_mut()]).collect()
    };
    let (actions, attributes) = (FileActions::new(stdin, close_from)?, Attributes::new()?);
    let (arguments_at, environment_at) = (pointers(&arguments), pointers(&environment));
    let mut pid = 0;
    // SAFETY: C strings, in two null-terminated arrays that outlive the call; initialised actions and
    // attributes; a variable for the pid.
    check(unsafe {
        libc::posix_spawn(
            &raw mut pid,
            path.as_ptr(),
            &raw const *actions.0,
            &raw const *attributes.0,
            arguments_at.as_ptr(),
            environment_at.as_ptr(),
        )
    })?;
    Ok(u32::try_from(pid).unwrap_or(0)) // a pid is positive
}

fn check(result: c_int) -> nix::Result<()> {
    if result == 0 { Ok(()) } else { Err(Errno::from_raw(result)) }
}

/// The changes to descriptors that the new process makes before it executes the file.
struct FileActions(Box<libc::posix_spawn_file_actions_t>);

type CloseFrom = unsafe extern "C" fn(*mut libc::posix_spawn_file_actions_t, c_int) -> c_int;

impl FileActions {
    /// `stdin` becomes standard input; descriptors above standard error are closed.
    fn new(stdin: BorrowedFd<'_>, close_from: Option<CloseFrom>) -> nix::Result<Self> {
        const FIRST: RawFd = libc::STDERR_FILENO + 1;
        // SAFETY: numbers and pointers, of which all bits may be zero.
        let mut actions: Box<libc::posix_spawn_file_actions_t> = Box::new(unsafe { mem::zeroed() });
        let at = &raw mut *actions;
        // SAFETY: the record is ours.
        check(unsafe { libc::posix_spawn_file_actions_init(at) })?;
        let actions = Self(actions);
        // SAFETY: initialised, and takes numbers.
        check(unsafe { libc::posix_spawn_file_actions_adddup2(at, stdin.as_raw_fd(), libc::STDIN_FILENO) })?;
        if let Some(close_from) = close_from {
            // SAFETY: initialised, and takes a number.
            check(unsafe { close_from(at, FIRST) })?;
            return Ok(actions);
        }
        for number in inheritable().map_err(|error| errno_of(&error))? {
            // SAFETY: initialised, and takes a number.
            check(unsafe { libc::posix_spawn_file_actions_addclose(at, number) })?;
        }
        Ok(actions)
    }
}

impl Drop for FileActions {
    fn drop(&mut self) {
        // SAFETY: initialised, and not used any more.
        unsafe { libc::posix_spawn_file_actions_destroy(&raw mut *self.0) };
    }
}

/// The C library's function that closes all descriptors from a number on. glibc 2.33 and musl lack it.
fn close_from() -> Option<CloseFrom> {
    let name = c"posix_spawn_file_actions_addclosefrom_np";
    // SAFETY: a C string.
    let address = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    // SAFETY: null, which is `None`, or a function of this type.
    unsafe { mem::transmute::<*mut c_void, Option<CloseFrom>>(address) }
}

/// The descriptors above standard error that are not closed on exec. Descriptors that other threads open
/// meanwhile may be missing.
fn inheritable() -> io::Result<Vec<RawFd>> {
    let numbers = fs::read_dir("/proc/thread-self/fd")?;
    let numbers = numbers.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    // SAFETY: a command that takes and changes nothing.
    let flags = |number: RawFd| unsafe { libc::fcntl(number, libc::F_GETFD) };
    let is_inherited = |number: RawFd| matches!(flags(number), flags @ 0.. if flags & libc::FD_CLOEXEC == 0);
    Ok(numbers.filter(|&number| number > libc::STDERR_FILENO && is_inherited(number)).collect())
}

/// The new process inherits from this thread, but SIGPIPE kills it, which Rust programs ignore.
struct Attributes(Box<libc::posix_spawnattr_t>);

impl Attributes {
    fn new() -> nix::Result<Self> {
        // SAFETY: numbers, of which all bits may be zero.
        let mut attributes: Box<libc::posix_spawnattr_t> = Box::new(unsafe { mem::zeroed() });
        let at = &raw mut *attributes;
        // SAFETY: the record is ours.
        check(unsafe { libc::posix_spawnattr_init(at) })?;
        let attributes = Self(attributes);
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGPIPE);
        // SAFETY: initialised; the set of signals is read.
        check(unsafe { libc::posix_spawnattr_setsigdefault(at, &raw const *signals.as_ref()) })?;
        let flags = libc::c_short::try_from(libc::POSIX_SPAWN_SETSIGDEF).map_err(|_| Errno::EINVAL)?;
        // SAFETY: initialised, and takes a number.
        check(unsafe { libc::posix_spawnattr_setflags(at, flags) })?;
        Ok(attributes)
    }
}

impl Drop for Attributes {
    fn drop(&mut self) {
        // SAFETY: initialised, and not used any more.
        unsafe { libc::posix_spawnattr_destroy(&raw mut *self.0) };
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use nix::fcntl::{FcntlArg, FdFlag, fcntl};
    use nix::sys::wait::{WaitStatus, waitpid};
    use nix::unistd::Pid;

    use super::*;

    /// With and without the C library's `addclosefrom`.
    #[test]
    fn a_new_process_has_the_standard_streams_alone() {
        let null = File::open("/dev/null").unwrap();
        let inherited = File::open("/dev/null").unwrap();
        fcntl(&inherited, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
        for close_from in [close_from(), None] {
            let command = format!("test ! -e /proc/self/fd/{}", inherited.as_raw_fd());
            let arguments = c_strings(["sh", "-c", &command].map(OsString::from).into_iter());
            let pid = spawn(c"/bin/sh", (arguments, Vec::new()), null.as_fd(), close_from).unwrap();
            let child = Pid::from_raw(pid.cast_signed());
            assert_eq!(waitpid(child, None), Ok(WaitStatus::Exited(child, 0)));
        }
    }
}
