//! A stand-in for `multiproc::sync::poison`: no thread of a model dies or panics while it holds a lock.

use crate::error::{Cause, Error, Failure, Result};

pub(crate) type LockResult<G> = Result<G>;

#[allow(clippy::unnecessary_wraps)] // as the library has it
pub(super) fn check_poison<G>(guard: G, _lock: &str, _failure_word: u64) -> LockResult<G> {
    Ok(guard)
}

pub(super) fn error(_failure_word: u64, _cause: impl FnOnce(Failure) -> Cause) -> Error {
    Error
}

pub(super) fn failure_word(pid: u32, _failure: Failure) -> u64 {
    pid.into()
}

pub(super) fn own_failure_word(failure: Failure) -> u64 {
    failure_word(1, failure)
}
