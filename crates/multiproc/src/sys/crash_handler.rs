//! The crash report of a child: registers, the top of the stack and what is mapped where, sent over the start
//! socket. The parent makes frames of them (see [`crate::Backtrace`]).
//!
//! The handler makes system calls and nothing else, so it can run at any instruction: it takes no lock,
//! allocates nothing, and unwinds nothing. A fault within it ends the process at once.

use std::cell::UnsafeCell;
use std::ffi::{c_int, c_void};
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64};

use nix::libc::{self, sigaction, siginfo_t};

use crate::error::crash_report::{CRASHED, REGISTERS, STACK_POINTER};

/// The first bytes of the packet. They say that it is one packet, and a crash report.
const KIND: [u8; 8] = [0, CRASHED, 0, 0, 0, 0, 0, 0];

/// What is sent first; the stack and the mappings follow it.
#[repr(C)]
struct Header {
    kind: [u8; 8],
    signal: u64,
    /// Whether the kernel has told the address.
    has_address: u64,
    address: u64,
    stack_start: u64,
    stack_len: u64,
    registers: [u64; REGISTERS],
}

const SIGNALS: [c_int; 5] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGABRT];
const PAGE: usize = 4096;
/// The most pages of the stack in a report. With the mappings it is a packet that the parent receives (32 KiB).
const STACK_PAGES: usize = 6;
/// The most bytes of mappings that are read, and that are sent.
const MAPS_READ: usize = 128 * 1024;
const MAPS_SENT: usize = 7 * 1024;
/// The code of a signal of the kernel's that has no better one.
const SI_KERNEL: c_int = 0x80;
/// A fault so close to the stack pointer is a stack overflow.
const NEAR_STACK: u64 = 64 * 1024;

/// Memory that one thread uses at a time: at first the one that installs the handlers, later the one that reports.
struct Exclusive<T>(UnsafeCell<T>);
// SAFETY: see the type; `IS_REPORTED` decides which thread reports.
unsafe impl<T> Sync for Exclusive<T> {}

/// What the program, or the standard library, does on each of the signals.
static PREVIOUS: Exclusive<[MaybeUninit<sigaction>; SIGNALS.len()]> =
    Exclusive(UnsafeCell::new([MaybeUninit::uninit(); SIGNALS.len()]));
static MAPS: Exclusive<[u8; MAPS_READ]> = Exclusive(UnsafeCell::new([0; MAPS_READ]));
/// No page of it exists before the first crash. (The standard library's is too small for two handlers.)
static ALTERNATE_STACK: Exclusive<[u8; 64 * 1024]> = Exclusive(UnsafeCell::new([0; 64 * 1024]));

/// A report was begun, and it was sent.
static IS_REPORTED: AtomicBool = AtomicBool::new(false);
static IS_SENT: AtomicBool = AtomicBool::new(false);
/// A handler of the program has dealt with a fault.
static PROGRAM_HANDLES_FAULTS: AtomicBool = AtomicBool::new(false);
/// The start socket, once it is set.
///
/// One value, of zeroes: each page that a forked child writes first costs a page fault while the parent waits.
static START_SOCKET: StartSocket =
    StartSocket { owner: AtomicI32::new(0), fd: AtomicI32::new(0), inode: AtomicU64::new(0) };

struct StartSocket {
    /// The process that it belongs to; the program may have forked it. No process is 0.
    owner: AtomicI32,
    fd: AtomicI32,
    /// It tells the socket from another file with its descriptor.
    inode: AtomicU64,
}

/// Installs the handlers in this process, and so in those that it forks. They report nothing before
/// [`report_to`]. What the program ignores stays ignored; what it handles, it handles first.
pub(crate) fn install_handlers() {
    use_alternate_stack();
    for (index, signal) in SIGNALS.into_iter().enumerate() {
        let mut previous = MaybeUninit::<sigaction>::uninit();
        // SAFETY: the kernel writes the action.
        if unsafe { sigaction(signal, ptr::null(), previous.as_mut_ptr()) } != 0 {
            continue;
        }
        // SAFETY: the call has succeeded.
        let mut action = unsafe { previous.assume_init() };
        if action.sa_sigaction == libc::SIG_IGN {
            continue;
        }
        // SAFETY: only this thread runs, or none that could crash into a handler that is not installed yet.
        unsafe { (*PREVIOUS.0.get())[index] = previous };
        action.sa_sigaction = handler_address();
        action.sa_flags |= libc::SA_SIGINFO | libc::SA_ONSTACK;
        // SAFETY: the handler is async-signal-safe.
        unsafe { sigaction(signal, &raw const action, ptr::null_mut()) };
    }
}

/// Has the calling thread run its handlers on a stack that is large enough. For the first thread, and for the
/// one that a zygote forks from.
pub(crate) fn use_alternate_stack() {
    let size = size_of_val(&ALTERNATE_STACK);
    let stack = libc::stack_t { ss_sp: ALTERNATE_STACK.0.get().cast(), ss_flags: 0, ss_size: size };
    // SAFETY: memory that nothing else uses, and that lives as long as the process.
    unsafe { libc::sigaltstack(&raw const stack, ptr::null_mut()) };
}

/// From now on this process reports a crash over its start socket, which it keeps open.
pub(crate) fn report_to(link: BorrowedFd<'_>) {
    START_SOCKET.inode.store(inode(link.as_raw_fd()).unwrap_or(0), Relaxed);
    START_SOCKET.fd.store(link.as_raw_fd(), Relaxed);
    START_SOCKET.owner.store(own_pid(), Relaxed);
}

fn handler_address() -> usize {
    (on_crash as extern "C" fn(c_int, *mut siginfo_t, *mut c_void)) as *const () as usize
}

extern "C" fn on_crash(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel has given the pointer.
    let what = unsafe { &*info };
    // SAFETY: all bytes of the structure are set.
    let (address, was_sent) = (unsafe { what.si_addr() }.addr() as u64, what.si_code <= 0);
    // For an address that is not canonical, x86 does not say which it was.
    let address = (!was_sent && what.si_code != SI_KERNEL).then_some(address);
    // SAFETY: as above.
    let registers = unsafe { registers(context.cast()) };
    let pointer = registers[STACK_POINTER];
    let is_overflow = address.is_some_and(|address| address.abs_diff(pointer) < NEAR_STACK);
    let previous = previous(signal).filter(|action| action.sa_sigaction != libc::SIG_DFL);
    if let Some(previous) = previous {
        // First, since the standard library's handler takes the default action: then another thread's crash ends
        // the process. A program whose handler deals with faults sends one report in vain.
        let has_reported = (is_overflow || !PROGRAM_HANDLES_FAULTS.load(Relaxed))
            && report(signal, address, registers, false);
        let reports_aborts = current_action(libc::SIGABRT) == Some(handler_address());
        if is_overflow {
            // The standard library now says so, and aborts. The stack may be too small for one more handler.
            set_default(libc::SIGABRT);
        }
        // SAFETY: what the program has installed for this signal, with the arguments that it expects.
        unsafe { call(&previous, signal, info, context) };
        if current_action(signal) != Some(libc::SIG_DFL) {
            if is_overflow && reports_aborts {
                set_action(libc::SIGABRT, handler_address());
            }
            if has_reported {
                withdraw_report();
            }
            return; // the program has dealt with it
        }
        set_action(signal, handler_address()); // another thread's crash must not end the process yet
    }
    report(signal, address, registers, true);
    set_default(signal);
    if was_sent {
        // SAFETY: takes a number. The signal is blocked, and comes when this handler returns.
        unsafe { libc::raise(signal) };
    } // else the instruction faults once more
}

/// Calls a handler as the kernel would.
///
/// # Safety
/// `action` must be a handler, and the pointers those that the kernel has given for this signal.
unsafe fn call(action: &sigaction, signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    if action.sa_flags & libc::SA_SIGINFO != 0 {
        // SAFETY: with this flag it is a function of three parameters.
        let handler = unsafe {
            mem::transmute::<usize, extern "C" fn(c_int, *mut siginfo_t, *mut c_void)>(action.sa_sigaction)
        };
        handler(signal, info, context);
    } else {
        // SAFETY: without the flag it is a function of one.
        let handler = unsafe { mem::transmute::<usize, extern "C" fn(c_int)>(action.sa_sigaction) };
        handler(signal);
    }
}

fn previous(signal: c_int) -> Option<sigaction> {
    let index = SIGNALS.iter().position(|&other| other == signal)?;
    // SAFETY: written before the handler was installed, and never after.
    let all = unsafe { &*PREVIOUS.0.get() };
    // SAFETY: this handler was installed for the signal, so it was written.
    all.get(index).map(|action| unsafe { action.assume_init() })
}

fn current_action(signal: c_int) -> Option<usize> {
    let mut action = MaybeUninit::<sigaction>::uninit();
    // SAFETY: the kernel writes the action.
    let result = unsafe { sigaction(signal, ptr::null(), action.as_mut_ptr()) };
    // SAFETY: written, if the call has succeeded.
    (result == 0).then(|| unsafe { action.assume_init() }.sa_sigaction)
}

fn set_default(signal: c_int) {
    set_action(signal, libc::SIG_DFL);
}

/// `handler` is [`handler_address`] or the default.
fn set_action(signal: c_int, handler: usize) {
    // SAFETY: all-zero bytes are a valid action, the default one.
    let mut action: sigaction = unsafe { mem::zeroed() };
    (action.sa_sigaction, action.sa_flags) = (handler, libc::SA_SIGINFO | libc::SA_ONSTACK);
    // SAFETY: the handler is async-signal-safe.
    unsafe { sigaction(signal, &raw const action, ptr::null_mut()) };
}

/// Sends a report, if there is a parent for it, and none was sent; returns whether it has. The process sends nothing
/// after the `last` one.
fn report(signal: c_int, address: Option<u64>, registers: [u64; REGISTERS], is_last: bool) -> bool {
    let link = START_SOCKET.fd.load(Relaxed);
    let is_ours = own_pid() == START_SOCKET.owner.load(Relaxed);
    if !is_ours || inode(link) != Some(START_SOCKET.inode.load(Relaxed)) {
        return false;
    }
    if IS_REPORTED.swap(true, Acquire) {
        wait_for_report();
        return false;
    }
    if !has_room(link, is_last) {
        IS_REPORTED.store(false, Release);
        return false;
    }
    send_report(link, signal, address, registers);
    IS_SENT.store(true, Relaxed);
    true
}

/// Whether the socket has room for one more report, and, unless it is the last one, for what follows. Once a send has
/// found it full, the kernel signals that there is room again: by SIGKILL, see `parent_death`.
fn has_room(link: c_int, is_last: bool) -> bool {
    const REPORT: c_int = 40 * 1024; // the largest one as the kernel counts it
    let (mut waiting, mut size): (c_int, c_int) = (0, 0);
    let mut length: libc::socklen_t = 4; // of `size`
    // SAFETY: the kernel writes a number.
    let has_waiting = unsafe { libc::ioctl(link, libc::TIOCOUTQ, &raw mut waiting) } == 0;
    let size_pointer = (&raw mut size).cast();
    // SAFETY: as above, and its length.
    let has_size =
        unsafe { libc::getsockopt(link, libc::SOL_SOCKET, libc::SO_SNDBUF, size_pointer, &raw mut length) }
            == 0;
    let room = if is_last { size } else { size / 2 };
    has_waiting && has_size && waiting.saturating_add(REPORT) <= room
}

/// The program's handler has dealt with the fault that was reported. Sends a report without its content, which
/// the parent puts in place of the first one and ignores.
fn withdraw_report() {
    PROGRAM_HANDLES_FAULTS.store(true, Relaxed);
    send(START_SOCKET.fd.load(Relaxed), &[part(KIND.as_ptr(), KIND.len())]);
    IS_SENT.store(false, Relaxed);
    IS_REPORTED.store(false, Release);
}

/// Another thread has crashed before: lets it finish its report, unless it cannot.
fn wait_for_report() {
    let millisecond = libc::timespec { tv_sec: 0, tv_nsec: 1_000_000 };
    for _ in 0..100 {
        if IS_SENT.load(Relaxed) {
            return;
        }
        // SAFETY: reads the time, and writes nothing back.
        unsafe { libc::nanosleep(&raw const millisecond, ptr::null_mut()) };
    }
}

fn send_report(link: c_int, signal: c_int, address: Option<u64>, registers: [u64; REGISTERS]) {
    // SAFETY: only the thread comes here that has set `IS_REPORTED`.
    let maps = code_mappings(unsafe { &mut *MAPS.0.get() });
    let signal = u64::from(signal.cast_unsigned());
    let (has_address, address) = (address.is_some().into(), address.unwrap_or(0));
    let (stack_start, stack_len) = (0, 0);
    let mut header = Header { kind: KIND, signal, has_address, address, stack_start, stack_len, registers };
    let pointer = usize::try_from(registers[STACK_POINTER]).unwrap_or(0);
    // After an overflow the first page, or the first two, are not there.
    let next = pointer.saturating_add(PAGE) & !(PAGE - 1);
    for start in [pointer, next, next.saturating_add(PAGE)] {
        let rest = PAGE - start % PAGE;
        for pages in (0..STACK_PAGES).rev() {
            let length = rest + pages * PAGE;
            (header.stack_start, header.stack_len) = (start as u64, length as u64);
            if send_parts(link, &header, maps) {
                return;
            }
        }
    }
    header.stack_len = 0;
    send_parts(link, &header, maps);
}

/// Returns `false` if a report with less of the stack can succeed.
fn send_parts(link: c_int, header: &Header, maps: &[u8]) -> bool {
    let number = |word| usize::try_from(word).unwrap_or(0);
    let stack = part(ptr::without_provenance::<u8>(number(header.stack_start)), number(header.stack_len));
    send(link, &[part(ptr::from_ref(header), size_of::<Header>()), stack, part(maps.as_ptr(), maps.len())])
}

fn part<T>(base: *const T, length: usize) -> libc::iovec {
    libc::iovec { iov_base: base.cast_mut().cast(), iov_len: length }
}

/// Returns `false` if the packet is too long, or not all of it is mapped.
fn send(link: c_int, parts: &[libc::iovec]) -> bool {
    // SAFETY: all-zero bytes are a message without anything.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = parts.as_ptr().cast_mut();
    message.msg_iovlen = parts.len() as _;
    // SAFETY: the kernel only reads. Where the stack is not mapped it says so, and sends nothing.
    let sent = unsafe { libc::sendmsg(link, &raw const message, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) };
    sent >= 0 || !matches!(nix::errno::Errno::last_raw(), libc::EFAULT | libc::EMSGSIZE)
}

/// The lines of `/proc/self/maps` about code.
fn code_mappings(buffer: &mut [u8]) -> &[u8] {
    let filled = read_maps(buffer);
    let (mut from, mut kept) = (0, 0);
    while let Some(length) = buffer.get(from..filled).and_then(|rest| rest.iter().position(|&b| b == b'\n')) {
        let until = from + length + 1;
        let is_code = buffer
            .get(from..until)
            .is_some_and(|line| line.windows(6).any(|word| word == b" r-xp ") && line.contains(&b'/'));
        if is_code && kept + until - from <= MAPS_SENT {
            buffer.copy_within(from..until, kept);
            kept += until - from;
        }
        from = until;
    }
    buffer.get(..kept).unwrap_or_default()
}

fn read_maps(buffer: &mut [u8]) -> usize {
    // SAFETY: the path ends in a zero.
    let file = unsafe { libc::open(c"/proc/thread-self/maps".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
    let mut filled = 0;
    while let Some(free) = buffer.get_mut(filled..).filter(|free| file >= 0 && !free.is_empty()) {
        // SAFETY: the kernel writes into the slice.
        let length = unsafe { libc::read(file, free.as_mut_ptr().cast(), free.len()) };
        match usize::try_from(length) {
            Ok(length) if length > 0 => filled += length,
            _ => break,
        }
    }
    // SAFETY: opened above, if at all.
    unsafe { libc::close(file) };
    filled
}

fn inode(descriptor: c_int) -> Option<u64> {
    let mut stat = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: the kernel writes the structure.
    let result = unsafe { libc::fstat(descriptor, stat.as_mut_ptr()) };
    // SAFETY: written, if the call has succeeded.
    (result == 0).then(|| unsafe { stat.assume_init() }.st_ino)
}

fn own_pid() -> c_int {
    super::process::own_pid().cast_signed()
}

/// # Safety
/// `context` must be the kernel's.
#[cfg(target_arch = "x86_64")]
unsafe fn registers(context: *const libc::ucontext_t) -> [u64; REGISTERS] {
    use libc::{
        REG_R8, REG_R9, REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15, REG_RAX, REG_RBP, REG_RBX,
        REG_RCX, REG_RDI, REG_RDX, REG_RIP, REG_RSI, REG_RSP,
    };
    let order = [
        REG_RAX, REG_RDX, REG_RCX, REG_RBX, REG_RSI, REG_RDI, REG_RBP, REG_RSP, REG_R8, REG_R9, REG_R10,
        REG_R11, REG_R12, REG_R13, REG_R14, REG_R15, REG_RIP,
    ];
    // SAFETY: the caller's promise.
    let saved = unsafe { &(*context).uc_mcontext.gregs };
    order.map(|at| saved.get(at.cast_unsigned() as usize).map_or(0, |value| value.cast_unsigned()))
}

/// # Safety
/// `context` must be the kernel's.
#[cfg(target_arch = "aarch64")]
unsafe fn registers(context: *const libc::ucontext_t) -> [u64; REGISTERS] {
    // SAFETY: the caller's promise.
    let saved = unsafe { &(*context).uc_mcontext };
    let mut registers = [0; REGISTERS];
    registers[..31].copy_from_slice(&saved.regs);
    (registers[31], registers[32]) = (saved.sp, saved.pc);
    registers
}
