//! The texts of errors.

use std::fmt;

use nix::sys::signal::Signal;

use super::{Cause, Error, Failure, Inner, Origin};

impl fmt::Display for Error {
    /// `{:#}` has the backtrace of a crash, and the file that records the task, after the message.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fmt_message(f)?;
        if let Some(host) = &self.0.host {
            write!(f, " (on host {host})")?;
        }
        if !f.alternate() {
            return Ok(());
        }
        if let Some(backtrace) = self.backtrace() {
            write!(f, "\n{backtrace}")?;
        }
        match self.record() {
            Some(path) => write!(f, "\nrecorded in {}", path.display()),
            None => Ok(()),
        }
    }
}

impl Error {
    fn fmt_message(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner {
            cause,
            origin,
            items,
            during_startup,
            memory_limit,
            attempts,
            crash: _,
            host: _,
            record: _,
        } = &*self.0;
        let who = origin.as_ref().map_or_else(|| "the child process".to_owned(), ToString::to_string);
        let during_startup = *during_startup;
        let doing = Activity { origin: origin.as_ref(), items: *items, during_startup };
        let item = Activity { origin: None, items: *items, during_startup };
        let limit = Limit(*memory_limit);
        match cause {
            Cause::Os { operation, errno } => {
                write!(f, "cannot {operation}: {}", std::io::Error::from_raw_os_error(*errno))?;
                if let Some(origin) = origin { write!(f, " (in {origin})") } else { Ok(()) }
            }
            Cause::NotInitialised => f.write_str(
                "cannot start a child process: call multiproc::init() as the first line of main, \
                 so that a child runs its task there and not the whole program again (in tests: \
                 multiproc::init_for_tests!())",
            ),
            Cause::Start(why) => write!(f, "{who} did not start: {why}"),
            Cause::Signal(signal) => write!(f, "{who} was killed by {}{doing}{limit}", signal_name(*signal)),
            Cause::Exit(code) => write!(f, "{who} exited with code {code}{doing}{limit}"),
            Cause::StatusLost => {
                write!(f, "{who} ended{doing}, and its status was collected outside this library")
            }
            Cause::Panic { message, location, backtrace: _ } => {
                match origin {
                    Some(origin) => write!(f, "{origin} panicked")?,
                    None => f.write_str("the function panicked")?,
                }
                if let Some(location) = location {
                    write!(f, " at {location}")?;
                }
                match origin {
                    Some(Origin::Server { .. }) => write!(f, "{doing}: {message}"),
                    _ => write!(f, "{item}: {message}"),
                }
            }
            Cause::SocketClosed => write!(
                f,
                "{who} has closed its socket to the pool{doing} (does a task execute another program, or \
                 close descriptors that are not its own?)"
            ),
            Cause::Encode { what, why } => write!(f, "cannot encode {what}{item}: {why}"),
            Cause::Decode { what, why } => write!(f, "cannot decode {what}{item}: {why}"),
            Cause::Timeout(operation) => write!(f, "timed out waiting to {operation}"),
            Cause::Full(channel) => write!(f, "the {channel} is full"),
            Cause::Empty(channel) => write!(f, "the {channel} is empty"),
            Cause::Disconnected(which) => write!(f, "every {which} is gone, or it was closed"),
            Cause::Closed => f.write_str("the pool is closed"),
            Cause::ReplyLost => {
                write!(f, "{who} was made again, and the reply of its earlier process is lost")
            }
            Cause::Stopped => write!(f, "{who} was stopped{doing}"),
            Cause::StatePoisoned(method) => {
                write!(f, "the state of {who} is poisoned: {method} has panicked")
            }
            Cause::HostLost(what) => write!(f, "{what}{item}"),
            Cause::Cancelled if origin.is_some() => {
                write!(f, "the task was cancelled, and {who} killed{doing}")
            }
            Cause::Cancelled if !attempts.is_empty() => {
                f.write_str("the task was cancelled before it ran again")
            }
            Cause::Cancelled => f.write_str("the task was cancelled before it ran"),
            Cause::EndedInGrace(None) => write!(f, "the task was cancelled, and {who} ended it in its grace"),
            Cause::EndedInGrace(Some(limit)) => {
                write!(f, "{who} ended a task in its grace{doing}, which took longer than {limit:?}")
            }
            Cause::TimeLimit(limit) => write!(f, "{who} was killed{doing}, which took longer than {limit:?}"),
            Cause::Task(error) => write!(f, "{error}"),
            Cause::Poisoned { lock, failure } => {
                let party = failure.party();
                write!(f, "the {lock} is poisoned: {party}{who} {failure} while it held the {lock}")
            }
            Cause::Broken(failure @ (Failure::Aborted | Failure::Reset)) => {
                write!(f, "the barrier is broken: {who} {failure} it")
            }
            Cause::Broken(failure) => {
                let party = failure.party();
                write!(f, "the barrier is broken: {party}{who} {failure} while it waited for the others")
            }
            Cause::Unacknowledged(1) => write!(f, "{who} took an item and did not acknowledge it"),
            Cause::Unacknowledged(count) => {
                write!(f, "{count} items were taken and not acknowledged, the first by {who}")
            }
            Cause::Invalid(what) | Cause::Unreachable(what) | Cause::NotFree(what) => f.write_str(what),
            Cause::Internal(what) => write!(f, "internal error: {what}"),
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
            Self::NamedWorker { pool, pid } => write!(f, "worker {pid} of pool {pool:?}"),
            Self::Process { name, pid } => write!(f, "process {name:?} ({pid})"),
            Self::Pid(pid) => write!(f, "process {pid}"),
            Self::Server { name, pid, .. } => write!(f, "server {name:?} ({pid})"),
        }
    }
}

impl Failure {
    /// What stands before the process.
    fn party(self) -> &'static str {
        if self == Self::ThreadEnded { "a thread of " } else { "" }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Died => f.write_str("died"),
            Self::ThreadEnded => f.write_str("ended"),
            Self::Signal(signal) => write!(f, "was killed by {}", signal_name(*signal)),
            Self::Exit(code) => write!(f, "exited with code {code}"),
            Self::Panicked => f.write_str("panicked"),
            Self::TimedOut => f.write_str("timed out"),
            Self::Aborted => f.write_str("aborted"),
            Self::Reset => f.write_str("reset"),
        }
    }
}

/// The end of a sentence: what the child was doing.
struct Activity<'a> {
    origin: Option<&'a Origin>,
    items: Option<(u64, u64)>,
    during_startup: bool,
}

impl fmt::Display for Activity<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.items, self.origin) {
            _ if self.during_startup => f.write_str(" before it was ready for work"),
            (Some((index, 1)), _) => write!(f, " while running task {index}"),
            (Some((first, count)), _) => {
                write!(f, " while running tasks {first} to {}", first.saturating_add(count.saturating_sub(1)))
            }
            (None, Some(Origin::Worker { .. } | Origin::NamedWorker { .. })) => {
                f.write_str(" while running its task")
            }
            (None, Some(Origin::Process { .. })) => f.write_str(" before its function returned"),
            (None, Some(Origin::Pid(_)) | None) => Ok(()),
            (None, Some(Origin::Server { running, waiting, .. })) => {
                if let Some(method) = running {
                    write!(f, " while running {method}")?;
                }
                if let Some(method) = waiting {
                    let comma = if running.is_some() { "," } else { "" };
                    write!(f, "{comma} before it replied to {method}")?;
                }
                Ok(())
            }
        }
    }
}

/// The end of a sentence: how much memory the child could have.
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
pub(crate) fn signal_name(signal: i32) -> String {
    Signal::try_from(signal).map_or_else(|_| format!("signal {signal}"), |signal| signal.as_str().to_owned())
}
