//! A program that handles, or ignores, the signals of crashes before `init`, as its argument says. Prints what
//! becomes of a task by each start method.

#![allow(clippy::unwrap_used, reason = "a fixture ends where something does not go as it should")]

use std::env;
use std::ffi::c_void;
use std::num::NonZero;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicUsize, Ordering};

use multiproc::{Connection, Process, RemoteFn, StartMethod, pipe};
use nix::libc::siginfo_t;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, mprotect};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, raise, sigaction};
use tests::crashes::{dereference, first_level};

const PAGE: usize = 4096;
const SIGNALS: [Signal; 5] =
    [Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGILL, Signal::SIGFPE, Signal::SIGABRT];

fn main() {
    let case = env::args().nth(1).unwrap();
    match &case[..] {
        "repair" | "repair and die" | "repair and stay" | "repair the stack" | "repair the stack and die" => {
            set_action(Signal::SIGSEGV, SigHandler::Handler(repair));
        }
        "repair by information" => set_action(Signal::SIGSEGV, SigHandler::SigAction(repair_by_information)),
        "default" => set_action(Signal::SIGSEGV, SigHandler::Handler(take_default)),
        "ignore" => SIGNALS.into_iter().for_each(|signal| set_action(signal, SigHandler::SigIgn)),
        _ => panic!("no case {case}"),
    }
    multiproc::init();
    tests::watched("signal_handlers", || match &case[..] {
        "ignore" => print_each(raise_all),
        "default" => print_each(|| usize::from(first_level(16))),
        "repair and die" => print_each(|| read_two_pages() + raise(Signal::SIGKILL).map_or(0, |()| 0)),
        "repair and stay" => print_each(|| {
            block_exit();
            read_two_pages()
        }),
        "repair the stack" => print_joined_late(repair_and_tell),
        "repair the stack and die" => print_joined_late(repair_tell_and_die),
        _ => print_each(read_two_pages),
    });
}

const METHODS: [StartMethod; 2] = [StartMethod::ForkServer, StartMethod::Spawn];

fn print_each<F: RemoteFn<(), Output = usize> + Copy>(task: F) {
    for method in METHODS {
        print(Process::builder().start_method(method).spawn(task, ()).unwrap());
    }
}

fn repair_and_tell(over: Connection<(), ()>) -> usize {
    let count = read_pages_of_the_stack();
    over.send(()).unwrap();
    count
}

fn repair_tell_and_die(over: Connection<(), ()>) -> usize {
    repair_and_tell(over);
    std::process::abort()
}

/// Nothing reads what the child sends to its parent before all faults are over.
fn print_joined_late<F: RemoteFn<(Connection<(), ()>,), Output = usize>>(task: F) {
    for method in METHODS {
        let (here, there) = pipe().unwrap();
        let child = Process::builder().start_method(method).spawn(task, (there,)).unwrap();
        here.recv().unwrap();
        print(child);
    }
}

fn print(child: Process<usize>) {
    match child.join() {
        Ok(number) => println!("returned {number}"),
        Err(error) => println!("{}", format!("{error:#}").replace('\n', " ")),
    }
}

#[allow(unsafe_code)]
fn set_action(signal: Signal, handler: SigHandler) {
    let action = SigAction::new(handler, SaFlags::empty(), SigSet::empty());
    // SAFETY: the handlers only make system calls and touch an atomic.
    unsafe { sigaction(signal, &action) }.unwrap();
}

/// A process that runs its exit handlers does not end.
#[allow(unsafe_code)]
fn block_exit() {
    extern "C" fn block() {
        loop {
            std::thread::park();
        }
    }
    // SAFETY: a function that never returns is called by no one but `exit`.
    assert_eq!(unsafe { nix::libc::atexit(block) }, 0);
}

/// Sends itself all the signals, and counts them.
fn raise_all() -> usize {
    SIGNALS.map(|signal| raise(signal).unwrap()).len()
}

/// The page that is read next.
static NEXT: AtomicUsize = AtomicUsize::new(0);

/// Reads two pages that cannot be read, one after the other, and counts them.
#[allow(unsafe_code)]
fn read_two_pages() -> usize {
    let size = NonZero::new(2 * PAGE).unwrap();
    // SAFETY: memory that nothing else uses.
    let pages = unsafe { mmap_anonymous(None, size, ProtFlags::PROT_NONE, MapFlags::MAP_PRIVATE) }.unwrap();
    let start = pages.expose_provenance().get();
    let pages = [start, start + PAGE].map(|page| {
        NEXT.store(page, Ordering::SeqCst);
        usize::from(dereference(page) == 0)
    });
    pages.iter().sum()
}

/// Reads a page of the stack two hundred times, each time after it was made unreadable, as a fault of an overflow is.
#[allow(unsafe_code)]
fn read_pages_of_the_stack() -> usize {
    let mut pages = [0_u8; 3 * PAGE];
    let page = pages.as_mut_ptr().expose_provenance().next_multiple_of(PAGE);
    let start = NonNull::new(ptr::with_exposed_provenance_mut(page)).unwrap();
    NEXT.store(page, Ordering::SeqCst);
    let times = (0..200).filter(|_| {
        // SAFETY: a whole page inside of the array, which is read below, when the handler has made it readable.
        unsafe { mprotect(start, PAGE, ProtFlags::PROT_NONE) }.unwrap();
        dereference(page) == 0
    });
    let count = times.count();
    // SAFETY: as above.
    unsafe { mprotect(start, PAGE, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE) }.unwrap();
    count
}

extern "C" fn repair(_signal: i32) {
    make_readable(NEXT.load(Ordering::SeqCst));
}

#[allow(unsafe_code)]
extern "C" fn repair_by_information(_signal: i32, information: *mut siginfo_t, _context: *mut c_void) {
    // SAFETY: the kernel has given the pointer.
    let information = unsafe { &*information };
    // SAFETY: it is that of a fault.
    make_readable(unsafe { information.si_addr() }.addr());
}

#[allow(unsafe_code)]
fn make_readable(page: usize) {
    let page = NonNull::new(ptr::with_exposed_provenance_mut(page)).unwrap();
    // SAFETY: one of the pages of `read_two_pages`.
    unsafe { mprotect(page, PAGE, ProtFlags::PROT_READ) }.unwrap();
}

extern "C" fn take_default(signal: i32) {
    set_action(Signal::try_from(signal).unwrap(), SigHandler::SigDfl);
}
