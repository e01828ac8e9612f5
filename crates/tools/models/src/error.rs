//! A stand-in for `multiproc::error`: in a model no call fails, but where a barrier breaks.

use nix::errno::Errno;

#[derive(Debug)]
pub(crate) struct Error;

pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

pub(crate) enum Cause {
    Broken(#[allow(dead_code)] Failure),
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
