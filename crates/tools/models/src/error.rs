//! A stand-in for `multiproc::error`: in a model no call fails, but where a barrier breaks or an item is lost.

use nix::errno::Errno;

#[derive(Debug)]
pub(crate) struct Error;

pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

pub(crate) enum Cause {
    Broken(#[allow(dead_code)] Failure),
    Encode { what: String, why: String },
    Unacknowledged(#[allow(dead_code)] u32),
}

pub(crate) enum Origin {
    Pid(#[allow(dead_code)] u32),
}

#[derive(Clone, Copy)]
pub(crate) enum Failure {
    Died,
    Panicked,
    TimedOut,
    Aborted,
    Reset,
}

impl Error {
    pub(crate) fn new(cause: Cause) -> Self {
        match cause {
            Cause::Encode { what, why } => panic!("{what}: {why}"),
            Cause::Broken(_) | Cause::Unacknowledged(_) => Self,
        }
    }

    #[allow(clippy::needless_pass_by_value)] // as the library has it
    pub(crate) fn with_origin(self, _origin: Origin) -> Self {
        self
    }

    pub(crate) fn disconnected(_what: &str) -> Self {
        Self
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

    pub(crate) fn timeout(what: &str) -> Self {
        panic!("{what}")
    }
}
