//! `Error`: what failed, which process died, and of what; `ErrorKind`, to decide by; `TaskError`, for a task's own
//! errors.

mod backtrace;
mod cause;
mod construct;
pub(crate) mod crash_report;
mod display;
mod shortened;
mod task_error;

use std::ops::Range;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use crate::impl_serde::impl_serde;

pub use backtrace::{Backtrace, Frame};
pub(crate) use cause::{Cause, Failure, Origin, WORKER_NAME};
pub(crate) use crash_report::Crash;
pub(crate) use display::Bytes;
#[cfg(feature = "trace")]
pub(crate) use display::signal_name;
pub use task_error::TaskError;

/// The result of this library's operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation failed, or what became of a task.
///
/// Its message says what happened, to which child, and while doing what. A program decides by its
/// [`kind`](Self::kind), the predicates and the accessors. It can be cloned and serialised, so a task may
/// return a `Result<T, Error>`.
///
/// ```
/// use multiproc::{ErrorKind, Process};
///
/// fn main() -> multiproc::Result<()> {
///     multiproc::init();
///     let error = Process::spawn(|| -> () { std::process::abort() }, ())?.join().unwrap_err();
///     match error.kind() {
///         ErrorKind::Died => assert_eq!(error.signal(), Some(6)),
///         ErrorKind::Panic => println!("a bug in the task: {error}"),
///         _ => return Err(error),
///     }
///     assert!(error.to_string().contains("was killed by SIGABRT"));
///     Ok(())
/// }
/// ```
#[derive(Clone)]
pub struct Error(Box<Inner>);

impl_serde!(newtype Error);

/// The kind of an [`Error`]: one for each thing that a program can decide on.
#[non_exhaustive]
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The operating system refused an operation; [`Error::os_error`] is its number.
    Os,
    /// [`init`](crate::init()) was not called.
    NotInitialised,
    /// A child did not start: not in time, or not at all.
    Start,
    /// A child died before its function returned; [`Error::signal`] or [`Error::exit_code`] says how, if that
    /// is known. Or the [host](Error::host) of a cluster did that was to run it.
    Died,
    /// The function panicked.
    Panic,
    /// The function returned an error: a [`TaskError`] that became an [`Error`] by `?`.
    Task,
    /// A value could not be encoded, or decoded.
    Codec,
    /// A time limit passed first: that of the call, or that of a task, which was then killed. Or a
    /// [lock or permit](crate::sync) was not free for a call that does not wait.
    Timeout,
    /// A queue or pipe is full, or a pool has [as many tasks](crate::pool::PoolBuilder::max_pending) as it may, or
    /// a server [as many calls](crate::server::ServerBuilder::capacity).
    Full,
    /// A queue or pipe is empty, while a sender is left.
    Empty,
    /// All other ends of a queue or pipe are gone; or the hosts of a cluster cannot be reached.
    Disconnected,
    /// The pool was closed, or the server stopped: it takes no more work.
    Closed,
    /// The task was cancelled.
    Cancelled,
    /// The holder of a [lock](crate::sync) died, or panicked; or a method of a [server](crate::server)
    /// panicked. [`Error::pid`] says which process.
    Poisoned,
    /// A [`Barrier`](crate::sync::Barrier) is broken: a party died or gave up; [`Error::pid`] says which
    /// process.
    Broken,
    /// Receivers of a [joinable queue](crate::queue::joinable) died or gave up before they acknowledged items;
    /// [`Error::pid`] says which process did first.
    Unacknowledged,
    /// The caller asked for something that makes no sense, such as a pool with 0 workers.
    Invalid,
    /// The library failed by itself: a bug of it, or overwritten memory.
    Internal,
}

#[derive(Clone)]
struct Inner {
    cause: Cause,
    origin: Option<Origin>,
    /// The items of the input that the error is about: the index of the first, and their number.
    items: Option<(u64, u64)>,
    /// It failed before any task, so that it is no task's failure.
    during_startup: bool,
    /// How many bytes of memory the child could have, if that was limited.
    memory_limit: Option<u64>,
    /// The deaths of workers that ran the item before, oldest first.
    attempts: Vec<Error>,
    /// The report of the child's crash.
    crash: Option<Crash>,
    /// Where it happened, if elsewhere.
    host: Option<String>,
    /// The file that records the task, if there is one.
    record: Option<PathBuf>,
}

impl_serde!(struct Inner {
    cause, origin, items, during_startup, memory_limit, attempts, crash, host, record,
});

impl Error {
    /// The kind of the error.
    pub fn kind(&self) -> ErrorKind {
        match self.0.cause {
            Cause::Os { .. } => ErrorKind::Os,
            Cause::NotInitialised => ErrorKind::NotInitialised,
            Cause::Start(_) => ErrorKind::Start,
            Cause::Signal(_)
            | Cause::Exit(_)
            | Cause::StatusLost
            | Cause::SocketClosed
            | Cause::HostLost(_)
            | Cause::ReplyLost => ErrorKind::Died,
            Cause::Panic { .. } => ErrorKind::Panic,
            Cause::Task(_) => ErrorKind::Task,
            Cause::Encode { .. } | Cause::Decode { .. } => ErrorKind::Codec,
            Cause::Timeout(_) | Cause::NotFree(_) | Cause::TimeLimit(_) | Cause::EndedInGrace(Some(_)) => {
                ErrorKind::Timeout
            }
            Cause::Full(_) => ErrorKind::Full,
            Cause::Empty(_) => ErrorKind::Empty,
            Cause::Disconnected(_) | Cause::Unreachable(_) => ErrorKind::Disconnected,
            Cause::Closed | Cause::Stopped => ErrorKind::Closed,
            Cause::Cancelled | Cause::EndedInGrace(None) => ErrorKind::Cancelled,
            Cause::Poisoned { .. } | Cause::StatePoisoned(_) => ErrorKind::Poisoned,
            Cause::Broken(_) => ErrorKind::Broken,
            Cause::Unacknowledged(_) => ErrorKind::Unacknowledged,
            Cause::Invalid(_) => ErrorKind::Invalid,
            Cause::Internal(_) => ErrorKind::Internal,
        }
    }

    /// The signal that killed the child, if one did.
    pub fn signal(&self) -> Option<i32> {
        match self.0.cause {
            Cause::Signal(signal)
            | Cause::Poisoned { failure: Failure::Signal(signal), .. }
            | Cause::Broken(Failure::Signal(signal)) => Some(signal),
            _ => None,
        }
    }

    /// The code with which the child exited before its function returned, if it did.
    pub fn exit_code(&self) -> Option<i32> {
        match self.0.cause {
            Cause::Exit(code)
            | Cause::Poisoned { failure: Failure::Exit(code), .. }
            | Cause::Broken(Failure::Exit(code)) => Some(code),
            _ => None,
        }
    }

    /// The operating system's error number, if it refused an operation.
    pub fn os_error(&self) -> Option<i32> {
        if let Cause::Os { errno, .. } = self.0.cause { Some(errno) } else { None }
    }

    /// The name of the host on which the child failed, if that was an agent of a cluster
    /// (`multiproc-cluster`).
    pub fn host(&self) -> Option<&str> {
        self.0.host.as_deref()
    }

    /// The process id of the child that failed.
    pub fn pid(&self) -> Option<u32> {
        match self.0.origin {
            Some(
                Origin::Worker { pid }
                | Origin::NamedWorker { pid, .. }
                | Origin::Process { pid, .. }
                | Origin::Pid(pid)
                | Origin::Server { pid, .. },
            ) => Some(pid),
            None => None,
        }
    }

    /// Which item of the input this is about, counted from 0.
    pub fn index(&self) -> Option<u64> {
        self.0.items.and_then(|(first, count)| (count == 1).then_some(first))
    }

    /// Which items of the input this is about, counted from 0: one, but in a [`map_reduce`](crate::Pool::map_reduce),
    /// where it may be a group of them.
    pub fn items(&self) -> Option<Range<u64>> {
        self.0.items.map(|(first, count)| first..first.saturating_add(count))
    }

    /// The earlier deaths of an item that was [run again](crate::pool::CallOptions::retries), oldest first:
    /// each with the pid and the signal or exit code of its worker. Empty if the item ran once.
    ///
    /// ```
    /// use multiproc::{Pool, Result};
    ///
    /// fn main() -> Result<()> {
    ///     multiproc::init();
    ///     let pool = Pool::new(1)?;
    ///     let crash = |_: u64| -> u64 { std::process::abort() };
    ///     let error = pool.options().retries(2).apply(crash, (7,)).unwrap_err();
    ///     assert_eq!(error.attempts().len(), 2);
    ///     for death in error.attempts() {
    ///         assert_eq!(death.signal(), Some(6));
    ///         assert_ne!(death.pid(), error.pid());
    ///     }
    ///     Ok(())
    /// }
    /// ```
    pub fn attempts(&self) -> &[Error] {
        &self.0.attempts
    }

    /// Where the child crashed, by SIGSEGV (a stack overflow too), SIGBUS, SIGILL, SIGFPE or SIGABRT.
    /// Or where it panicked, if the environment asks for backtraces (`RUST_BACKTRACE`).
    ///
    /// The child leaves the registers and the top of its stack, and dies of the signal as it would otherwise.
    /// This function makes functions, files and lines of them, and reads the executable for that: so its first call
    /// takes milliseconds up to seconds. Files and lines need debug information (`debug = 1` in the profile).
    ///
    /// `None` if the child ended in another way, if the program handles the signal itself, and in a process
    /// other than the child's parent. `{error:#}` has the backtrace after the message.
    ///
    /// ```
    /// use multiproc::{Process, Result};
    ///
    /// fn main() -> Result<()> {
    ///     multiproc::init();
    ///     let error = Process::spawn(|| -> () { std::process::abort() }, ())?.join().unwrap_err();
    ///     println!("{}", error.backtrace().expect("it has crashed"));
    ///     Ok(())
    /// }
    /// ```
    pub fn backtrace(&self) -> Option<Backtrace> {
        match &self.0.cause {
            Cause::Panic { backtrace, .. } => backtrace.as_deref().map(Backtrace::of_panic),
            _ => self.0.crash.as_ref().map(|crash| crash.backtrace().clone()),
        }
    }

    /// The file that records the task, from which the program can run it again in a debugger: see
    /// [`PoolBuilder::record`](crate::pool::PoolBuilder::record). `None` if it is not recorded.
    ///
    /// `{error:#}` has the path after the message.
    ///
    /// ```
    /// use multiproc::Process;
    ///
    /// fn main() -> multiproc::Result<()> {
    ///     multiproc::init();
    ///     let error = Process::spawn(|| -> () { std::process::abort() }, ())?.join().unwrap_err();
    ///     match error.record() {
    ///         Some(path) => println!("to debug it: MULTIPROC_REPLAY={} gdb --args …", path.display()),
    ///         None => println!("to record it: MULTIPROC_RECORD=DIRECTORY …"),
    ///     }
    ///     Ok(())
    /// }
    /// ```
    pub fn record(&self) -> Option<&Path> {
        self.0.record.as_deref()
    }

    /// Did the function panic? The message then holds the panic's own, with file and line.
    pub fn is_panic(&self) -> bool {
        self.kind() == ErrorKind::Panic
    }

    /// Did a child die before its function returned: was it killed, did it crash or exit? Or was the
    /// [host](Self::host) of a cluster lost that was to run the task?
    ///
    /// A child that a time limit, or [`cancel`](crate::pool::TaskHandle::cancel), has killed is
    /// [`is_timeout`](Self::is_timeout), or [`is_cancelled`](Self::is_cancelled).
    ///
    /// ```
    /// use multiproc::Pool;
    ///
    /// fn main() -> multiproc::Result<()> {
    ///     multiproc::init();
    ///     let pool = Pool::new(1)?;
    ///     let error = pool.apply(|| -> () { std::process::exit(3) }, ()).unwrap_err();
    ///     assert!(error.is_died() && error.exit_code() == Some(3));
    ///     assert!(!pool.apply(|| -> () { panic!("a panic is no death") }, ()).unwrap_err().is_died());
    ///     Ok(())
    /// }
    /// ```
    pub fn is_died(&self) -> bool {
        self.kind() == ErrorKind::Died
    }

    /// Did a child not start: not in time, or not at all?
    pub fn is_start(&self) -> bool {
        self.kind() == ErrorKind::Start
    }

    /// Did a time limit pass first?
    pub fn is_timeout(&self) -> bool {
        self.kind() == ErrorKind::Timeout
    }

    /// Was a queue or pipe full, or a pool or server with a bound?
    pub fn is_full(&self) -> bool {
        self.kind() == ErrorKind::Full
    }

    /// Was a queue or pipe empty, while a sender was left?
    ///
    /// ```
    /// # fn main() -> multiproc::Result<()> {
    /// let (sender, receiver) = multiproc::queue::bounded::<u32>(1)?;
    /// assert!(receiver.try_recv().unwrap_err().is_empty());
    /// drop(sender);
    /// assert!(receiver.try_recv().unwrap_err().is_disconnected());
    /// # Ok(())
    /// # }
    /// ```
    pub fn is_empty(&self) -> bool {
        self.kind() == ErrorKind::Empty
    }

    /// Are all other ends of the queue or pipe gone?
    pub fn is_disconnected(&self) -> bool {
        self.kind() == ErrorKind::Disconnected
    }

    /// Had the pool been closed, or the [server](crate::server) stopped?
    pub fn is_closed(&self) -> bool {
        self.kind() == ErrorKind::Closed
    }

    /// Was the task cancelled: withdrawn before it ran, or ended while it did?
    pub fn is_cancelled(&self) -> bool {
        self.kind() == ErrorKind::Cancelled
    }

    /// Did a process die, or a thread panic, while it held a [lock](crate::sync)? Or has an earlier call of a
    /// [server](crate::server) panicked?
    ///
    /// [`pid`](Self::pid) says which process; [`signal`](Self::signal) and [`exit_code`](Self::exit_code) how
    /// it ended, if it is a child of this process.
    pub fn is_poisoned(&self) -> bool {
        self.kind() == ErrorKind::Poisoned
    }

    /// Was a [`Barrier`](crate::sync::Barrier) broken: did a party of it die or give up while it waited?
    ///
    /// [`pid`](Self::pid) says which process did.
    pub fn is_broken(&self) -> bool {
        self.kind() == ErrorKind::Broken
    }

    /// Could a value not be encoded, or decoded?
    pub fn is_codec(&self) -> bool {
        self.kind() == ErrorKind::Codec
    }

    /// Whether the kernel had no descriptor to give.
    pub(crate) fn is_shortage_of_descriptors(&self) -> bool {
        let shortages = [Errno::EMFILE, Errno::ENFILE].map(|errno| Some(errno as i32));
        shortages.contains(&self.os_error())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        if let Cause::Task(error) = &self.0.cause { error.source() } else { None }
    }
}

impl From<TaskError> for Error {
    fn from(error: TaskError) -> Self {
        Self::new(Cause::Task(error))
    }
}
