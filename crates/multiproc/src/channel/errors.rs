//! The errors of queues and pipes, and the end of their iterators.

use serde_core::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

use crate::error::{Cause, Error, Result};
use crate::sys::poll::Deadline;
use crate::sys::socket::Sent;

/// A message that was not sent, and the reason.
///
/// ```
/// let (sender, _receiver) = multiproc::queue::bounded(1)?;
/// sender.try_send("first".to_owned())?;
/// let refused = sender.try_send("second".to_owned()).unwrap_err();
/// assert!(refused.error().is_full());
/// assert_eq!(refused.into_item(), "second");
/// # Ok::<(), multiproc::Error>(())
/// ```
pub struct SendError<T> {
    error: Error,
    item: T,
    /// It is the arguments of a task.
    is_task: bool,
}

impl<T: Serialize> Serialize for SendError<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (&self.error, &self.item, self.is_task).serialize(serializer)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for SendError<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (error, item, is_task) = Deserialize::deserialize(deserializer)?;
        Ok(Self { error, item, is_task })
    }
}

/// The words by which the errors of a queue or pipe name it and its parts.
pub(crate) struct ErrorTerms {
    pub(crate) channel: &'static str,
    pub(crate) item: &'static str,
    pub(crate) sender: &'static str,
    pub(crate) receiver: &'static str,
}

impl<T> SendError<T> {
    pub(crate) fn new(error: Error, item: T) -> Self {
        Self { error, item, is_task: false }
    }

    /// The arguments of a task that was not submitted.
    pub(crate) fn of_task(error: Error, item: T) -> Self {
        Self { error, item, is_task: true }
    }

    /// The reason why the message was not sent.
    pub fn error(&self) -> &Error {
        &self.error
    }

    /// The message.
    pub fn into_item(self) -> T {
        self.item
    }

    pub(crate) fn into_parts(self) -> (Error, T) {
        (self.error, self.item)
    }
}

impl ErrorTerms {
    pub(crate) fn sent(&self, outcome: Sent, deadline: Deadline) -> Result<()> {
        match (outcome, deadline) {
            (Sent::Done, _) => Ok(()),
            (Sent::Disconnected, _) => Err(Error::disconnected(self.receiver)),
            (Sent::TimedOut, Deadline::Immediate) => Err(Error::new(Cause::Full(self.channel.to_owned()))),
            (Sent::TimedOut, _) => Err(Error::timeout(&format!("send {}", self.item))),
        }
    }

    /// No message was received before `deadline`.
    #[cold]
    pub(crate) fn timed_out(&self, deadline: Deadline) -> Error {
        match deadline {
            Deadline::Immediate => Error::new(Cause::Empty(self.channel.to_owned())),
            _ => Error::timeout(&format!("receive {}", self.item)),
        }
    }

    pub(crate) fn disconnected(&self) -> Error {
        Error::disconnected(self.sender)
    }
}

/// The next item of an iterator that calls `recv`. It ends when the last sender is gone. It also ends after
/// an error that consumes no message: an adapter that skips errors, such as `flatten`, would receive that
/// error endlessly.
pub(crate) fn next<T>(has_ended: &mut bool, recv: impl FnOnce() -> Result<T>) -> Option<Result<T>> {
    if *has_ended {
        return None;
    }
    let received = recv();
    *has_ended = received.as_ref().is_err_and(|error| !error.is_codec());
    Some(received).filter(|received| !received.as_ref().is_err_and(Error::is_disconnected))
}

impl<T> From<SendError<T>> for Error {
    fn from(refused: SendError<T>) -> Self {
        refused.error
    }
}

impl<T> std::error::Error for SendError<T> {}

impl<T> fmt::Display for SendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}: {}", if self.is_task { "submit" } else { "send" }, self.error)
    }
}

impl<T> fmt::Debug for SendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SendError({})", self.error)
    }
}
