//! Functions that crash, each by a line that ends with a comment.

use std::arch::asm;
use std::hint::black_box;
use std::num::NonZero;

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// Reads a byte three functions further down.
#[inline(never)]
pub fn first_level(address: usize) -> u8 {
    black_box(second_level(black_box(address))).wrapping_add(1) // calls the second
}

#[inline(never)]
fn second_level(address: usize) -> u8 {
    black_box(third_level(black_box(address))).wrapping_add(1) // calls the third
}

#[inline(never)]
fn third_level(address: usize) -> u8 {
    black_box(dereference(black_box(address))).wrapping_add(1) // reads
}

/// Calls itself until there is no stack left.
#[inline(never)]
pub fn overflow_the_stack(depth: u64) -> u64 {
    let block = black_box([depth; 100]);
    if depth == u64::MAX {
        return 0;
    }
    black_box(overflow_the_stack(depth + 1)) // goes deeper
        + block[usize::try_from(depth % 100).unwrap_or(0)]
}

/// Has no result.
pub fn ignore<T>(_: T) {}

/// Reads a byte where there may be no memory.
#[inline(never)]
#[allow(unsafe_code)]
pub fn dereference(address: usize) -> u8 {
    // SAFETY: none. It is to crash.
    unsafe { std::ptr::with_exposed_provenance::<u8>(address).read_volatile() } // the fault
}

/// Has a C function abort, if the number is 7.
#[allow(unsafe_code)]
pub fn abort_in_c(number: i32) {
    unsafe extern "C" {
        #[link_name = "abort_in_c"]
        fn in_c(number: i32);
    }
    // SAFETY: takes a number.
    unsafe { in_c(number) }; // calls C
    black_box(number); // optimised code would have C return to the caller of this function
}

/// Reads a page that its file does not have: SIGBUS.
#[inline(never)]
#[allow(unsafe_code)]
pub fn read_behind_a_file() -> u8 {
    let file = memfd_create(c"empty", MFdFlags::MFD_CLOEXEC).unwrap();
    let (size, flags) = (NonZero::new(4096).unwrap(), MapFlags::MAP_PRIVATE);
    // SAFETY: memory that nothing else uses.
    let page = unsafe { mmap(None, size, ProtFlags::PROT_READ, flags, &file, 0) }.unwrap();
    black_box(dereference(page.addr().get()))
}

/// Executes an instruction that there is not: SIGILL.
#[inline(never)]
#[allow(unsafe_code)]
pub fn execute_an_illegal_instruction() {
    // SAFETY: none. It is to crash.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        asm!("ud2");
    }
    // SAFETY: none. It is to crash.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        asm!("udf #0");
    }
    black_box(()); // the function is still there
}

/// Divides by zero: SIGFPE. (On aarch64 that gives zero.)
#[inline(never)]
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
pub fn divide_by_zero(number: u32) -> u32 {
    let mut result = number;
    // SAFETY: none. It is to crash.
    unsafe { asm!("div {zero:e}", zero = in(reg) 0, inout("eax") result, inout("edx") 0 => _) };
    result
}

/// Reads a byte where there is no memory, with a stack that is none, or that has no return addresses.
#[allow(unsafe_code)]
pub fn read_with_stack(stack: usize, address: usize) {
    unsafe extern "C" {
        fn read_with_stack_pointer(stack: usize, address: usize);
    }
    // SAFETY: none. It is to crash.
    unsafe { read_with_stack_pointer(stack, address) };
}

/// The address of the instruction of [`read_with_stack`] that reads.
#[allow(unsafe_code)]
pub fn reading_instruction() -> usize {
    unsafe extern "C" {
        static reading_instruction: u8;
    }
    (&raw const reading_instruction).addr()
}

#[allow(unsafe_code)]
mod assembly {
    use std::arch::global_asm;

    #[cfg(target_arch = "x86_64")]
    global_asm!(
        ".text",
        ".globl read_with_stack_pointer, reading_instruction",
        "read_with_stack_pointer:",
        ".cfi_startproc",
        "mov rsp, rdi",
        "reading_instruction:",
        "mov al, [rsi]",
        "ud2",
        ".cfi_endproc",
    );

    #[cfg(target_arch = "aarch64")]
    global_asm!(
        ".text",
        ".globl read_with_stack_pointer",
        ".globl reading_instruction",
        "read_with_stack_pointer:",
        ".cfi_startproc",
        "mov sp, x0",
        "reading_instruction:",
        "ldrb w0, [x1]",
        "udf #0",
        ".cfi_endproc",
    );
}

/// Calls a function by a null pointer.
#[inline(never)]
#[allow(unsafe_code)]
pub fn call_a_null_function() {
    // SAFETY: none. It is to crash.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        asm!("call {function}", function = in(reg) 0_usize, clobber_abi("C"));
    }
    // SAFETY: none. It is to crash.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        asm!("blr {function}", function = in(reg) 0_usize, clobber_abi("C"));
    }
    black_box(()); // the function is still there
}

/// From now on this signal crashes the process.
#[allow(unsafe_code)]
pub fn crash_on(signal: Signal) {
    extern "C" fn crashing_handler(_signal: i32) {
        black_box(dereference(8));
    }
    let action = SigAction::new(SigHandler::Handler(crashing_handler), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler is to crash.
    unsafe { sigaction(signal, &action) }.unwrap();
}
