//! What can go wrong, in words that name the operation and the culprit.

use std::fmt;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

/// The result of this library's operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation failed, or what became of a task.
///
/// An error is opaque: its message says what happened, to whom, and while doing what; the predicates and accessors
/// let a program decide. It can be cloned and serialised, so a task may itself return a `Result<T, Error>`.
///
/// ```
/// use multiproc::Process;
///
/// fn main() -> multiproc::Result<()> {
///     multiproc::init();
///     let error = Process::spawn(|| -> () { std::process::abort() }, ())?.join().unwrap_err();
///     assert_eq!(error.signal(), Some(6));
///     assert!(error.to_string().contains("was killed by SIGABRT"));
///     Ok(())
/// }
/// ```
#[derive(Clone, Serialize, Deserialize)]
pub struct Error(Box<Inner>);

#[derive(Clone, Serialize, Deserialize)]
struct Inner {
    cause: Cause,
    origin: Option<Origin>,
    index: Option<u64>,
    /// It failed before any task, so that it is no task's failure.
    at_birth: bool,
    /// How many bytes of memory the child could have, if that was limited.
    memory_limit: Option<u64>,
}

/// Who failed.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) enum Origin {
    Worker {
        pid: u32,
    },
    Process {
        name: String,
        pid: u32,
    },
    /// A process of which this one knows no name.
    Pid(u32),
}

/// How a process let down those that share something with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Failure {
    Died,
    Signal(i32),
    Exit(i32),
    Panicked,
    TimedOut,
    Aborted,
    Reset,
}

/// What happened.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) enum Cause {
    /// The operating system refused an operation.
    System { operation: String, errno: i32 },
    /// `multiproc::init()` was not called in this program.
    NotInitialised,
    /// A child did not come up.
    Start(String),
    /// A child was ended by a signal.
    Signal(i32),
    /// A child ended with this exit code before its function had returned.
    Exit(i32),
    /// A child ended, and somebody else collected how.
    StatusLost,
    /// A worker has closed its end of the link to its pool, and lives.
    LinkLost,
    /// A function panicked.
    Panic { message: String, location: Option<String> },
    /// A value could not be turned into bytes.
    Encode { what: String, why: String },
    /// Bytes could not be turned into a value.
    Decode { what: String, why: String },
    /// The time given was over first.
    Timeout(String),
    /// The queue or pipe, whichever the text names, has no room.
    Full(String),
    /// The queue or pipe, whichever the text names, holds no message.
    Empty(String),
    /// All other ends of a queue or pipe are gone.
    Disconnected(String),
    /// The pool takes no more work.
    Closed,
    /// The task was withdrawn before it ran, or ended while it did.
    Cancelled,
    /// The task has run for longer than it may, and was ended.
    Overtime(Duration),
    /// The holder of a lock died or panicked.
    Poisoned { lock: String, failure: Failure },
    /// A party of a barrier died or gave up.
    Broken(Failure),
    /// The caller asked for something that makes no sense.
    Invalid(String),
}

impl Error {
    /// Did the function panic? The message then holds the panic's own, with file and line.
    pub fn is_panic(&self) -> bool {
        matches!(self.0.cause, Cause::Panic { .. })
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

    /// Which item of the input this is about, counted from 0.
    pub fn index(&self) -> Option<u64> {
        self.0.index
    }

    /// The process id of the child that failed.
    pub fn pid(&self) -> Option<u32> {
        match self.0.origin {
            Some(Origin::Worker { pid } | Origin::Process { pid, .. } | Origin::Pid(pid)) => Some(pid),
            None => None,
        }
    }

    /// Did a child not come up: not in time, or not at all?
    pub fn is_start(&self) -> bool {
        matches!(self.0.cause, Cause::Start(_))
    }

    /// Was a time limit over first?
    pub fn is_timeout(&self) -> bool {
        matches!(self.0.cause, Cause::Timeout(_) | Cause::Overtime(_))
    }

    /// Was a queue or pipe full?
    pub fn is_full(&self) -> bool {
        matches!(self.0.cause, Cause::Full(_))
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
        matches!(self.0.cause, Cause::Empty(_))
    }

    /// Are all other ends of the queue or pipe gone?
    pub fn is_disconnected(&self) -> bool {
        matches!(self.0.cause, Cause::Disconnected(_))
    }

    /// Had the pool been closed?
    pub fn is_closed(&self) -> bool {
        matches!(self.0.cause, Cause::Closed)
    }

    /// Was the task cancelled: withdrawn before it ran, or ended while it did?
    pub fn is_cancelled(&self) -> bool {
        matches!(self.0.cause, Cause::Cancelled)
    }

    /// Did a process die, or a thread panic, while it held a [lock](crate::sync)?
    ///
    /// [`pid`](Self::pid) says which process; [`signal`](Self::signal) and [`exit_code`](Self::exit_code) how it ended, if it
    /// is a child of this process.
    pub fn is_poisoned(&self) -> bool {
        matches!(self.0.cause, Cause::Poisoned { .. })
    }

    /// Was a [`Barrier`](crate::sync::Barrier) broken: did a party of it die or give up while it waited?
    ///
    /// [`pid`](Self::pid) says which process did.
    pub fn is_broken(&self) -> bool {
        matches!(self.0.cause, Cause::Broken(_))
    }

    /// Could a value not be turned into bytes, or back?
    pub fn is_codec(&self) -> bool {
        matches!(self.0.cause, Cause::Encode { .. } | Cause::Decode { .. })
    }

    /// The operating system's error number, if it refused an operation.
    pub fn os_error(&self) -> Option<i32> {
        if let Cause::System { errno, .. } = self.0.cause { Some(errno) } else { None }
    }

    /// Whether the system had no descriptor to give.
    pub(crate) fn is_shortage_of_descriptors(&self) -> bool {
        let shortages = [Errno::EMFILE, Errno::ENFILE].map(|errno| Some(errno as i32));
        shortages.contains(&self.os_error())
    }

    pub(crate) fn new(cause: Cause) -> Self {
        Self(Box::new(Inner { cause, origin: None, index: None, at_birth: false, memory_limit: None }))
    }

    /// The system refused `operation`, which is a verb with its object: `"open the door"`.
    pub(crate) fn system(operation: &str, errno: Errno) -> Self {
        Self::new(Cause::System { operation: operation.to_owned(), errno: errno as i32 })
    }

    /// As [`Error::system`], from the standard library's error.
    pub(crate) fn io(operation: &str, error: &std::io::Error) -> Self {
        Self::system(operation, Errno::from_raw(error.raw_os_error().unwrap_or(Errno::EIO as i32)))
    }

    pub(crate) fn disconnected(which: &str) -> Self {
        Self::new(Cause::Disconnected(which.to_owned()))
    }

    pub(crate) fn timeout(operation: &str) -> Self {
        Self::new(Cause::Timeout(operation.to_owned()))
    }

    pub(crate) fn invalid(what: impl Into<String>) -> Self {
        Self::new(Cause::Invalid(what.into()))
    }

    pub(crate) fn decode(what: &str, why: impl fmt::Display) -> Self {
        Self::new(Cause::Decode { what: what.to_owned(), why: why.to_string() })
    }

    pub(crate) fn with_origin(mut self, origin: Origin) -> Self {
        self.0.origin = Some(origin);
        self
    }

    /// Says which item of the input it is about, unless it is about none.
    pub(crate) fn at(mut self, index: Option<u64>) -> Self {
        self.0.index = index.filter(|_| !self.0.at_birth);
        self
    }

    /// Says that it happened before any task.
    pub(crate) fn during_startup(mut self) -> Self {
        self.0.at_birth = true;
        self.at(None)
    }

    /// Is it about the death of a child that nobody has asked for?
    pub(crate) fn is_death(&self) -> bool {
        matches!(self.0.cause, Cause::Signal(_) | Cause::Exit(_) | Cause::StatusLost | Cause::LinkLost)
    }

    /// Says how many bytes of memory the child could have, if that was limited.
    pub(crate) fn with_memory_limit(mut self, bytes: Option<u64>) -> Self {
        self.0.memory_limit = bytes;
        self
    }

    /// Names a child as the culprit where none is named yet.
    pub(crate) fn or_with_origin(self, origin: impl FnOnce() -> Origin) -> Self {
        if self.0.origin.is_some() { self } else { self.with_origin(origin()) }
    }
}

impl std::error::Error for Error {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { cause, origin, index, at_birth, memory_limit } = &*self.0;
        let who = origin.as_ref().map_or_else(|| "the child process".to_owned(), ToString::to_string);
        let at_birth = *at_birth;
        let doing = Activity { origin: origin.as_ref(), index: *index, at_birth };
        let item = Activity { origin: None, index: *index, at_birth };
        let limit = Limit(*memory_limit);
        match cause {
            Cause::System { operation, errno } => {
                write!(f, "cannot {operation}: {}", std::io::Error::from_raw_os_error(*errno))?;
                if let Some(origin) = origin { write!(f, " (in {origin})") } else { Ok(()) }
            }
            Cause::NotInitialised => f.write_str(
                "cannot start a child process: call multiproc::init() as the first line of main, \
                 so that a child runs its task there and not the whole program again",
            ),
            Cause::Start(why) => write!(f, "{who} did not start: {why}"),
            Cause::Signal(signal) => write!(f, "{who} was killed by {}{doing}{limit}", signal_name(*signal)),
            Cause::Exit(code) => write!(f, "{who} exited with code {code}{doing}{limit}"),
            Cause::StatusLost => {
                write!(f, "{who} ended{doing}, and its status was collected outside this library")
            }
            Cause::Panic { message, location } => {
                match origin {
                    Some(origin) => write!(f, "{origin} panicked")?,
                    None => f.write_str("the function panicked")?,
                }
                if let Some(location) = location {
                    write!(f, " at {location}")?;
                }
                write!(f, "{item}: {message}")
            }
            Cause::LinkLost => write!(
                f,
                "{who} has lost its link to the pool{doing} (does a task execute another program, or close descriptors that are not its own?)"
            ),
            Cause::Encode { what, why } => write!(f, "cannot encode {what}{item}: {why}"),
            Cause::Decode { what, why } => write!(f, "cannot decode {what}{item}: {why}"),
            Cause::Timeout(operation) => write!(f, "timed out waiting to {operation}"),
            Cause::Full(channel) => write!(f, "the {channel} is full"),
            Cause::Empty(channel) => write!(f, "the {channel} is empty"),
            Cause::Disconnected(which) => write!(f, "every {which} is gone"),
            Cause::Closed => f.write_str("the pool is closed"),
            Cause::Cancelled if origin.is_some() => {
                write!(f, "the task was cancelled, and {who} killed{doing}")
            }
            Cause::Cancelled => f.write_str("the task was cancelled before it ran"),
            Cause::Overtime(limit) => write!(f, "{who} was killed{doing}, which took longer than {limit:?}"),
            Cause::Poisoned { lock, failure } => {
                write!(f, "the {lock} is poisoned: {who} {failure} while it held the {lock}")
            }
            Cause::Broken(failure @ (Failure::Aborted | Failure::Reset)) => {
                write!(f, "the barrier is broken: {who} {failure} it")
            }
            Cause::Broken(failure) => {
                write!(f, "the barrier is broken: {who} {failure} while it waited for the others")
            }
            Cause::Invalid(what) => f.write_str(what),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f) // what a `main` that returns it prints
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Worker { pid } => write!(f, "worker {pid}"),
            Self::Process { name, pid } => write!(f, "process {name:?} ({pid})"),
            Self::Pid(pid) => write!(f, "process {pid}"),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Died => f.write_str("died"),
            Self::Signal(signal) => write!(f, "was killed by {}", signal_name(*signal)),
            Self::Exit(code) => write!(f, "exited with code {code}"),
            Self::Panicked => f.write_str("panicked"),
            Self::TimedOut => f.write_str("timed out"),
            Self::Aborted => f.write_str("aborted"),
            Self::Reset => f.write_str("reset"),
        }
    }
}

/// The end of a sentence: what the culprit was at.
struct Activity<'a> {
    origin: Option<&'a Origin>,
    index: Option<u64>,
    at_birth: bool,
}

impl fmt::Display for Activity<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.index, self.origin) {
            _ if self.at_birth => f.write_str(" before it was ready for work"),
            (Some(index), _) => write!(f, " while running task {index}"),
            (None, Some(Origin::Worker { .. })) => f.write_str(" while running its task"),
            (None, Some(Origin::Process { .. })) => f.write_str(" before its function returned"),
            (None, Some(Origin::Pid(_)) | None) => Ok(()),
        }
    }
}

/// The end of a sentence: what memory the culprit could have.
struct Limit(Option<u64>);

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(bytes) => write!(f, "; its memory was limited to {}", Bytes(bytes)),
            None => Ok(()),
        }
    }
}

/// An amount of memory, in the largest unit of which it is a whole number.
pub(crate) struct Bytes(pub(crate) u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
        match units.into_iter().find(|(unit, _)| self.0 != 0 && self.0.is_multiple_of(*unit)) {
            Some((unit, name)) => write!(f, "{} {name}", self.0 / unit),
            None => write!(f, "{} bytes", self.0),
        }
    }
}

/// `SIGKILL` for 9; real-time signals have numbers only.
fn signal_name(signal: i32) -> String {
    Signal::try_from(signal).map_or_else(|_| format!("signal {signal}"), |signal| signal.as_str().to_owned())
}
