//! Flushes the buffered output of this process.
//!
//! Two things can block that without end: a lock that another thread holds (Rust's standard output has one,
//! and each C stream), and a full pipe that no process reads. In a process that has never had a second
//! thread, no other thread holds a lock, so the calling thread flushes. In any other, a helper thread
//! flushes, and the caller waits for it at most for a [bound](FLUSH_TIMEOUT). C's standard output tells
//! whether it has pending bytes; without any, the helper thread is not asked between two small tasks.

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
use super::signals::with_signals_blocked;
use super::weak::weak_address;

/// The longest time that a result waits for the helper thread, or for its worker to flush.
pub(crate) const FLUSH_TIMEOUT: Duration = Duration::from_millis(250);
/// The longest time that an ending process waits for a lock.
const EXIT_FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Flushes for a process that goes on afterwards.
#[derive(Debug, Default)]
pub(crate) struct Output {
    helper: Option<Helper>,
    /// The run time of tasks since the threads were counted last.
    ran: Duration,
    /// When [`flush_between`](Self::flush_between) counted the threads last.
    counted_at: Option<Instant>,
}

/// A task needs at least this time to start a thread that takes a lock, for the system calls alone.
const QUICKEST_THREAD: Duration = Duration::from_micros(3);

impl Output {
    /// Flushes standard output. `ran` is the run time of tasks since the last flush. Returns whether the helper
    /// thread flushes.
    ///
    /// With a single thread, blocks while a pipe is full. With several, blocks for [`FLUSH_TIMEOUT`] at most,
    /// and not at all while an earlier call is still blocked; the helper thread writes the rest later.
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

    /// As [`flush`](Self::flush), between two small tasks: leaves Rust's output if it would need the helper
    /// thread, which takes longer than the tasks. Returns whether all was flushed.
    pub(crate) fn flush_between(&mut self) -> bool {
        let has_one_thread = self.had_one_thread_lately();
        if has_one_thread {
            flush_stdout();
        } else if has_c_output() {
            self.flush(Duration::ZERO);
        }
        has_one_thread
    }

    /// Whether no other thread can hold a lock by now. The clock takes a quarter of the time of counting the
    /// threads.
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

    /// As [`flush`](Self::flush), but does nothing if standard output would block.
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
        self.is_busy = self.done.recv_timeout(FLUSH_TIMEOUT).is_err();
    }
}

/// Flushes all streams, before a process ends without exit handlers. Blocks while standard output is a full
/// pipe, so that nothing is lost; but for a lock that another thread holds only for [`EXIT_FLUSH_TIMEOUT`].
/// What that lock guards is then lost, as when a program exits. If the kernel refuses the helper thread, so is what
/// Rust's standard output holds.
pub(crate) fn flush_all() {
    if has_one_thread(false) {
        return flush_single_threaded();
    }
    let (has_lock, locked) = mpsc::channel();
    let flush_rust_stdout = move || {
        let mut out = stdout().lock();
        let _ = has_lock.send(());
        let _ = out.flush();
    };
    start_thread(flush_rust_stdout);
    if locked.recv_timeout(EXIT_FLUSH_TIMEOUT).is_ok() {
        let _ = locked.recv(); // fails once the thread has ended, and so has flushed
    }
    flush_c_stdout();
    let (finish, finished) = mpsc::channel::<()>();
    start_thread(move || {
        flush_c_streams();
        drop(finish);
    });
    let _ = finished.recv_timeout(EXIT_FLUSH_TIMEOUT);
}

/// Flushes all streams, in a process where no other thread can hold a lock.
pub(crate) fn flush_single_threaded() {
    flush_stdout();
    flush_c_streams();
}

/// Flushes standard output, Rust's and C's. Blocks while a thread holds Rust's lock or a pipe is full.
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
    // SAFETY: the C library's own stream, which its lock guards against other threads.
    if has_c_output() && unsafe { ftrylockfile(stream) } == 0 {
        // SAFETY: this thread has the stream's lock.
        unsafe { fflush_unlocked(stream) };
        // SAFETY: as above.
        unsafe { funlockfile(stream) };
    }
}

/// Whether C's standard output has pending bytes. Takes no lock.
fn has_c_output() -> bool {
    // SAFETY: the C library has set it before `main`.
    let stream = unsafe { C_STDOUT };
    // SAFETY: the C library's own stream; this subtracts two of its pointers.
    unsafe { __fpending(stream) > 0 }
}

/// Flushes all C streams. Blocks while another thread holds the lock of any.
fn flush_c_streams() {
    // SAFETY: a null pointer asks for all streams.
    unsafe { libc::fflush(ptr::null_mut()) };
}

/// What is known about the number of this process's threads.
static THREADS: AtomicU8 = AtomicU8::new(UNKNOWN);
/// The C library knows.
const UNKNOWN: u8 = 0;
/// The process was forked with one thread, and no other was seen since.
const FORKED_WITH_ONE: u8 = 1;
const SEVERAL: u8 = 2;

/// Called in a zygote, whose children have one thread each, though the C library's flag says otherwise.
pub(crate) fn expect_one_thread_in_children() {
    THREADS.store(FORKED_WITH_ONE, Relaxed);
}

/// Whether this process has never had another thread. With `may_be_old`, as of some microseconds ago.
fn has_one_thread(may_be_old: bool) -> bool {
    let flag = weak_address!("__libc_single_threaded"); // the GNU C library has it since version 2.32
    match THREADS.load(Relaxed) {
        FORKED_WITH_ONE if may_be_old => return true,
        SEVERAL => return false,
        // SAFETY: a byte of the C library's, which it writes only when this thread starts another.
        UNKNOWN if !flag.is_null() => return unsafe { flag.read_volatile() != 0 },
        _ => {}
    }
    let has_one = has_one_thread_now();
    if !has_one {
        THREADS.store(SEVERAL, Relaxed);
    }
    has_one
}

pub(crate) fn has_one_thread_now() -> bool {
    // This does nothing with one thread, and is an error with several: a tenth of the time of reading /proc.
    match unshare(CloneFlags::CLONE_THREAD) {
        Ok(()) => true,
        Err(Errno::EINVAL) => false,
        // A sandbox may forbid it. A folder's link count is 2 plus its subfolders, here one for each thread.
        Err(_) => fs::metadata("/proc/self/task").is_ok_and(|task| task.nlink() == 3),
    }
}

/// Returns whether there could be one.
fn start_thread(run: impl FnOnce() + Send + 'static) -> bool {
    let thread = thread::Builder::new().name("mp-flush".to_owned()).stack_size(128 * 1024);
    with_signals_blocked(|| thread.spawn(run)).is_ok()
}
