//! What a pool on many hosts (`multiproc-cluster`) needs of this crate: functions by name, values as bytes, its errors,
//! and what tells a forked copy, and does not let it wait for a lock.

use std::time::Duration;

use serde_core::Serialize;
use serde_core::de::DeserializeOwned;

use super::item_loop::ItemLoop;
use crate::channel::errors::SendError;
use crate::error::{Cause, Error, Result};
use crate::impl_serde::impl_serde;
use crate::ipc::{panic, wire};
use crate::logs;
pub use crate::sys::fork_detect::OriginalProcess;
use crate::sys::poll::Deadline;
pub use crate::sys::private_mutex::PrivateMutex;
use crate::sys::privileges::is_secure;
use crate::task::{RemoteFn, TaskId};

/// A function's name between processes that run the same build, on whatever host. A process that is named
/// another build's function may call any other, so the user compares builds first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FunctionId(pub(super) TaskId);

impl_serde!(newtype FunctionId);

impl FunctionId {
    /// The name of a function.
    ///
    /// # Errors
    /// When the function is not in the executable.
    pub fn of<F: RemoteFn<Args>, Args: DeserializeOwned>(function: F) -> Result<Self> {
        TaskId::of::<ItemLoop, _, _>(function).map(Self)
    }
}

/// Whether this process has gained privileges by being executed. It must not obey the environment then, which
/// whoever executed it has chosen.
pub fn has_gained_privileges() -> bool {
    is_secure()
}

/// Blocks until this process's logger has the records that children have sent before, for a limited time, as a join
/// does.
pub fn deliver_logs(time: Duration) {
    logs::deliver(Deadline::after(time));
}

/// Appends an encoded value to `out`.
///
/// # Errors
/// When it cannot be encoded, or holds descriptors. `out` is unchanged then.
pub fn encode<T: Serialize + DeserializeOwned>(value: &T, out: &mut Vec<u8>, what: &str) -> Result<()> {
    wire::encode(value, out, what)
}

/// Decodes a value that takes up all of `bytes`.
///
/// # Errors
/// When they are no such value.
pub fn decode<T: DeserializeOwned>(bytes: &[u8], what: &str) -> Result<T> {
    panic::decode(bytes, Vec::new(), what)
}

/// The error of items of a host that was given up.
pub fn host_lost(what: String) -> Error {
    Error::new(Cause::HostLost(what))
}

/// The error of a call that the hosts cannot be reached for.
pub fn unreachable(what: String) -> Error {
    Error::new(Cause::Unreachable(what))
}

/// The error of a request that makes no sense.
pub fn invalid(what: String) -> Error {
    Error::invalid(what)
}

/// The error of a task that was withdrawn.
pub fn cancelled() -> Error {
    Error::new(Cause::Cancelled)
}

/// A task that a pool has no room for, with its arguments.
pub fn full<Args>(args: Args) -> SendError<Args> {
    refused(Error::new(Cause::Full("pool".to_owned())), args)
}

/// A task that was not submitted, with its arguments.
pub fn refused<Args>(error: Error, args: Args) -> SendError<Args> {
    SendError::of_task(error, args)
}

/// The error of a wait that took too long.
pub fn timed_out(operation: &str) -> Error {
    Error::timeout(operation)
}

/// Says which item of the input an error is about, and on which host it happened.
pub fn placed(error: Error, index: Option<u64>, host: Option<&str>) -> Error {
    error.with_index(index).with_host(host)
}

/// The error of bytes that are no such value.
pub fn undecodable(why: &str) -> Error {
    Error::decode("a message", why)
}
