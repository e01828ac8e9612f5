//! A pipe: two connected ends, each of which sends one type of message and receives another.
//!
//! ```
//! use multiproc::{Connection, Error, Process, pipe};
//!
//! fn answer(questions: Connection<String, u32>) -> Result<(), Error> {
//!     while let Some(number) = questions.recv()? {
//!         questions.send(format!("{number} squared is {}", number * number))?;
//!     }
//!     Ok(())
//! }
//!
//! fn main() -> Result<(), Error> {
//!     multiproc::init();
//!     let (ours, theirs) = pipe::<u32, String>()?;
//!     let child = Process::spawn(answer, (theirs,))?;
//!     ours.send(7)?;
//!     assert_eq!(ours.recv()?.as_deref(), Some("7 squared is 49"));
//!     drop(ours); // the child receives `None`
//!     child.join()?
//! }
//! ```

use std::fmt;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::link::{Incoming, Link, Message, Sent};
use crate::sys::poll::Deadline;
use crate::wire;

/// Makes a pipe. The first end sends `A` and receives `B`; the second sends `B` and receives `A`.
///
/// # Errors
/// When the system refuses a descriptor.
pub fn pipe<A, B>() -> Result<(Connection<A, B>, Connection<B, A>)> {
    let (ours, theirs) = Link::pair()?;
    Ok((Connection { link: ours, messages: PhantomData }, Connection { link: theirs, messages: PhantomData }))
}

/// One end of a [`pipe()`], which sends `S` and receives `R`. Travels as an argument of a process or task, and through
/// another pipe.
///
/// The other end learns that this one is gone when it is dropped, or when the last process that holds it has ended.
#[derive(Serialize, Deserialize)]
#[serde(bound = "")]
pub struct Connection<S, R> {
    link: Link,
    messages: PhantomData<fn(S) -> R>,
}

impl<S: Serialize, R: DeserializeOwned> Connection<S, R> {
    /// Sends a message. Blocks while the other end is a buffer behind (some hundred small messages; a message above
    /// 32 KiB is parked in anonymous memory and counts as small).
    ///
    /// # Errors
    /// [`Error::is_disconnected`] when the other end is gone; else when the message cannot be encoded.
    pub fn send(&self, message: S) -> Result<()> {
        self.put(&message, Deadline::Never)
    }

    /// As [`send`](Self::send), but waits for room no longer than `time`.
    ///
    /// # Errors
    /// Those of [`send`](Self::send); and [`Error::is_timeout`] when there was no room all that time.
    pub fn send_timeout(&self, message: S, time: Duration) -> Result<()> {
        self.put(&message, Deadline::after(time))
    }

    /// Receives the next message; `None` when the other end is gone and nothing is left. Blocks until then.
    ///
    /// # Errors
    /// When a message does not decode, or no descriptor is left for one that comes with a message.
    pub fn recv(&self) -> Result<Option<R>> {
        match self.link.receive(Deadline::Never)? {
            Incoming::Message(bytes, descriptors) => wire::decode(&bytes, descriptors, "a message").map(Some),
            Incoming::NotYet | Incoming::Gone => Ok(None),
        }
    }

    /// Waits until [`recv`](Self::recv) would not block, no longer than `time`; says whether that came.
    ///
    /// # Errors
    /// When the system refuses to wait.
    pub fn poll(&self, time: Duration) -> Result<bool> {
        self.link.wait(Deadline::after(time))
    }

    fn put(&self, message: &S, deadline: Deadline) -> Result<()> {
        let mut bytes = Vec::new();
        let descriptors = wire::encode_with_descriptors(message, &mut bytes, "a message")?;
        match self.link.send(&Message::new(bytes, descriptors)?, deadline)? {
            Sent::Yes => Ok(()),
            Sent::NotYet => Err(Error::timeout("send a message")),
            Sent::Gone => Err(Error::disconnected("other end of the pipe")),
        }
    }
}

/// For `poll` among other descriptors: readable when [`Connection::recv`] would not block.
impl<S, R> AsFd for Connection<S, R> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.link.as_fd()
    }
}

impl<S, R> fmt::Debug for Connection<S, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}
