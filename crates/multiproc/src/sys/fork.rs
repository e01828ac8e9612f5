//! Forking a process that was made to be forked: of its threads one forks, the other has stopped for good,
//! and neither is in the user's code.
//!
//! The copy becomes the child of this process's *parent*, as if that had forked. For this, the system call is made
//! directly: the C library's `fork` cannot ask for it. What the C library would have done beside it is done here.

use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread;

use nix::errno::Errno;
use nix::libc;
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signal::SigSet;
use nix::sys::stat::stat;
use nix::unistd::{getppid, pause};

use super::failpoint::{self, Failpoint};
use super::futex;
use super::process::exit_immediately;

/// Who one is after a fork.
pub(crate) enum Fork {
    Child,
    /// The one who forked, and the child's process id.
    Forker(u32),
}

/// What it takes to fork this process.
pub(crate) struct ZygoteForker {
    parent: i32,
    /// Where the C library keeps the number of this thread, which it takes for the owner of robust locks: it must be
    /// the child's in the child. The kernel writes it there.
    tid: *mut libc::pid_t,
    /// The list of robust locks held by this thread (of its head; none is held), and the size of that.
    robust_list: (*const libc::c_void, usize),
}

const PR_GET_TID_ADDRESS: libc::c_int = 40;

/// Has a new thread of this process call `serve`, which forks; the calling one, the first, does nothing any
/// more. Returns only where the system refuses the thread.
///
/// A child has a copy of the thread that has forked it, and of no other. Here that is one which has never run
/// any of the user's code. So what is kept for each thread is not in use in a child: above all, no generator
/// of random numbers that is kept so is seeded yet, whatever `main` has done before `init`. In a child that
/// thread is the first.
///
/// It also makes this process deaf to signals: those that a terminal sends to all processes of a program are
/// not meant for this one.
pub(crate) fn serve_on_fresh_thread(serve: impl FnOnce() + Send + 'static) -> Errno {
    let _ = SigSet::all().thread_set_mask(); // and the new thread's with it
    let first = tid_address().map_or(0, <*mut libc::pid_t>::expose_provenance);
    let stack = stack_limit();
    STACK.store(stack as u64, Ordering::Relaxed);
    // A child's panics name the thread, and there it is the first.
    let thread = thread::Builder::new().name("main".to_owned()).stack_size(stack);
    let started = thread.spawn(move || {
        while IS_PARKED.load(Ordering::Acquire) == 0 {
            futex::wait(&IS_PARKED, 0, None);
        }
        forget_thread(first);
        serve();
    });
    match started {
        Ok(thread) => drop(thread),
        Err(error) => return error.raw_os_error().map_or(Errno::EAGAIN, Errno::from_raw),
    }
    // From here on this thread holds no lock, that of the allocator for example, and will take none.
    IS_PARKED.store(1, Ordering::Release);
    futex::wake_all(&IS_PARKED);
    loop {
        pause();
    }
}

/// The first thread of this process has done its last.
static IS_PARKED: AtomicU32 = AtomicU32::new(0);

/// How many bytes the stack of the forking thread takes, which is that of its children; 0 in other processes,
/// whose stack the system makes. What the system makes does not count as a process's data, and this does.
pub(crate) fn own_stack() -> u64 {
    STACK.load(Ordering::Relaxed)
}

static STACK: AtomicU64 = AtomicU64::new(0);

/// As much as the first thread of a program may have. It is used up only as it is needed.
fn stack_limit() -> usize {
    const MOST: u64 = 1 << 30; // where there is no limit
    let limit = getrlimit(Resource::RLIMIT_STACK).map_or(8 << 20, |(soft, _)| soft);
    usize::try_from(limit.min(MOST)).unwrap_or(8 << 20)
}

/// Marks a thread as one that has ended, in the C library's own book: children have not got it, and when one
/// of them becomes another user, the C library tells all threads.
fn forget_thread(tid: usize) {
    if tid != 0 {
        // SAFETY: the place where the C library keeps the first thread's number (see [`tid_address`]). That
        // thread is spilled, so nobody else looks at it now.
        unsafe { ptr::with_exposed_provenance_mut::<libc::pid_t>(tid).write_volatile(0) };
    }
}

impl ZygoteForker {
    /// Finds out all that. An error means that this system, or this process, cannot do it.
    pub(crate) fn new() -> nix::Result<Self> {
        check_threads()?;
        // SAFETY: with a size of 0, which is too small, the kernel refuses whatever the pointer; but where it has no
        // such call, or forbids it, it says another thing.
        let probe = unsafe { libc::syscall(libc::SYS_clone3, ptr::null::<libc::clone_args>(), 0) };
        if Errno::result(probe) != Err(Errno::EINVAL) {
            return Err(Errno::ENOSYS);
        }
        Ok(Self { parent: getppid().as_raw(), tid: tid_address()?, robust_list: robust_list()? })
    }

    /// Makes the copy. The kernel stores its process id in `born` before it begins to run: whoever shares that word
    /// knows of it, even should this process be killed in this very call. The child is killed when its parent ends.
    pub(crate) fn fork(&self, born: &AtomicU32) -> nix::Result<Fork> {
        if failpoint::should_fail(Failpoint::Fork) {
            return Err(Errno::EAGAIN);
        }
        check_threads()?; // each time, since a library may start one when it likes
        let flags = libc::CLONE_PARENT
            | libc::CLONE_PARENT_SETTID
            | libc::CLONE_CHILD_SETTID
            | libc::CLONE_CHILD_CLEARTID;
        // SAFETY: all-zero bytes are valid clone_args. (The child's end is told with the signal of ours, SIGCHLD.)
        let mut args: libc::clone_args = unsafe { mem::zeroed() };
        args.flags = u64::from(flags.cast_unsigned());
        args.parent_tid = born.as_ptr().expose_provenance() as u64;
        args.child_tid = self.tid.expose_provenance() as u64;
        born.fetch_or(0, Ordering::Relaxed); // has the page at hand: a process that is being killed gets none
        // SAFETY: without CLONE_VM the child has a copy of all memory, this stack included, and returns here
        // as we do. The only other thread is spilled, so nobody holds a lock or is in the middle of anything.
        // The kernel writes to the two places given, which live.
        let result = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) };
        match Errno::result(result)? {
            0 => {
                self.begin();
                Ok(Fork::Child)
            }
            pid => Ok(Fork::Forker(u32::try_from(pid).unwrap_or(0))),
        }
    }

    /// What a child does first. By bare system calls: each function of the C library would lie in another page, and
    /// each page that a child touches costs it as much as ten calls.
    fn begin(&self) {
        let (head, size) = self.robust_list;
        // SAFETY: the place and the size are those that the C library had registered for this thread; the kernel only
        // stores them.
        unsafe { libc::syscall(libc::SYS_set_robust_list, head, size) };
        let (kill, nothing) = (libc::SIGKILL, 0_u64);
        // SAFETY: takes numbers. Before the look at who the parent is.
        let tied = unsafe { libc::syscall(libc::SYS_prctl, libc::PR_SET_PDEATHSIG, kill, 0, 0, 0) };
        // SAFETY: takes nothing.
        let parent = unsafe { libc::syscall(libc::SYS_getppid) };
        if tied != 0 || parent != libc::c_long::from(self.parent) {
            exit_immediately(1);
        }
        let (old, size) = (ptr::null_mut::<u64>(), size_of::<u64>());
        // SAFETY: the kernel reads a set of signals, an empty one of its own size, and writes none back.
        unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const nothing, old, size) };
    }
}

/// An error where something of the user's has started a thread, which may hold any lock: before `main`, or
/// before `init`, or at any time, as an allocator does that works in the background.
fn check_threads() -> nix::Result<()> {
    // A folder is linked to by itself and its parent, and this one by the two threads.
    let is_right = stat("/proc/self/task").is_ok_and(|tasks| tasks.st_nlink == 4);
    if is_right { Ok(()) } else { Err(Errno::ENOSYS) }
}

/// Where the C library keeps the calling thread's number, if that is where the kernel is to clear it at its
/// end.
fn tid_address() -> nix::Result<*mut libc::pid_t> {
    let mut address: *mut libc::pid_t = ptr::null_mut();
    // SAFETY: the kernel writes one pointer to the place given.
    Errno::result(unsafe { libc::prctl(PR_GET_TID_ADDRESS, &raw mut address) })?;
    if address.is_null() || !address.is_aligned() {
        return Err(Errno::ENOSYS);
    }
    // SAFETY: the C library has given this address to the kernel as that of a word in this thread's memory.
    let tid = unsafe { address.read_volatile() };
    // Not all C libraries keep the number in that word (musl has a lock there).
    if tid == nix::unistd::gettid().as_raw() { Ok(address) } else { Err(Errno::ENOSYS) }
}

fn robust_list() -> nix::Result<(*const libc::c_void, usize)> {
    let (mut head, mut size) = (ptr::null(), 0_usize);
    // SAFETY: the kernel writes a pointer and a size to the places given.
    Errno::result(unsafe { libc::syscall(libc::SYS_get_robust_list, 0, &raw mut head, &raw mut size) })?;
    Ok((head, size))
}

/// Gives a descriptor this number, where it stays open through exec: a standard stream's.
pub(crate) fn dup_onto(fd: OwnedFd, number: RawFd) -> nix::Result<()> {
    if fd.as_raw_fd() == number {
        let number = fd.into_raw_fd();
        // SAFETY: a command that takes a number.
        Errno::result(unsafe { libc::fcntl(number, libc::F_SETFD, 0) })?;
    } else {
        // SAFETY: takes two numbers. What was at the second one is a standard stream, which nobody owns.
        Errno::result(unsafe { libc::dup2(fd.as_raw_fd(), number) })?;
    }
    Ok(())
}

/// Has standard output and error go where standard input comes from, which is nowhere: so this process keeps nobody's pipe
/// open, and nothing else gets their numbers.
pub(crate) fn redirect_stdio_to_null() {
    for number in [libc::STDOUT_FILENO, libc::STDERR_FILENO] {
        // SAFETY: takes two numbers. Nobody owns a standard stream.
        unsafe { libc::dup2(libc::STDIN_FILENO, number) };
    }
}

/// Closes them, so that those which come next get their numbers.
pub(crate) fn close_stdio() {
    for number in [libc::STDOUT_FILENO, libc::STDERR_FILENO] {
        // SAFETY: takes a number. Nobody owns a standard stream, and who writes to one that is closed gets an error.
        unsafe { libc::close(number) };
    }
}

/// The same file under a number of at least 10, so that the lower ones are free.
pub(crate) fn dup_above_stdio(fd: BorrowedFd<'_>) -> nix::Result<OwnedFd> {
    // SAFETY: a command that takes a number.
    let copy = Errno::result(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 10) })?;
    // SAFETY: a new descriptor, ours alone.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}
