//! Writing out what this process has printed and the streams still hold back.
//!
//! Two things can block that without end: a lock that another thread holds (Rust's standard output has one,
//! and each C stream), and a full pipe that no process reads. In a process that has never had a second
//! thread, no other thread can hold a lock, so the calling thread flushes by itself. In any other, a helper
//! thread flushes, and the caller waits for it no longer than a [bound](BOUND). Of C's standard output it can
//! be told whether anything is pending, and its lock can be tried, so that needs no helper thread.

use std::fs;
use std::io::{Write, stdout};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::ptr;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc::{self, FILE, c_int};
use nix::sched::{CloneFlags, unshare};

use super::poll::{Deadline, PollFlags, ready};
use super::process::with_signals_blocked;
use super::weak::weak_address;

/// How long a result waits at most for the helper thread, or for its worker to flush.
pub(crate) const BOUND: Duration = Duration::from_millis(250);
/// How long a process that ends waits for a lock.
const LAST_BOUND: Duration = Duration::from_secs(1);

/// Flushes for a process that goes on afterwards.
#[derive(Debug, Default)]
pub(crate) struct Output {
    helper: Option<Helper>,
    /// How long tasks have run since the threads were counted last.
    ran: Duration,
    /// When [`flush_between`](Self::flush_between) counted the threads last.
    counted_at: Option<Instant>,
}

/// No task can start a thread that takes a lock in less time: the system calls alone take longer.
const QUICKEST_THREAD: Duration = Duration::from_micros(3);

impl Output {
    /// Flushes standard output. With a single thread, blocks as long as a pipe is full. With several, blocks
    /// for [`BOUND`] at most, and not at all while an earlier call is still blocked; the helper thread writes
    /// the rest as soon as it can. Says whether there was a helper thread to wait for. Tasks have run for the
    /// time given since the last call.
    pub(crate) fn flush(&mut self, ran: Duration) -> bool {
        self.ran = self.ran.saturating_add(ran);
        let may_be_old = self.ran < QUICKEST_THREAD;
        let needs_helper = !has_one_thread(may_be_old);
        if !may_be_old {
            self.ran = Duration::ZERO;
        }
        if needs_helper && self.helper.is_none() {
            self.helper = Helper::start();
        }
        match self.helper.as_mut().filter(|_| needs_helper) {
            Some(helper) => helper.flush(),
            None => flush_stdout(),
        }
        needs_helper
    }

    /// As [`flush`](Self::flush), for the moment between two small tasks: Rust's output is left alone if that
    /// needs the helper thread, which would take longer than the tasks. Says whether all was flushed.
    pub(crate) fn flush_between(&mut self) -> bool {
        let has_one_thread = self.had_one_thread_lately();
        if has_one_thread {
            flush_stdout();
        } else if has_c_output() {
            self.flush(Duration::ZERO);
        }
        has_one_thread
    }

    /// Whether no other thread can hold a lock by now. The clock takes a quarter of the time that the kernel
    /// takes to count the threads.
    fn had_one_thread_lately(&mut self) -> bool {
        if THREADS.load(Relaxed) != FORKED_WITH_ONE {
            return has_one_thread(false);
        }
        let now = Instant::now();
        if self.counted_at.is_none_or(|time| now.duration_since(time) >= QUICKEST_THREAD) {
            self.counted_at = Some(now);
            return has_one_thread(false);
        }
        true
    }

    /// As [`flush`](Self::flush), but does nothing if standard output has no room at the moment.
    pub(crate) fn flush_if_writable(&mut self) {
        if ready(stdout().as_fd(), PollFlags::POLLOUT, Deadline::now()).unwrap_or(true) {
            self.flush(QUICKEST_THREAD);
        }
    }
}

/// A thread that flushes once for each request.
#[derive(Debug)]
struct Helper {
    requests: Sender<()>,
    done: Receiver<()>,
    is_busy: bool,
}

impl Helper {
    fn start() -> Option<Self> {
        let (requests, requested) = mpsc::channel();
        let (finish, done) = mpsc::channel();
        let flush = move || {
            while requested.recv().is_ok() {
                flush_stdout();
                let _ = finish.send(());
            }
        };
        start_thread(flush).then_some(Self { requests, done, is_busy: false })
    }

    fn flush(&mut self) {
        if self.is_busy && self.done.try_recv().is_err() {
            return;
        }
        let _ = self.requests.send(());
        self.is_busy = self.done.recv_timeout(BOUND).is_err();
    }
}

/// Flushes all streams, as is to be done before a process ends without exit handlers. Blocks as long as
/// standard output is a full pipe, so that nothing is lost; but for a lock that another thread holds no
/// longer than [`LAST_BOUND`]. What is behind that lock is then lost, as it is when a program exits.
pub(crate) fn flush_all() {
    if has_one_thread(false) {
        return flush_alone();
    }
    let (has_lock, locked) = mpsc::channel();
    let flush_rusts = move || {
        let mut out = stdout().lock();
        let _ = has_lock.send(());
        let _ = out.flush();
    };
    start_thread(flush_rusts);
    if locked.recv_timeout(LAST_BOUND).is_ok() {
        let _ = locked.recv(); // fails once the thread has ended, and so has flushed
    }
    flush_c_stdout();
    let (finish, finished) = mpsc::channel::<()>();
    start_thread(move || {
        flush_c_streams();
        drop(finish);
    });
    let _ = finished.recv_timeout(LAST_BOUND);
}

/// Flushes all streams, where no other thread can hold a lock.
pub(crate) fn flush_alone() {
    flush_stdout();
    flush_c_streams();
}

/// Flushes standard output, Rust's and C's. Blocks while another thread holds Rust's lock, and while a pipe
/// is full.
pub(crate) fn flush_stdout() {
    let _ = stdout().flush();
    flush_c_stdout();
}

unsafe extern "C" {
    #[link_name = "stdout"]
    static mut C_STDOUT: *mut FILE;
    fn __fpending(stream: *mut FILE) -> usize;
    fn ftrylockfile(stream: *mut FILE) -> c_int;
    fn funlockfile(stream: *mut FILE);
    fn fflush_unlocked(stream: *mut FILE) -> c_int;
}

/// Flushes C's standard output, unless another thread holds its lock.
fn flush_c_stdout() {
    // SAFETY: the C library has set it before `main`.
    let stream = unsafe { C_STDOUT };
    // SAFETY: the C library's own stream. That another thread may print meanwhile is what the lock is for.
    if has_c_output() && unsafe { ftrylockfile(stream) } == 0 {
        // SAFETY: this thread has the stream's lock.
        unsafe { fflush_unlocked(stream) };
        // SAFETY: as above.
        unsafe { funlockfile(stream) };
    }
}

/// Whether C's standard output holds anything back. Takes no lock.
fn has_c_output() -> bool {
    // SAFETY: the C library has set it before `main`.
    let stream = unsafe { C_STDOUT };
    // SAFETY: the C library's own stream, of which this subtracts two addresses.
    unsafe { __fpending(stream) > 0 }
}

/// Flushes all C streams. Blocks while another thread holds the lock of any.
fn flush_c_streams() {
    // SAFETY: a null pointer asks for all streams.
    unsafe { libc::fflush(ptr::null_mut()) };
}

/// What is known of the threads of this process: nothing but what the C library says; or that it was forked
/// with a single one, and none has been seen since; or that there were several.
static THREADS: AtomicU8 = AtomicU8::new(UNKNOWN);
const UNKNOWN: u8 = 0;
const FORKED_WITH_ONE: u8 = 1;
const SEVERAL: u8 = 2;

/// To be called in a process whose forked children have a single thread each, though the C library knows of
/// more here.
pub(crate) fn expect_one_thread_in_children() {
    THREADS.store(FORKED_WITH_ONE, Relaxed);
}

/// Whether this process has never had another thread. With `may_be_old`, the answer may be that of some
/// microseconds ago.
fn has_one_thread(may_be_old: bool) -> bool {
    let flag = weak_address!("__libc_single_threaded"); // the GNU C library has it since version 2.32
    match THREADS.load(Relaxed) {
        FORKED_WITH_ONE if may_be_old => return true,
        SEVERAL => return false,
        // SAFETY: a byte of the C library's, which it only writes when it starts a thread, and then in this one.
        UNKNOWN if !flag.is_null() => return unsafe { flag.read_volatile() != 0 },
        _ => {}
    }
    let has_one = ask_for_threads();
    if !has_one {
        THREADS.store(SEVERAL, Relaxed);
    }
    has_one
}

/// Whether this process has a single thread now.
fn ask_for_threads() -> bool {
    // For a process with one thread there is nothing to do, and with several it is an error: a tenth of the time
    // that a look into /proc takes.
    match unshare(CloneFlags::CLONE_THREAD) {
        Ok(()) => true,
        Err(Errno::EINVAL) => false,
        // A sandbox may forbid it. A folder's links are those of its subfolders, one for each thread, and two.
        Err(_) => fs::metadata("/proc/self/task").is_ok_and(|task| task.nlink() == 3),
    }
}

/// Says whether the system had room for it.
fn start_thread(run: impl FnOnce() + Send + 'static) -> bool {
    let thread = thread::Builder::new().name("multiproc-flush".to_owned()).stack_size(128 * 1024);
    with_signals_blocked(|| thread.spawn(run)).is_ok()
}
