//! `CallHandle`: the pending result of one call.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use serde_core::de::DeserializeOwned;

use super::connection::Connection;
use super::inbox::Reply;
use super::message;
use crate::channel::ReceiverCore;
use crate::error::{Error, Result};
use crate::ipc::panic;
use crate::sys::poll::Deadline;

/// A call submitted with [`Server::submit`](super::Server::submit). Dropping the handle does not withdraw the
/// call.
///
/// Every call gets a result, also when the server dies. A call cannot be cancelled: it would end the server for all
/// callers.
///
/// ```
/// use multiproc::Server;
///
/// fn main() -> multiproc::Result<()> {
///     multiproc::init();
///     let list = Server::spawn(Vec::<u32>::new, ())?;
///     let first = list.submit(Vec::push, (7,))?;
///     let length = list.submit(|list: &mut Vec<u32>| list.len(), ())?;
///     first.get()?;
///     assert_eq!(length.get()?, 1);
///     Ok(())
/// }
/// ```
#[must_use = "dropping a `CallHandle` loses the call's result: call `get`"]
pub struct CallHandle<R> {
    connection: Arc<Connection>,
    call: u64,
    method: &'static str,
    result: PhantomData<fn() -> R>,
}

impl<R> CallHandle<R> {
    pub(super) fn new(connection: Arc<Connection>, call: u64, method: &'static str) -> Self {
        Self { connection, call, method, result: PhantomData }
    }

    /// Whether [`get`](Self::get) would return without blocking. Does not block.
    pub fn is_ready(&self) -> bool {
        self.connection.is_ready(self.call)
    }

    /// Where its reply comes, ready to be polled; `None` while there is nothing to poll.
    pub(crate) fn watch_replies(&self) -> Result<Option<Arc<ReceiverCore>>> {
        self.connection.watch_replies()
    }
}

impl<R: DeserializeOwned> CallHandle<R> {
    /// Returns the method's result. Blocks until it arrives.
    ///
    /// # Errors
    /// Those of [`Server::call`](super::Server::call); and when [`get_timeout`](Self::get_timeout) has already
    /// returned the result.
    pub fn get(self) -> Result<R> {
        self.take(Deadline::Never)?.ok_or_else(|| Error::timeout("get a call's result"))
    }

    /// As [`get`](Self::get), but blocks for at most `time`, then returns `None`; the call continues.
    ///
    /// # Errors
    /// Those of [`get`](Self::get). After an error because the kernel had no descriptor or memory to receive a
    /// reply, or to connect to a server that has restarted, a later call still returns the result.
    pub fn get_timeout(&mut self, time: Duration) -> Result<Option<R>> {
        self.take(Deadline::after(time))
    }

    pub(super) fn take(&self, deadline: Deadline) -> Result<Option<R>> {
        let reply = self.connection.wait(self.call, deadline);
        reply.map(decode).transpose().map_err(|error| error.with_method(self.method))
    }
}

fn decode<R: DeserializeOwned>(reply: Reply) -> Result<R> {
    let (bytes, descriptors) = reply?;
    panic::decode(message::result(&bytes)?, descriptors, "the result")
}

impl<R> Drop for CallHandle<R> {
    fn drop(&mut self) {
        self.connection.forget(self.call);
    }
}

impl<R> fmt::Debug for CallHandle<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallHandle")
            .field("method", &self.method)
            .field("is_ready", &self.is_ready())
            .finish_non_exhaustive()
    }
}
