//! A process that may have been copied by a fork: the copy lacks the thread of a cluster.

use multiproc::pool::encoded::{self, OriginalProcess};
use multiproc::{Error, Result};

/// Fails in a forked copy. It comes before waits: the thread that the copy lacks would end them.
pub(crate) fn check(original: OriginalProcess) -> Result<()> {
    if original.is_current() { Ok(()) } else { Err(forked_copy()) }
}

pub(crate) fn forked_copy() -> Error {
    let what = "only the process that connected to a cluster can use it; this is a forked copy";
    encoded::invalid(what.to_owned())
}
