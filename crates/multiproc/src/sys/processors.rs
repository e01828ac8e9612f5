//! How many processors this process may use.

use std::sync::LazyLock;
use std::thread;

/// Asked once, since the answer is put together from several files, which takes as long as a fork.
static PROCESSORS: LazyLock<usize> = LazyLock::new(|| thread::available_parallelism().map_or(1, usize::from));

pub(crate) fn processors() -> usize {
    *PROCESSORS
}

/// Whether others run while this thread does not let go of its processor: only then does it help to wait without sleeping.
#[inline]
pub(crate) fn others_run() -> bool {
    *PROCESSORS > 1
}
