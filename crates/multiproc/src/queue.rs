//! Queues: items from any number of processes to any number of processes.
//!
//! [`bounded`] makes a queue and gives its two ends. Both can be cloned, and handed to a child as arguments. **The
//! ends are the protocol**: moving one into a child closes this process's copy, and when the last [`Sender`] is gone,
//! in whatever process and however it went, killed or not, the receivers first take what is left and then come to
//! the end. There is no sentinel to forget.
//!
//! ```
//! use multiproc::{Error, Process, queue};
//!
//! fn consume(desk: queue::Receiver<String>) -> Result<Vec<String>, Error> {
//!     desk.into_iter().collect()
//! }
//!
//! fn main() -> Result<(), Error> {
//!     multiproc::init();
//!     let (tickets, desk) = queue::bounded::<String>(16)?;
//!     let consumer = Process::spawn(consume, (desk,))?;
//!     tickets.send("ticket1".to_owned())?;
//!     tickets.send("ticket2".to_owned())?;
//!     drop(tickets);
//!     assert_eq!(consumer.join()??, ["ticket1", "ticket2"]);
//!     Ok(())
//! }
//! ```
//!
//! Each item goes to exactly one receiver. Items of one sender arrive in its order. Items larger than 32 KiB are
//! parked in anonymous memory, so a large item does not block its sender either: a child may put 20 MB and exit
//! before anybody looks.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{Cause, Error, Result};
use crate::gauge::Gauge;
use crate::link::{Incoming, Link, Message, Sent};
use crate::sys::poll::Deadline;
use crate::wire;

/// Makes a queue that holds at most `capacity` items at a time.
///
/// A sender waits while the queue is full; that is the back-pressure that keeps a quick producer from filling memory
/// with what a slow consumer has not got to. The system's own limit on a socket's buffer counts, too: by default it
/// holds a few hundred small items, or a dozen of 30 KiB, and a larger capacity is back-pressure from there on. So does
/// its limit on the descriptors of one user in packets that nobody has received yet (`RLIMIT_NOFILE`): each item above
/// 32 KiB is one.
///
/// # Errors
/// When `capacity` is 0, or when the system refuses a descriptor or memory.
pub fn bounded<T>(capacity: u32) -> Result<(Sender<T>, Receiver<T>)> {
    if capacity == 0 {
        return Err(Error::invalid("a queue needs room for at least one item"));
    }
    let (sending, receiving) = Link::pair()?;
    sending.reserve(4 * 1024 * 1024)?;
    let gauge = Gauge::create(capacity)?;
    let sender = Sender { link: sending, gauge: gauge.clone(), item: PhantomData };
    Ok((sender, Receiver { link: receiving, gauge, item: PhantomData }))
}

/// The end of a queue that items are put into. Can be cloned, and passed as an argument.
#[derive(Serialize, Deserialize)]
#[serde(bound = "")]
pub struct Sender<T> {
    link: Link,
    gauge: Gauge,
    item: PhantomData<fn(T)>,
}

/// The end of a queue that items are taken from. Can be cloned, and passed as an argument.
///
/// As an iterator it gives items until the last sender is gone. Each comes as a `Result`, because an item may fail to
/// decode; such an error does not end the iteration.
#[derive(Serialize, Deserialize)]
#[serde(bound = "")]
pub struct Receiver<T> {
    link: Link,
    gauge: Gauge,
    item: PhantomData<fn() -> T>,
}

impl<T: Serialize> Sender<T> {
    /// Puts an item into the queue. Blocks while the queue is full.
    ///
    /// # Errors
    /// When every receiver is gone, and when the item cannot be encoded. The error gives the item back.
    pub fn send(&self, item: T) -> Result<(), SendError<T>> {
        self.put(item, Deadline::Never)
    }

    /// As [`send`](Self::send), but waits for room no longer than `time`.
    ///
    /// # Errors
    /// Those of [`send`](Self::send); and [`Error::is_timeout`] when the queue was full all that time.
    pub fn send_timeout(&self, item: T, time: Duration) -> Result<(), SendError<T>> {
        self.put(item, Deadline::after(time))
    }

    /// As [`send`](Self::send), but does not wait at all.
    ///
    /// # Errors
    /// Those of [`send`](Self::send); and [`Error::is_full`] when the queue is full.
    pub fn try_send(&self, item: T) -> Result<(), SendError<T>> {
        self.put(item, Deadline::now()).map_err(|mut refused| {
            if refused.error.is_timeout() {
                refused.error = Error::new(Cause::Full);
            }
            refused
        })
    }

    fn put(&self, item: T, deadline: Deadline) -> Result<(), SendError<T>> {
        self.put_encoded(&item, deadline).map_err(|error| SendError { error, item })
    }

    fn put_encoded(&self, item: &T, deadline: Deadline) -> Result<()> {
        let late = || Error::timeout("put an item into the queue");
        let mut bytes = Vec::new();
        wire::encode(item, &mut bytes, "an item")?;
        let message = Message::new(bytes, Vec::new())?;
        if !self.gauge.enter(deadline, &self.link)? {
            return Err(late());
        }
        let sent = self.link.send(&message, deadline);
        if !matches!(sent, Ok(Sent::Yes)) {
            self.gauge.leave();
        }
        match sent? {
            Sent::Yes => Ok(()),
            Sent::NotYet => Err(late()),
            Sent::Gone => Err(Error::disconnected("receiver of the queue")),
        }
    }
}

impl<T: DeserializeOwned> Receiver<T> {
    /// Takes the next item. Blocks while the queue is empty and a sender is left.
    ///
    /// # Errors
    /// [`Error::is_disconnected`] when the queue is empty and the last sender is gone; else when an item does not
    /// decode, or no descriptor is left to receive a large one.
    pub fn recv(&self) -> Result<T> {
        self.take(Deadline::Never)?.ok_or_else(|| Error::timeout("take an item from the queue"))
    }

    /// As [`recv`](Self::recv), but waits no longer than `time`; then gives `None`.
    ///
    /// # Errors
    /// Those of [`recv`](Self::recv).
    pub fn recv_timeout(&self, time: Duration) -> Result<Option<T>> {
        self.take(Deadline::after(time))
    }

    /// As [`recv`](Self::recv), but does not wait: `None` when the queue is empty.
    ///
    /// # Errors
    /// Those of [`recv`](Self::recv).
    pub fn try_recv(&self) -> Result<Option<T>> {
        self.take(Deadline::now())
    }

    /// Takes items until the last sender is gone.
    pub fn iter(&self) -> impl Iterator<Item = Result<T>> {
        std::iter::from_fn(|| match self.recv() {
            Err(error) if error.is_disconnected() => None,
            result => Some(result),
        })
    }

    fn take(&self, deadline: Deadline) -> Result<Option<T>> {
        let incoming = self.link.receive(deadline);
        if matches!(incoming, Ok(Incoming::Message(..)) | Err(_)) {
            self.gauge.leave();
        }
        match incoming? {
            Incoming::Message(bytes, _) => wire::decode(&bytes, Vec::new(), "an item").map(Some),
            Incoming::NotYet => Ok(None),
            Incoming::Gone => Err(Error::disconnected("sender of the queue")),
        }
    }
}

impl<T> Sender<T> {
    /// How many items are in the queue. Exact when nobody is putting or taking one at the moment.
    pub fn len(&self) -> usize {
        self.gauge.inside(&self.link)
    }

    /// Whether no item is in the queue, with the caution of [`len`](Self::len).
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T: DeserializeOwned> IntoIterator for Receiver<T> {
    type Item = Result<T>;
    type IntoIter = IntoIter<T>;

    fn into_iter(self) -> IntoIter<T> {
        IntoIter(self)
    }
}

/// Takes items until the last sender is gone. Made by [`Receiver::into_iter`].
#[derive(Debug)]
pub struct IntoIter<T>(Receiver<T>);

impl<T: DeserializeOwned> Iterator for IntoIter<T> {
    type Item = Result<T>;

    fn next(&mut self) -> Option<Result<T>> {
        self.0.iter().next()
    }
}

/// An item that was not sent, and why.
pub struct SendError<T> {
    error: Error,
    item: T,
}

impl<T> SendError<T> {
    /// Why the item was not sent.
    pub fn error(&self) -> &Error {
        &self.error
    }

    /// The item.
    pub fn into_item(self) -> T {
        self.item
    }
}

impl<T> From<SendError<T>> for Error {
    fn from(refused: SendError<T>) -> Self {
        refused.error
    }
}

impl<T> std::error::Error for SendError<T> {}

impl<T> fmt::Display for SendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot send: {}", self.error)
    }
}

impl<T> fmt::Debug for SendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SendError({})", self.error)
    }
}

macro_rules! end {
    ($name:ident) => {
        impl<T> Clone for $name<T> {
            fn clone(&self) -> Self {
                Self { link: self.link.clone(), gauge: self.gauge.clone(), item: PhantomData }
            }
        }

        impl<T> fmt::Debug for $name<T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        }
    };
}

end!(Sender);
end!(Receiver);
