//! Forks a process that was made to be forked (a zygote), with `clone3(2)`.
//!
//! Of its two threads one forks and the other is parked for good; neither is in the program's code. With
//! `CLONE_PARENT` the copy becomes the child of the zygote's *parent*. The C library's `fork` cannot ask for
//! that, so the system call is made directly, and what the C library would do beside it is done here.

use std::mem;
use std::ptr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
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

/// Which side of a fork this is.
pub(crate) enum Fork {
    Child,
    /// The zygote, and the child's pid.
    Zygote(u32),
}

/// The state that forks of this process need.
pub(crate) struct ZygoteForker {
    parent: i32,
    /// Where the C library keeps this thread's number, by which robust mutexes know their owner. In the child
    /// the kernel writes the child's there.
    tid: *mut libc::pid_t,
    /// The address and size of this thread's list of robust mutexes. It is empty.
    robust_list: (*const libc::c_void, usize),
}

const PR_GET_TID_ADDRESS: libc::c_int = 40;

/// Has a new thread call `serve`, which forks, and parks the calling thread, the first, for good. Returns
/// only if there can be no thread.
///
/// A child has a copy of the forking thread alone, as its first thread. This one has never run the program's
/// code, so thread-local state is fresh in a child: no thread-local random number generator is seeded yet,
/// whatever `main` did before `init`.
///
/// Blocks all signals: those that a terminal sends to all processes of a program are not meant for this one.
pub(crate) fn serve_on_fresh_thread(serve: impl FnOnce() + Send + 'static) -> Errno {
    let _ = SigSet::all().thread_set_mask(); // the new thread inherits it
    let first = tid_address().map_or(0, <*mut libc::pid_t>::expose_provenance);
    let serve = Arc::new(Mutex::new(Some(serve)));
    let mut stack = stack_limit();
    loop {
        STACK.store(stack as u64, Ordering::Relaxed);
        // A panic message in a child names the thread, which is the first there.
        let thread = thread::Builder::new().name("main".to_owned()).stack_size(stack);
        let serve = Arc::clone(&serve);
        let started = thread.spawn(move || {
            while IS_PARKED.load(Ordering::Acquire) == 0 {
                futex::wait(&IS_PARKED, 0, None);
            }
            forget_thread(first);
            let serve = serve.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(serve) = serve {
                serve();
            }
        });
        match started {
            Ok(thread) => break drop(thread),
            Err(_) if stack > MIN_STACK => stack = (stack / 2).max(MIN_STACK), // where memory is limited
            Err(error) => return error.raw_os_error().map_or(Errno::EAGAIN, Errno::from_raw),
        }
    }
    drop(serve);
    // From here on this thread holds no lock, such as the allocator's, and takes none.
    IS_PARKED.store(1, Ordering::Release);
    futex::wake_all(&IS_PARKED);
    loop {
        pause();
    }
}

/// Whether the first thread of this process is parked.
static IS_PARKED: AtomicU32 = AtomicU32::new(0);

/// The stack size in bytes of the forking thread, which becomes a child's first thread. It counts against
/// `RLIMIT_DATA`, unlike a stack that the kernel makes. 0 in an executed process.
pub(crate) fn forking_thread_stack_size() -> u64 {
    STACK.load(Ordering::Relaxed)
}

static STACK: AtomicU64 = AtomicU64::new(0);

/// Where memory is limited, a smaller stack than this is no better than an error.
const MIN_STACK: usize = 1 << 20;

/// The size that a program's first thread may have, at most 1 GiB. Only pages that are touched use memory, but all of
/// it counts against limits of the address space: without a limit of its own, it is at most a sixteenth of those, or
/// the usual 8 MiB.
fn stack_limit() -> usize {
    const MAX: u64 = 1 << 30;
    const USUAL: u64 = 8 << 20;
    let limit = |resource| getrlimit(resource).map_or(USUAL, |(soft, _)| soft);
    let memory = limit(Resource::RLIMIT_AS).min(limit(Resource::RLIMIT_DATA));
    let stack = match limit(Resource::RLIMIT_STACK) {
        stack if stack <= MAX => stack,
        _ => MAX.min((memory / 16).max(USUAL)),
    };
    usize::try_from(stack).unwrap_or(MIN_STACK)
}

/// Marks a thread as ended in the C library's list: children do not have it, and `setuid` in a child would
/// signal each listed thread and wait for it.
fn forget_thread(tid: usize) {
    if tid != 0 {
        // SAFETY: where the C library keeps the first thread's number (see [`tid_address`]). That thread is
        // parked, so no other code reads or writes it now.
        unsafe { ptr::with_exposed_provenance_mut::<libc::pid_t>(tid).write_volatile(0) };
    }
}

impl ZygoteForker {
    /// An error means that this kernel, or this process, cannot do it.
    pub(crate) fn new() -> nix::Result<Self> {
        check_threads()?;
        // SAFETY: with a size of 0, which is too small, the kernel refuses whatever the pointer is, by
        // EINVAL. A kernel or sandbox without the call answers otherwise.
        let probe = unsafe { libc::syscall(libc::SYS_clone3, ptr::null::<libc::clone_args>(), 0) };
        if Errno::result(probe) != Err(Errno::EINVAL) {
            return Err(Errno::ENOSYS);
        }
        Ok(Self { parent: getppid().as_raw(), tid: tid_address()?, robust_list: robust_list()? })
    }

    /// Forks. The kernel stores the child's pid in `pid_word` before the child runs: a process that shares
    /// the word knows of the child even if the zygote is killed in this call.
    pub(crate) fn fork(&self, pid_word: &AtomicU32) -> nix::Result<Fork> {
        if failpoint::should_fail(Failpoint::Fork) {
            return Err(Errno::EAGAIN);
        }
        check_threads()?; // each time, since a library can start one at any time
        let flags = libc::CLONE_PARENT
            | libc::CLONE_PARENT_SETTID
            | libc::CLONE_CHILD_SETTID
            | libc::CLONE_CHILD_CLEARTID;
        // SAFETY: all-zero bytes are valid clone_args. (CLONE_PARENT implies this process's exit signal.)
        let mut args: libc::clone_args = unsafe { mem::zeroed() };
        args.flags = u64::from(flags.cast_unsigned());
        args.parent_tid = pid_word.as_ptr().expose_provenance() as u64;
        args.child_tid = self.tid.expose_provenance() as u64;
        // Makes the page present: a process that is being killed gets none.
        pid_word.fetch_or(0, Ordering::Relaxed);
        // SAFETY: without CLONE_VM the child has a copy of all memory, this stack included, and returns here
        // as this process does. The only other thread is parked, so no lock is held and nothing is half done.
        // The kernel writes to two words that live.
        let result = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) };
        match Errno::result(result)? {
            0 => {
                self.begin_child();
                Ok(Fork::Child)
            }
            pid => Ok(Fork::Zygote(u32::try_from(pid).unwrap_or(0))),
        }
    }

    /// What a child does first. By bare system calls: each function of the C library lies in another page,
    /// and a page fault costs a child as much as ten system calls.
    fn begin_child(&self) {
        let (head, size) = self.robust_list;
        // SAFETY: what the C library had registered for this thread; the kernel only stores it.
        unsafe { libc::syscall(libc::SYS_set_robust_list, head, size) };
        let (kill, no_signals) = (libc::SIGKILL, 0_u64);
        // SAFETY: takes numbers. Before the check of the parent.
        let tied = unsafe { libc::syscall(libc::SYS_prctl, libc::PR_SET_PDEATHSIG, kill, 0, 0, 0) };
        // SAFETY: takes nothing.
        let parent = unsafe { libc::syscall(libc::SYS_getppid) };
        if tied != 0 || parent != libc::c_long::from(self.parent) {
            exit_immediately(1);
        }
        let (old, size) = (ptr::null_mut::<u64>(), size_of::<u64>());
        // SAFETY: the kernel reads a set of signals of its own size, and writes none back.
        unsafe {
            libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const no_signals, old, size)
        };
    }
}

/// An error if there is a third thread, which may hold any lock: started before `main`, before `init`, or
/// later by a library, such as an allocator with a background thread.
fn check_threads() -> nix::Result<()> {
    // A folder's link count is 2 plus its subfolders, here one for each of two threads.
    let has_two = stat("/proc/self/task").is_ok_and(|tasks| tasks.st_nlink == 4);
    if has_two { Ok(()) } else { Err(Errno::ENOSYS) }
}

/// Where the C library keeps the calling thread's number, if the kernel clears that word at the thread's end.
fn tid_address() -> nix::Result<*mut libc::pid_t> {
    let mut address: *mut libc::pid_t = ptr::null_mut();
    // SAFETY: the kernel writes one pointer to the variable.
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
    // SAFETY: the kernel writes a pointer and a size to the variables.
    Errno::result(unsafe { libc::syscall(libc::SYS_get_robust_list, 0, &raw mut head, &raw mut size) })?;
    Ok((head, size))
}
