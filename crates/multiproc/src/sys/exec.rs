//! Executing this program once more: which file it is, which rights that may give, and what the new process
//! inherits.
//!
//! A child has no more rights than its parent. Executing a file can give rights, by its mode, by its
//! capabilities or by a security module, and to a process that has given them up, it can give them again.
//! Where that is so, the new process is executed under `no_new_privs`; and a process that may have gained
//! rights without that takes no task.

use std::ffi::{CStr, CString, OsString, c_int, c_void};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader};
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::libc;
use nix::sys::prctl::{get_no_new_privs, set_no_new_privs};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::stat::stat;
use nix::unistd::{getpid, getresgid, getresuid, gettid};

use super::entry::start_of_image;
use crate::error::{Cause, Error, Result};

/// Executes this program again, with the same arguments and environment, and `stdin` as standard input; gives
/// the new process's id. That process inherits no descriptor but the three standard ones.
pub(crate) fn execute(stdin: BorrowedFd<'_>) -> Result<u32> {
    let program = Program::own()?;
    if gives_rights(&program.path_here()) {
        // For this thread, and all that it executes from now on.
        set_no_new_privs().map_err(|errno| Error::system("forbid a child to gain rights", errno))?;
    }
    let environment = std::env::vars_os().map(|(mut variable, value)| {
        variable.push("=");
        variable.push(value);
        variable
    });
    let arguments = (strings(std::env::args_os()), strings(environment));
    spawn(&program.path_for_child(), arguments, stdin, close_from()).map_err(refused)
}

/// Whether executing this program may have given this process rights that whoever has executed it does not
/// have, beside those that come with a user or a group.
pub(crate) fn may_have_gained_rights() -> bool {
    let is_restricted = get_no_new_privs().unwrap_or(false);
    is_secure() && !is_restricted && (has_capabilities(EXECUTED) || !has_two_identities())
}

/// What the system has executed in this process. By way of the thread, since the first thread may have ended.
const EXECUTED: &CStr = c"/proc/thread-self/exe";

/// The file of this program.
enum Program {
    /// That which the system has executed.
    Executed,
    /// Another was executed, and has loaded this one: the dynamic loader that was given it as an argument, or
    /// valgrind.
    Loaded(File),
}

impl Program {
    /// Finds out which it is, once.
    fn own() -> Result<&'static Self> {
        static OWN: OnceLock<Program> = OnceLock::new();
        if let Some(program) = OWN.get() {
            return Ok(program);
        }
        let found = Self::find()?;
        Ok(OWN.get_or_init(|| found))
    }

    fn find() -> Result<Self> {
        let cannot_tell = |error: io::Error| refused(errno_of(&error));
        let executed = || fs::read_link("/proc/thread-self/exe").map_err(cannot_tell);
        let before = executed()?;
        let maps = File::open("/proc/thread-self/maps").map_err(cannot_tell)?;
        let Some(mapped) = file_at(start_of_image(), BufReader::new(maps)).map_err(cannot_tell)? else {
            return Ok(Self::Executed); // which has unpacked this program into memory of its own
        };
        if mapped.is(&before) || mapped.is(&executed()?) {
            return Ok(Self::Executed); // the second look, since the file may have been renamed just then
        }
        mapped.open().map(Self::Loaded).ok_or_else(|| {
            Error::new(Cause::Start(format!(
                "this program was loaded by {}, so its own file must be executed, and that is gone: {}",
                before.display(),
                mapped.path.display()
            )))
        })
    }

    /// What names it in this thread.
    fn path_here(&self) -> CString {
        match self {
            Self::Executed => EXECUTED.to_owned(),
            Self::Loaded(_) => self.path_for_child(),
        }
    }

    /// What names it in a child that is about to execute it: the very file, even if it was replaced on disk.
    fn path_for_child(&self) -> CString {
        match self {
            Self::Executed => c"/proc/self/exe".to_owned(),
            // Where this thread has it, since the child has closed it by then.
            Self::Loaded(file) => {
                let path = format!("/proc/{}/task/{}/fd/{}", getpid(), gettid(), file.as_raw_fd());
                CString::new(path).unwrap_or_default() // numbers hold no zero byte
            }
        }
    }
}

/// A file from which memory is mapped, as the system writes it down.
#[derive(Debug, PartialEq)]
struct Mapped {
    inode: u64,
    path: PathBuf,
}

impl Mapped {
    /// By name: on file systems made of others, the numbers that the system writes down here are not those of
    /// the file.
    fn is(&self, path: &Path) -> bool {
        let mut written = Vec::new();
        for &byte in path.as_os_str().as_bytes() {
            if byte == b'\n' { written.extend_from_slice(br"\012") } else { written.push(byte) }
        }
        self.path.as_os_str().as_bytes() == written
    }

    /// The very file, to be executed and not to be read, which may be forbidden.
    fn open(&self) -> Option<File> {
        let file = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(&self.path).ok()?;
        (file.metadata().ok()?.ino() == self.inode).then_some(file)
    }
}

/// The file that is mapped at an address, if there is one.
fn file_at(address: usize, maps: impl BufRead) -> io::Result<Option<Mapped>> {
    for line in maps.split(b'\n') {
        let line = line?;
        let mut fields = line.splitn(2, |&byte| byte == b' ').map(String::from_utf8_lossy);
        let range = fields.next().unwrap_or_default();
        let ends =
            range.split_once('-').map(|(start, end)| [start, end].map(|it| usize::from_str_radix(it, 16)));
        if let Some([Ok(start), Ok(end)]) = ends
            && (start..end).contains(&address)
        {
            let path = line.iter().position(|&byte| byte == b'/').map(|start| line[start..].to_vec());
            let inode = fields.next().and_then(|rest| rest.split_whitespace().nth(3)?.parse().ok());
            return Ok(path
                .zip(inode)
                .map(|(path, inode)| Mapped { inode, path: OsString::from_vec(path).into() }));
        }
    }
    Ok(None)
}

fn refused(errno: Errno) -> Error {
    let is_without_proc = errno == Errno::ENOENT && !Path::new("/proc/self").exists();
    let why = if is_without_proc { ", since /proc is not mounted (mount -t proc proc /proc)" } else { "" };
    Error::system(&format!("start a child process{why}"), errno)
}

fn errno_of(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or_default())
}

/// Whether to execute this file may give rights that this process does not have.
fn gives_rights(path: &CStr) -> bool {
    let (Ok(user), Ok(group), Ok(file)) = (getresuid(), getresgid(), stat(path)) else { return true };
    let sets = |bit| file.st_mode & bit != 0;
    has_capabilities(path)
        || sets(libc::S_ISUID) && file.st_uid != user.effective.as_raw()
        || sets(libc::S_ISGID) && file.st_gid != group.effective.as_raw()
        || (user.real.is_root() || user.effective.is_root()) && lacks_capabilities()
        || is_secure() && !has_two_identities()
}

/// Whether the system says that this process has gained rights when it was executed, or runs for another user
/// or group than its real one.
fn is_secure() -> bool {
    // SAFETY: takes a number.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}

/// Whether it runs for another user or group than its real one, which it may do since long.
fn has_two_identities() -> bool {
    let users = getresuid().is_ok_and(|user| user.real != user.effective);
    users || getresgid().is_ok_and(|group| group.real != group.effective)
}

fn has_capabilities(path: &CStr) -> bool {
    let name = c"security.capability";
    // SAFETY: two texts that end with a zero; a size of 0 asks how long the value is, and has nothing
    // written.
    unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), ptr::null_mut(), 0) > 0 }
}

/// Whether this thread has fewer capabilities than root gets by executing something.
fn lacks_capabilities() -> bool {
    const VERSION: u32 = 0x2008_0522; // of records with 64 capabilities
    let (header, mut sets) = ([VERSION, 0], [0_u32; 6]);
    // SAFETY: the kernel reads a header and writes two records of three words: effective, permitted,
    // inheritable.
    let result = unsafe { libc::syscall(libc::SYS_capget, header.as_ptr(), sets.as_mut_ptr()) };
    let permitted = u64::from(sets[1]) | u64::from(sets[4]) << 32;
    // SAFETY: takes a number.
    let is_bound = |capability: u64| unsafe { libc::prctl(libc::PR_CAPBSET_READ, capability) };
    let mut bounding =
        (0..64_u64).map(|capability| (capability, is_bound(capability))).take_while(|it| it.1 >= 0);
    result != 0 || bounding.any(|(capability, is_bound)| is_bound == 1 && permitted & (1 << capability) == 0)
}

fn strings(texts: impl Iterator<Item = OsString>) -> Vec<CString> {
    texts.filter_map(|text| CString::new(text.into_vec()).ok()).collect() // they all came from the system
}

/// Executes a file in a new process, for which all descriptors are closed above standard error.
///
/// By the C library's `posix_spawn`, which neither copies this process's page tables nor runs any code of
/// ours in between.
fn spawn(
    path: &CStr,
    (arguments, environment): (Vec<CString>, Vec<CString>),
    stdin: BorrowedFd<'_>,
    close_from: Option<CloseFrom>,
) -> nix::Result<u32> {
    let pointers = |texts: &[CString]| -> Vec<*mut libc::c_char> {
        texts.iter().map(|text| text.as_ptr().cast_mut()).chain([ptr::null_mut()]).collect()
    };
    let (actions, attributes) = (Actions::new(stdin, close_from)?, Attributes::new()?);
    let (arguments_at, environment_at) = (pointers(&arguments), pointers(&environment));
    let mut pid = 0;
    // SAFETY: texts that end with a zero, in two lists that end with a null pointer and outlive the call;
    // initialised actions and attributes; a place for the number.
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
    Ok(u32::try_from(pid).unwrap_or(0)) // it fits
}

fn check(result: c_int) -> nix::Result<()> {
    if result == 0 { Ok(()) } else { Err(Errno::from_raw(result)) }
}

/// What is done with descriptors in a new process.
struct Actions(Box<libc::posix_spawn_file_actions_t>);

type CloseFrom = unsafe extern "C" fn(*mut libc::posix_spawn_file_actions_t, c_int) -> c_int;

impl Actions {
    /// `stdin` becomes standard input, and what is above standard error is closed.
    fn new(stdin: BorrowedFd<'_>, close_from: Option<CloseFrom>) -> nix::Result<Self> {
        const FIRST: RawFd = libc::STDERR_FILENO + 1;
        // SAFETY: numbers and pointers, of which all bits may be zero.
        let mut actions: Box<libc::posix_spawn_file_actions_t> = Box::new(unsafe { mem::zeroed() });
        let place = &raw mut *actions;
        // SAFETY: the record is ours.
        check(unsafe { libc::posix_spawn_file_actions_init(place) })?;
        let actions = Self(actions);
        // SAFETY: initialised, and takes numbers.
        check(unsafe {
            libc::posix_spawn_file_actions_adddup2(place, stdin.as_raw_fd(), libc::STDIN_FILENO)
        })?;
        if let Some(close_from) = close_from {
            // SAFETY: initialised, and takes a number.
            check(unsafe { close_from(place, FIRST) })?;
            return Ok(actions);
        }
        for number in inheritable().map_err(|error| errno_of(&error))? {
            // SAFETY: initialised, and takes a number.
            check(unsafe { libc::posix_spawn_file_actions_addclose(place, number) })?;
        }
        Ok(actions)
    }
}

impl Drop for Actions {
    fn drop(&mut self) {
        // SAFETY: initialised, and not used any more.
        unsafe { libc::posix_spawn_file_actions_destroy(&raw mut *self.0) };
    }
}

/// The C library's function that has all descriptors closed from a number on, which older ones (glibc 2.33,
/// musl) lack.
fn close_from() -> Option<CloseFrom> {
    let name = c"posix_spawn_file_actions_addclosefrom_np";
    // SAFETY: a text that ends with a zero.
    let address = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    // SAFETY: null, which is none, or a function of this type.
    unsafe { mem::transmute::<*mut c_void, Option<CloseFrom>>(address) }
}

/// The descriptors above standard error that stay open when this process executes a program. Where others
/// open some meanwhile, these may be missing.
fn inheritable() -> io::Result<Vec<RawFd>> {
    let numbers = fs::read_dir("/proc/thread-self/fd")?;
    let numbers = numbers.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    // SAFETY: a command that takes and changes nothing.
    let flags = |number: RawFd| unsafe { libc::fcntl(number, libc::F_GETFD) };
    let is_inherited = |number: RawFd| matches!(flags(number), flags @ 0.. if flags & libc::FD_CLOEXEC == 0);
    Ok(numbers.filter(|&number| number > libc::STDERR_FILENO && is_inherited(number)).collect())
}

/// How a new process begins: as this thread is, but that a broken pipe kills it, which Rust programs do not
/// pass on.
struct Attributes(Box<libc::posix_spawnattr_t>);

impl Attributes {
    fn new() -> nix::Result<Self> {
        // SAFETY: numbers, of which all bits may be zero.
        let mut attributes: Box<libc::posix_spawnattr_t> = Box::new(unsafe { mem::zeroed() });
        let place = &raw mut *attributes;
        // SAFETY: the record is ours.
        check(unsafe { libc::posix_spawnattr_init(place) })?;
        let attributes = Self(attributes);
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGPIPE);
        // SAFETY: initialised; the set of signals is read.
        check(unsafe { libc::posix_spawnattr_setsigdefault(place, &raw const *signals.as_ref()) })?;
        let flags = libc::c_short::try_from(libc::POSIX_SPAWN_SETSIGDEF).map_err(|_| Errno::EINVAL)?;
        // SAFETY: initialised, and takes a number.
        check(unsafe { libc::posix_spawnattr_setflags(place, flags) })?;
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
    use std::os::fd::AsFd;

    use nix::fcntl::{FcntlArg, FdFlag, fcntl};
    use nix::sys::wait::{WaitStatus, waitpid};
    use nix::unistd::Pid;

    use super::*;

    #[test]
    fn a_file_is_found_by_an_address_in_it() {
        let maps = b"\
            5000-6000 r--p 00000000 fe:00 77                         /some where/a (b) /c\n\
            6000-7000 rw-p 00000000 00:00 0 \n\
            7000-8000 r-xp 00001000 00:05 78                         /new\\012line (deleted)\n\
            8000-9000 rw-p 00000000 00:00 0                          [heap]\n";
        let found = |address| file_at(address, &maps[..]).unwrap();
        let first = Mapped { inode: 77, path: "/some where/a (b) /c".into() };
        assert_eq!([0x4fff, 0x6000, 0x8000, 0x9000].map(found), [const { None }; 4]);
        assert_eq!(found(0x5fff).as_ref(), Some(&first));
        assert!(first.is(Path::new("/some where/a (b) /c")) && !first.is(Path::new("/c")));
        assert!(found(0x7000).unwrap().is(Path::new("/new\nline (deleted)")));
    }

    #[test]
    fn a_file_that_is_not_what_was_mapped_is_not_executed() {
        let path = std::env::current_exe().unwrap();
        let inode = fs::metadata(&path).unwrap().ino();
        assert!(Mapped { inode, path: path.clone() }.open().is_some());
        assert!(Mapped { inode: inode + 1, path: path.clone() }.open().is_none());
        assert!(Mapped { inode, path: path.join("gone") }.open().is_none());
        assert!(matches!(Program::find(), Ok(Program::Executed)));
    }

    /// Also where the C library has no function for that.
    #[test]
    fn a_new_process_has_the_standard_streams_alone() {
        let nothing = File::open("/dev/null").unwrap();
        let inherited = File::open("/dev/null").unwrap();
        fcntl(&inherited, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
        for close_from in [close_from(), None] {
            let look = format!("test ! -e /proc/self/fd/{}", inherited.as_raw_fd());
            let arguments = strings(["sh", "-c", &look].map(OsString::from).into_iter());
            let pid = spawn(c"/bin/sh", (arguments, Vec::new()), nothing.as_fd(), close_from).unwrap();
            let child = Pid::from_raw(pid.cast_signed());
            assert_eq!(waitpid(child, None), Ok(WaitStatus::Exited(child, 0)));
        }
    }
}
