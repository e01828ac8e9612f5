//! A process that may have been copied by a fork: the copy lacks the thread of a cluster.

use std::process;

use multiproc::pool::encoded;
use multiproc::{Error, Result};

/// The process that has made something.
#[derive(Clone, Copy)]
pub(crate) struct OriginalProcess(u32);

impl OriginalProcess {
    /// This process.
    pub(crate) fn current() -> Self {
        Self(process::id())
    }

    pub(crate) fn is_current(self) -> bool {
        self.0 == process::id()
    }

    /// Fails in a forked copy. It comes before waits: the thread that the copy lacks would end them.
    pub(crate) fn check(self) -> Result<()> {
        if self.is_current() {
            return Ok(());
        }
        Err(forked_copy())
    }
}

pub(crate) fn forked_copy() -> Error {
    let what = "only the process that connected to a cluster can use it; this is a forked copy";
    encoded::invalid(what.to_owned())
}
