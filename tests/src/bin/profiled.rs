//! A program that stands in for one that was built with `-C instrument-coverage`: it has functions with the
//! names of the profiling runtime's. Each process that is forked must call them as the runtime expects it.

#![allow(clippy::unwrap_used, reason = "a fixture ends where something does not go as it should")]
#![allow(unsafe_code)]

use std::arch::global_asm;
use std::ffi::{CStr, c_char, c_int};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use multiproc::{Pool, Process, StartMethod};

static IS_RESET: AtomicBool = AtomicBool::new(false);
/// In which process the pattern was set last.
static NAMED_IN: AtomicU32 = AtomicU32::new(0);
static HAS_RUN: AtomicBool = AtomicBool::new(false);

// Weak, so that the real ones take their place where this program is built so.
global_asm!(
    ".weak __llvm_profile_reset_counters, __llvm_profile_set_filename, __llvm_profile_write_file",
    ".set __llvm_profile_reset_counters, {}",
    ".set __llvm_profile_set_filename, {}",
    ".set __llvm_profile_write_file, {}",
    sym reset_counters, sym set_filename, sym write_file,
);

extern "C" fn reset_counters() {
    IS_RESET.store(true, Ordering::Relaxed);
}

extern "C" fn set_filename(pattern: *const c_char) {
    // SAFETY: a string, where it is one.
    let is_ours = !pattern.is_null() && unsafe { CStr::from_ptr(pattern) } == c"tasks-%p.profraw";
    NAMED_IN.store(if is_ours { std::process::id() } else { 0 }, Ordering::Relaxed);
}

extern "C" fn write_file() -> c_int {
    let is_complete = IS_RESET.load(Ordering::Relaxed) && HAS_RUN.load(Ordering::Relaxed);
    println!("{} {} {is_complete}", std::process::id(), NAMED_IN.load(Ordering::Relaxed));
    0
}

fn task() -> u32 {
    HAS_RUN.store(true, Ordering::Relaxed);
    std::process::id()
}

/// Whether this program is built so.
fn has_the_real_ones() -> bool {
    unsafe extern "C" {
        fn __llvm_profile_write_file() -> c_int;
    }
    __llvm_profile_write_file as *const () != write_file as *const ()
}

fn main() {
    multiproc::init();
    if has_the_real_ones() {
        return println!("has the real ones");
    }
    tests::watched("profiled", || {
        let child = Process::builder().start_method(StartMethod::ForkServer).spawn(task, ()).unwrap();
        let pid = child.pid();
        child.join().unwrap();
        let pool = Pool::builder().workers(1).start_method(StartMethod::ForkServer).build().unwrap();
        let worker = pool.apply(task, ()).unwrap();
        pool.join();
        println!("{pid} {pid} true\n{worker} {worker} true");
    });
}
