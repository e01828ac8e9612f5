//! A process that may have been copied by a fork: the copy lacks the thread of a cluster.

use std::process;

use multiproc::Result;
use multiproc::pool::encoded;

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

    /// Fails in a forked copy. It comes before locks: the thread that the copy lacks may have held one at the fork.
    pub(crate) fn check(self) -> Result<()> {
        if self.is_current() {
            return Ok(());
        }
        let what = "only the process that connected to a cluster can use it; this is a forked copy";
        Err(encoded::invalid(what.to_owned()))
    }
}
