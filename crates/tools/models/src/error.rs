//! A stand-in for `multiproc::error`: in a model no call fails, but where a thread dies, a barrier breaks or an item
//! is lost.

use std::fmt;

use nix::errno::Errno;

use crate::impl_serde::impl_serde;
use crate::sys::failpoint::is_dead;

#[derive(Clone, Debug)]
pub(crate) struct Error;

impl_serde!(
    struct Error {}
);

pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

#[allow(dead_code)]
pub(crate) enum Cause {
    Broken(Failure),
    Empty(String),
    Encode { what: String, why: String },
    Full(String),
    NotFree(String),
    Poisoned { lock: String, failure: Failure },
    StatusLost,
    Unacknowledged(u32),
}

#[allow(dead_code)]
pub(crate) enum Origin {
    Pid(u32),
    Process { name: String, pid: u32 },
    Server { name: String, pid: u32, running: Option<String>, waiting: Option<String> },
}

#[allow(dead_code)]
#[derive(Clone, Copy)]
pub(crate) enum Failure {
    Died,
    ThreadEnded,
    Signal(i32),
    Exit(i32),
    Panicked,
    TimedOut,
    Aborted,
    Reset,
}

impl std::error::Error for Error {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an error")
    }
}

impl Error {
    pub(crate) fn new(cause: Cause) -> Self {
        match cause {
            Cause::StatusLost => panic!("nothing is known of the server's end"),
            Cause::Encode { what, why } => panic!("{what}: {why}"),
            Cause::Empty(_)
            | Cause::Full(_)
            | Cause::NotFree(_)
            | Cause::Broken(_)
            | Cause::Poisoned { .. }
            | Cause::Unacknowledged(_) => Self,
        }
    }

    #[allow(clippy::needless_pass_by_value)] // as the library has it
    pub(crate) fn with_origin(self, _origin: Origin) -> Self {
        self
    }

    pub(crate) fn while_waiting(self) -> Self {
        self
    }

    pub(crate) fn disconnected(_what: &str) -> Self {
        Self
    }

    pub(crate) fn decode(what: &str, why: &str) -> Self {
        panic!("{what}: {why}")
    }

    #[allow(clippy::unused_self)] // as the library has it
    pub(crate) fn is_codec(&self) -> bool {
        false
    }

    #[allow(clippy::unused_self)]
    pub(crate) fn is_disconnected(&self) -> bool {
        true
    }

    pub(crate) fn internal(what: &str) -> Self {
        panic!("{what}")
    }

    pub(crate) fn os(what: &str, errno: Errno) -> Self {
        panic!("{what}: {errno}")
    }

    pub(crate) fn invalid(what: impl Into<String>) -> Self {
        panic!("{}", what.into())
    }

    /// A thread that was killed waits for nothing.
    pub(crate) fn timeout(what: &str) -> Self {
        assert!(is_dead(), "{what}");
        Self
    }
}
