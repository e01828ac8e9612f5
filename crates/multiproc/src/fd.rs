//! `Fd`: an open file, socket or other descriptor that travels to another process.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use serde_core::de::Error as _;
use serde_core::ser::Error as _;
use serde_core::{Deserialize, Deserializer, Serialize, Serializer};

use crate::ipc::wire::SharedFd;

/// A `File`, `TcpListener`, `TcpStream`, `UnixStream`, `OwnedFd` or other type with a descriptor, that travels
/// to another process: as an argument or a result of a process or task, and inside of a queue's items or a
/// pipe's messages.
///
/// It dereferences to what it holds. Here the parent accepts, and workers serve:
///
/// ```
/// use std::io::{Read, Write};
/// use std::net::{TcpListener, TcpStream};
///
/// use multiproc::{Fd, Pool, TaskError};
///
/// fn serve(mut client: Fd<TcpStream>) -> Result<(), TaskError> {
///     writeln!(client, "hello from process {}", std::process::id())?;
///     Ok(())
/// }
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     multiproc::init();
///     let pool = Pool::new(2)?;
///     let listener = TcpListener::bind("127.0.0.1:0")?;
///     let mut client = TcpStream::connect(listener.local_addr()?)?;
///     let (accepted, _) = listener.accept()?;
///     pool.apply(serve, (Fd::from(accepted),))??;
///     let mut answer = String::new();
///     client.read_to_string(&mut answer)?; // up to the end: no process holds the socket any more
///     assert!(answer.starts_with("hello from process"));
///     Ok(())
/// }
/// ```
///
/// The other process gets a duplicate, as by `dup(2)`: the two share one file position and one set of file
/// status flags, such as `O_NONBLOCK`. It is closed there when it is dropped, and here when the value that was
/// sent is dropped; a call that sends a value drops it, unless it fails. A descriptor in a message that is
/// never received is closed when the last receiving end is.
///
/// A pool receives the results of a `map` before they are asked for, and holds their descriptors until then: of
/// more results than the process may have descriptors (`RLIMIT_NOFILE`), the rest are errors. An `imap` with a
/// [buffer size](crate::pool::CallOptions::buffer_size) bounds them.
///
/// # Errors
///
/// Encoding it for anything but another process of this program (`serde_json`, for example) is an error of
/// that encoder. A message holds at most some 250 descriptors. The kernel limits those of a user that are sent and not
/// received yet, by `RLIMIT_NOFILE`; a process that would exceed it waits until others were received. So join processes
/// that return many of them in the order of their start.
pub struct Fd<T>(T);

impl<T> Fd<T> {
    /// What it holds.
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<T> From<T> for Fd<T> {
    fn from(inner: T) -> Self {
        Self(inner)
    }
}

impl<T> Deref for Fd<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for Fd<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<T: AsFd> AsFd for Fd<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl<T: AsFd> Serialize for Fd<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let copy = self.0.as_fd().try_clone_to_owned().map_err(S::Error::custom)?;
        SharedFd::from(copy).serialize(serializer)
    }
}

impl<'de, T: From<OwnedFd>> Deserialize<'de> for Fd<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let fd = SharedFd::deserialize(deserializer)?.into_descriptor().map_err(D::Error::custom)?;
        Ok(Self(fd.into()))
    }
}

impl<T: fmt::Debug> fmt::Debug for Fd<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Fd").field(&self.0).finish()
    }
}
