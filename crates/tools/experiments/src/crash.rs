//! Ways for a process to go down. Each is a task to be run in a child that may be lost: none of them returns.
//!
//! They leave nothing behind: no core file, and no message among the program's own output.

use std::fs::OpenOptions;
use std::hint::black_box;
use std::num::NonZeroUsize;
use std::thread;

use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};
use nix::sys::prctl::set_dumpable;
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::dup2_stderr;

/// Suppresses the core dump and the messages of this process, a child that is about to crash.
pub fn suppress_diagnostics() {
    // What fails here costs a file or a line of text, and the caller has nothing to lose.
    let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    let _ = set_dumpable(false); // where core files go to a program, the limit does not count
    if let Ok(null) = OpenOptions::new().write(true).open("/dev/null") {
        let _ = dup2_stderr(null);
    }
}

/// Reads memory that no one may read, as a stray pointer does: ends the process with SIGSEGV.
#[allow(unsafe_code)]
pub fn segfault() {
    suppress_diagnostics();
    // SAFETY: a new mapping at an address of the kernel's choice concerns no memory that is in use.
    let page =
        unsafe { mmap_anonymous(None, NonZeroUsize::MIN, ProtFlags::PROT_NONE, MapFlags::MAP_PRIVATE) };
    if let Ok(page) = page {
        // SAFETY: the address is aligned and mapped, and belongs to no Rust object. That the page may not be
        // read makes the CPU refuse, and the kernel send SIGSEGV, before there is a value.
        let _ = unsafe { page.cast::<u8>().as_ptr().read_volatile() };
    }
}

/// Ends the process with SIGABRT, as a failed assertion in a C library does.
pub fn abort() {
    suppress_diagnostics();
    std::process::abort();
}

/// Calls itself until the stack is full: Rust notices, and ends the process with SIGABRT.
pub fn overflow_stack() {
    suppress_diagnostics();
    // A thread's stack has a bound; that of the main thread may be unlimited.
    let thread = thread::Builder::new().stack_size(256 * 1024).spawn(|| deeper(0));
    let _ = thread.map(thread::JoinHandle::join);
}

/// Goes as deep as there are numbers.
fn deeper(depth: u64) -> u64 {
    if black_box(depth) == u64::MAX { 0 } else { black_box(deeper(depth + 1)) + 1 }
}
