//! Helpers of the behaviour tests and their fixture programs.

#![allow(clippy::unwrap_used, reason = "a test ends where something does not go as it should")]

pub mod corrupter;
pub mod crashes;
pub mod mappings;

use std::ffi::CStr;
use std::fs;
use std::future::poll_fn;
use std::io::{Write, stderr};
use std::os::fd::AsRawFd;
use std::os::unix::process::parent_id;
use std::pin::pin;
use std::process::abort;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use multiproc::{Connection, Process, StartMethod};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::time::TimeValLike;
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, fork};

/// A test, or a part of it, cannot run here: it says so and passes, but fails if the variable
/// `MULTIPROC_TEST_ALL` is set.
pub fn cannot_run(why: &str) {
    println!("skipped: {why}");
    assert!(std::env::var_os("MULTIPROC_TEST_ALL").is_none(), "`MULTIPROC_TEST_ALL` is set: {why}");
}

/// How long a whole test or fixture program may take. It measures nothing: it turns a hang into a
/// failure.
const LIMIT: Duration = Duration::from_secs(180);

/// Runs `test`; ends the whole program, naming the test, when that takes too long.
pub fn watched<T>(name: &str, test: impl FnOnce() -> T) -> T {
    watched_for(LIMIT, name, test)
}

/// As [`watched`], with another limit.
pub fn watched_for<T>(limit: Duration, name: &str, test: impl FnOnce() -> T) -> T {
    let running = start_watch(limit, name);
    let result = test();
    drop(running); // a panic does so, too
    result
}

/// Compiled once, unlike what is generic.
fn start_watch(limit: Duration, name: &str) -> mpsc::Sender<()> {
    let (running, watch) = mpsc::channel();
    let message = format!("{name} still runs after {} s: aborting", limit.as_secs());
    thread::spawn(move || {
        if watch.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
            let _ = writeln!(stderr(), "{message}"); // stderr may be closed
            abort();
        }
    });
    running
}

/// Awaits the future; returns the CPU time that this process takes from the first poll that finds it pending.
/// At that poll it sends a message.
pub async fn cpu_time_of_wait(future: impl Future, waits: Connection<(), ()>) -> Duration {
    let mut future = pin!(future);
    let mut begun = None;
    poll_fn(|context| {
        let polled = future.as_mut().poll(context);
        if polled.is_pending() && begun.is_none() {
            begun = Some(cpu_time());
            waits.send(()).unwrap();
        }
        polled.map(drop)
    })
    .await;
    cpu_time().saturating_sub(begun.unwrap())
}

/// The CPU time that this process has taken. The kernel divides it among user and system by sampling, but the
/// sum is exact.
pub fn cpu_time() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    let time = usage.user_time() + usage.system_time();
    Duration::from_micros(time.num_microseconds().cast_unsigned())
}

/// Lets a child wait for a second by [`cpu_time_of_wait`], and ends its wait; it has taken almost no CPU time.
pub fn assert_wait_is_idle<T>(child: Process<Duration>, waits: Connection<(), ()>, end: impl FnOnce() -> T) {
    waits.recv().unwrap();
    thread::sleep(Duration::from_secs(1)); // what is measured
    end();
    let time = child.join().unwrap();
    // To begin to wait and to be woken takes 1 ms, and 1.5 ms with ten such children on two cores.
    assert!(time < Duration::from_millis(10), "{time:?} of CPU time in a second of waiting");
}

/// Starts a child by each method, and prints its result or error.
pub fn start_by_each_method() {
    for method in [StartMethod::ForkServer, StartMethod::Spawn] {
        let child = Process::builder().start_method(method).spawn(|| "a child ran".to_owned(), ());
        println!("{}", child.and_then(Process::join).unwrap_or_else(|error| error.to_string()));
    }
}

/// Is this process a child of the program that it runs itself? Can be told before `init` was called.
pub fn is_started_by_itself() -> bool {
    let parents_program = fs::read_link(format!("/proc/{}/exe", parent_id()));
    parents_program.is_ok_and(|program| program == fs::read_link("/proc/self/exe").unwrap())
}

/// The processes that a process has started, zombies included, and what they are
/// called.
pub fn children_of(pid: u32) -> Vec<(u32, String)> {
    // Threads and children may end meanwhile.
    let read = |path: String| fs::read_to_string(path).unwrap_or_default();
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap().map(|entry| entry.unwrap().path());
    let lists: Vec<String> = threads.map(|path| read(format!("{}/children", path.display()))).collect();
    let pids = lists.iter().flat_map(|list| list.split_whitespace()).map(|pid| pid.parse().unwrap());
    pids.map(|pid: u32| (pid, read(format!("/proc/{pid}/comm")).trim_end().to_owned())).collect()
}

/// Whether that child lives and waits for something to do: the fork server has forked it before it is needed.
/// Until such a one knows its own name it has the fork server's; but it has not been executed.
pub fn is_preforked(pid: u32, name: &str) -> bool {
    let lives = stat_of(pid).first().is_some_and(|state| state != "Z");
    lives && (name == "mp-preforked" || name == "fork-server" && !was_executed(pid))
}

/// Whether that process has executed a program since it was forked; dead or alive.
pub fn was_executed(pid: u32) -> bool {
    const PF_FORKNOEXEC: u32 = 0x40; // see proc_pid_stat(5), `flags`
    let flags = stat_of(pid).get(6).and_then(|flags| flags.parse::<u32>().ok());
    flags.is_some_and(|flags| flags & PF_FORKNOEXEC == 0)
}

/// The fields of /proc/PID/stat behind the process's name.
fn stat_of(pid: u32) -> Vec<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split_whitespace().map(str::to_owned).collect()
}

/// Forks. In the copy it returns false at once; in the original true, once the copy has ended.
#[allow(unsafe_code)]
pub fn fork_and_wait() -> bool {
    // SAFETY: the tests call this in processes with a single thread, so no lock can be held by a thread that
    // the copy lacks.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => false,
        ForkResult::Parent { child } => waitpid(child, None).is_ok(),
    }
}

/// Forks. The copy does this, and ends without a word; the original does not wait for it.
#[allow(unsafe_code)]
pub fn in_fork(act: impl FnOnce()) {
    // SAFETY: as for `fork_and_wait`.
    if let ForkResult::Child = unsafe { fork() }.unwrap() {
        act();
        exit_at_once();
    }
}

/// Prints by the C library, into its buffer.
#[allow(unsafe_code)]
pub fn c_printf(text: &CStr) {
    // SAFETY: both are strings, and the format asks for one.
    unsafe { nix::libc::printf(c"%s".as_ptr(), text.as_ptr()) };
}

/// Takes the lock of C's standard output, and does not give it back.
#[allow(unsafe_code)]
pub fn hold_c_stdout() {
    unsafe extern "C" {
        static stdout: *mut nix::libc::FILE;
        fn flockfile(stream: *mut nix::libc::FILE);
    }
    // SAFETY: set by the C library before `main`.
    let stream = unsafe { stdout };
    // SAFETY: a stream that is never closed.
    unsafe { flockfile(stream) };
}

/// Reads a line from a C stream in which there is none, and so holds that stream's lock for good.
#[allow(unsafe_code)]
pub fn read_empty_c_stream(begin: impl FnOnce()) {
    let (reader, _writer) = nix::unistd::pipe().unwrap();
    let mut line = [0; 9];
    // SAFETY: a descriptor and a string.
    let stream = unsafe { nix::libc::fdopen(reader.as_raw_fd(), c"r".as_ptr()) };
    begin();
    // SAFETY: an open stream, and room for as many bytes as are asked for.
    unsafe { nix::libc::fgets(line.as_mut_ptr(), 9, stream) };
}

/// Ends this process: no exit handlers, nothing flushed.
#[allow(unsafe_code)]
pub fn exit_at_once() -> ! {
    // SAFETY: ends the process, whatever its state.
    unsafe { nix::libc::_exit(9) }
}

/// Ignores the signals by which a process is asked to end or told of its children, and handles that of a bad
/// access.
#[allow(unsafe_code)]
pub fn handle_signals() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGCHLD, Signal::SIGSEGV] {
        let handler = match signal {
            Signal::SIGSEGV => SigHandler::Handler(count_interruption),
            _ => SigHandler::SigIgn,
        };
        let action = SigAction::new(handler, SaFlags::empty(), SigSet::empty());
        // SAFETY: the handler only touches an atomic, which is allowed at any instruction.
        unsafe { sigaction(signal, &action) }.unwrap();
    }
}

/// Removes every variable from this process's environment.
#[allow(unsafe_code)]
pub fn clear_environment() {
    for (name, _) in std::env::vars_os() {
        // SAFETY: the tests call this in processes with a single thread.
        unsafe { std::env::remove_var(name) };
    }
}

/// Sets a variable in this process's environment.
#[allow(unsafe_code)]
pub fn set_variable(name: &str, value: &str) {
    // SAFETY: no other thread of a fixture that calls this looks at the environment.
    unsafe { std::env::set_var(name, value) };
}

static INTERRUPTIONS: AtomicU32 = AtomicU32::new(0);

extern "C" fn count_interruption(_signal: i32) {
    INTERRUPTIONS.fetch_add(1, Ordering::SeqCst);
}

/// Makes SIGUSR1 interrupt the current system call of this process, without other effect.
pub fn accept_interruptions() {
    accept_interruptions_by(Signal::SIGUSR1, SaFlags::empty());
}

/// As [`accept_interruptions`], for another signal, and with more flags.
#[allow(unsafe_code)]
pub fn accept_interruptions_by(signal: Signal, flags: SaFlags) {
    // No SA_RESTART: the call is to fail with EINTR, not to be taken up again by the kernel.
    let action = SigAction::new(SigHandler::Handler(count_interruption), flags, SigSet::empty());
    // SAFETY: the handler only touches an atomic, which is allowed at any instruction.
    unsafe { sigaction(signal, &action) }.unwrap();
}

/// How often this process was interrupted since [`accept_interruptions`].
pub fn interruptions() -> u32 {
    INTERRUPTIONS.load(Ordering::SeqCst)
}

/// From now on an interrupt ends this process, and those that it starts: even where this program was started
/// by something that ignores interrupts, as a shell does with what runs in the background.
#[allow(unsafe_code)]
pub fn end_at_interrupts() {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: the default is no code of ours.
    unsafe { sigaction(Signal::SIGINT, &default) }.unwrap();
}

#[cfg(test)]
multiproc::init_for_tests!();

/// The unit tests of a library, by the standard harness.
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_test_can_start_a_process() {
        let child = Process::spawn(std::process::id, ()).unwrap();
        let pid = child.pid();
        assert_eq!(child.join().unwrap(), pid);
    }

    #[test]
    fn a_unit_test_can_start_a_pool() {
        let pool = multiproc::Pool::new(2).unwrap();
        assert_eq!(pool.map(|n: u32| n * n, 0..4).unwrap(), [0, 1, 4, 9]);
    }
}
