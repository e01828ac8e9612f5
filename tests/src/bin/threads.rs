//! A program of whose processes each has a thread that it did not ask for: from before `init` on, or, in its
//! fork server, from some time after that, as the first argument says. Prints how children were started.

#![allow(clippy::unwrap_used, reason = "a fixture ends where something does not go as it should")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs::File;
use std::io::Write;
use std::os::unix::process::parent_id;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use multiproc::{Process, StartMethod};
use nix::libc;
use nix::unistd::dup2_raw;

/// An allocator that has a thread to tidy up, which it starts when it likes.
struct Allocator;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

static MAY_START: AtomicBool = AtomicBool::new(false);

/// The program opens this descriptor when the allocator of its fork server is to start its thread.
const SIGN: i32 = 100;

#[allow(unsafe_code)]
// SAFETY: every call goes to the system allocator.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if MAY_START.load(Ordering::Relaxed) && is_fork_server() && sign_is_given() {
            MAY_START.store(false, Ordering::Relaxed);
            let mut thread = 0;
            // SAFETY: the function may run in any thread.
            unsafe { libc::pthread_create(&raw mut thread, ptr::null(), sleep, ptr::null_mut()) };
        }
        // SAFETY: as the caller's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller's.
        unsafe { System.dealloc(pointer, layout) }
    }
}

extern "C" fn sleep(_: *mut libc::c_void) -> *mut libc::c_void {
    loop {
        nix::unistd::pause();
    }
}

/// The kernel's name of this thread, read without allocation.
#[allow(unsafe_code)]
fn is_fork_server() -> bool {
    let mut name = [0_u8; 16];
    // SAFETY: there is room for 16 bytes.
    unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
    name.starts_with(b"fork-server\0")
}

#[allow(unsafe_code)]
fn sign_is_given() -> bool {
    let mut path = [0_u8; 64]; // with a zero at its end
    write!(&mut path[..63], "/proc/{}/fd/{SIGN}", parent_id()).unwrap();
    // SAFETY: the path ends with a zero.
    unsafe { libc::access(path.as_ptr().cast(), libc::F_OK) == 0 }
}

#[allow(unsafe_code)]
fn give_sign() {
    let file = File::open("/dev/null").unwrap();
    // SAFETY: no value owns that number.
    let copy = unsafe { dup2_raw(&file, SIGN) };
    std::mem::forget(copy.unwrap());
}

/// Whether a child that is started now is executed, and not forked.
fn starts_by_executing() -> bool {
    let method = StartMethod::ForkServer;
    let child = Process::builder().start_method(method).spawn(|| tests::was_executed(std::process::id()), ());
    child.unwrap().join().unwrap()
}

fn has_fork_server() -> bool {
    tests::children_of(std::process::id()).iter().any(|(_, name)| name == "fork-server")
}

fn main() {
    let when = std::env::args().nth(1).unwrap();
    if when == "early" {
        thread::spawn(thread::park);
    }
    MAY_START.store(when == "late" && tests::is_started_by_itself(), Ordering::Relaxed);
    multiproc::init();
    tests::watched("threads", || {
        println!("{}", starts_by_executing());
        give_sign();
        // Children that were forked before are good, and are used first.
        let has_changed = (0..10).any(|_| starts_by_executing());
        println!("{has_changed}");
        println!("{}", (0..10).all(|_| starts_by_executing()));
        while has_changed && has_fork_server() {
            thread::yield_now();
        }
    });
}
