//! How many processors this process may use, and whether to wait on one without sleeping.

use std::sync::LazyLock;
use std::thread;

/// Asked once, since the answer is put together from several files, which takes as long as a fork.
static CPUS: LazyLock<usize> = LazyLock::new(|| thread::available_parallelism().map_or(1, usize::from));

pub(crate) fn cpus() -> usize {
    *CPUS
}

/// Whether others run while this thread does not let go of its processor: only then does it help to wait without sleeping.
#[inline]
pub(crate) fn is_smp() -> bool {
    *CPUS > 1
}

/// Whether one should look for a moment before sleeping, for whom that was in vain so many times in a row: the first few
/// times, and then only now and then, to see whether it is different now.
pub(crate) fn should_spin(in_vain: u32) -> bool {
    in_vain < 4 || in_vain.is_multiple_of(32)
}
