//! How the library makes errors, and adds what it learns about them.

use std::fmt;
use std::path::PathBuf;

use nix::errno::Errno;

use super::{Cause, Crash, Error, Inner, Origin};

impl Error {
    pub(crate) fn new(cause: Cause) -> Self {
        let (origin, items, memory_limit, attempts) = (None, None, None, Vec::new());
        Self(Box::new(Inner {
            cause,
            origin,
            items,
            during_startup: false,
            memory_limit,
            attempts,
            crash: None,
            host: None,
            record: None,
        }))
    }

    /// The kernel refused `operation`, which is a verb with its object: `"open /dev/null"`.
    pub(crate) fn os(operation: &str, errno: Errno) -> Self {
        Self::new(Cause::Os { operation: operation.to_owned(), errno: errno as i32 })
    }

    /// As [`Error::os`], from the standard library's error.
    pub(crate) fn io(operation: &str, error: &std::io::Error) -> Self {
        match error.raw_os_error() {
            Some(errno) => Self::os(operation, Errno::from_raw(errno)),
            None => Self::internal(format!("cannot {operation}: {error}")),
        }
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

    pub(crate) fn internal(what: impl Into<String>) -> Self {
        Self::new(Cause::Internal(what.into()))
    }

    pub(crate) fn decode(what: &str, why: impl fmt::Display) -> Self {
        Self::new(Cause::Decode { what: what.to_owned(), why: why.to_string() })
    }

    pub(crate) fn with_origin(mut self, origin: Origin) -> Self {
        self.0.origin = Some(origin);
        self
    }

    /// Says which item of the input it is about, unless it is about none.
    pub(crate) fn with_index(self, index: Option<u64>) -> Self {
        self.with_items(index.map(|index| (index, 1)))
    }

    /// As [`with_index`](Self::with_index), for several items: the first, and how many.
    pub(crate) fn with_items(mut self, items: Option<(u64, u64)>) -> Self {
        self.0.items = items.filter(|_| !self.0.during_startup);
        self.0.attempts =
            std::mem::take(&mut self.0.attempts).into_iter().map(|death| death.with_items(items)).collect();
        self
    }

    /// Says on which host it happened, if on another one.
    pub(crate) fn with_host(mut self, host: Option<&str>) -> Self {
        self.0.host = host.map(str::to_owned);
        self
    }

    /// Says that it happened before any task.
    pub(crate) fn during_startup(mut self) -> Self {
        self.0.during_startup = true;
        self.with_index(None)
    }

    /// Says how many bytes of memory the child could have, if that was limited.
    pub(crate) fn with_memory_limit(mut self, bytes: Option<u64>) -> Self {
        self.0.memory_limit = bytes;
        self
    }

    /// Adds what a child has left, if that signal has killed it, or the standard library after it. A program's handler
    /// may have dealt with the fault, and something else has killed the child later.
    pub(crate) fn with_crash(mut self, crash: Option<Crash>) -> Self {
        let Cause::Signal(signal) = self.0.cause else { return self };
        self.0.crash = crash.filter(|crash| crash.is_of(signal));
        self
    }

    /// Adds the file that records the task.
    pub(crate) fn with_record(mut self, path: PathBuf) -> Self {
        self.0.record = Some(path);
        self
    }

    /// Adds the earlier deaths of the item that it is about.
    pub(crate) fn with_attempts(mut self, deaths: &[Self]) -> Self {
        self.0.attempts = deaths.to_vec();
        self
    }

    /// Says that the server was not running the call that it is about. [`with_method`](Self::with_method) says
    /// which one that is.
    pub(crate) fn while_waiting(mut self) -> Self {
        if let Some(Origin::Server { waiting, .. }) = &mut self.0.origin {
            *waiting = Some(String::new());
        }
        self
    }

    /// Names the method of the call, unless the server was running it.
    pub(crate) fn with_method(mut self, method: &str) -> Self {
        if let Some(Origin::Server { waiting: Some(waiting), .. }) = &mut self.0.origin
            && waiting.is_empty()
        {
            method.clone_into(waiting);
        }
        self
    }

    /// Names the child that failed, where none is named yet.
    pub(crate) fn or_with_origin(self, origin: impl FnOnce() -> Origin) -> Self {
        if self.0.origin.is_some() { self } else { self.with_origin(origin()) }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn a_crash_that_was_dealt_with_is_not_that_of_a_later_death() {
        let crash = Crash::of_signal(11);
        for (signal, is_kept) in [(11, true), (6, true), (9, false), (7, false)] {
            let error = Error::new(Cause::Signal(signal)).with_crash(Some(crash.clone()));
            assert_eq!(error.0.crash.is_some(), is_kept, "signal {signal}");
        }
    }

    #[test]
    fn an_error_without_a_number_gets_none() {
        let error = Error::io("write", &io::Error::from(io::ErrorKind::WriteZero));
        assert_eq!((error.kind(), error.os_error()), (ErrorKind::Internal, None));
        assert!(error.to_string().starts_with("internal error: cannot write: "), "{error}");
        let error = Error::io("write", &io::Error::from_raw_os_error(28));
        assert_eq!((error.kind(), error.os_error()), (ErrorKind::Os, Some(28)));
    }
}
