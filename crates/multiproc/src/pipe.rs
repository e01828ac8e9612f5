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
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::channel::endpoint::EndpointFds;
use crate::channel::readiness::ReadinessFd;
use crate::channel::{Layout, Message, Received, ReceiverCore, SenderCore, sockets};
use crate::codec::raw;
use crate::error::{Error, Result};
use crate::ipc::scratch::{Scratch, Undecoded};
use crate::ipc::wire::{self, SharedFd, SharedMemory};
use crate::sys::poll::Deadline;
use crate::sys::socket::Sent;
use crate::task;

/// Makes a pipe. The first end sends `A` and receives `B`; the second sends `B` and receives `A`.
///
/// Each direction has 1 MiB of shared memory, of which one that is mostly empty uses half.
///
/// # Errors
/// When the system refuses a descriptor or memory.
pub fn pipe<A, B>() -> Result<(Connection<A, B>, Connection<B, A>)> {
    let size = NonZeroUsize::new(LAYOUTS[1].end()).unwrap_or(NonZeroUsize::MIN);
    let pages = SharedMemory::create(size)?;
    let (a, b) = sockets()?;
    let (to_there, there) = LAYOUTS[0].create(&pages, a.clone(), b.clone())?;
    let (to_here, here) = LAYOUTS[1].create(&pages, b, a)?;
    Ok((Connection::new(to_there, here), Connection::new(to_here, there)))
}

/// One end of a [`pipe()`], which sends `S` and receives `R`. Travels as an argument of a process or task, and through
/// another pipe.
///
/// The other end learns that this one is gone when it is dropped, or when the last process that holds it has ended.
pub struct Connection<S, R> {
    outgoing: SenderCore,
    incoming: ReceiverCore,
    watch: ReadinessFd,
    messages: PhantomData<fn(S) -> R>,
}

/// The two directions, one behind the other.
const LAYOUTS: [Layout; 2] = {
    let there = Layout::new(0, RING, u32::MAX); // as many messages as find room
    [there, Layout::new(there.end().next_multiple_of(4096), RING, u32::MAX)]
};
const RING: u32 = 1024 * 1024;

impl<S: Serialize + DeserializeOwned, R: DeserializeOwned> Connection<S, R> {
    /// Sends a message. Blocks while the ring to the other end is full: 1 MiB, of which at least half is always usable.
    /// A message above 512 KiB, or one above 32 KiB that finds no room, is spilled in anonymous memory and counts as
    /// small.
    ///
    /// # Errors
    /// [`Error::is_disconnected`] when the other end is gone; else when the message cannot be encoded. If the other end
    /// was killed while it was busy receiving, up to 64 more messages may be sent first.
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

    /// Receives the next message; `None` when the other end is gone and nothing is left. Blocks until then. To wait no
    /// longer than some time, [`poll`](Self::poll) first.
    ///
    /// # Errors
    /// When a message does not decode, or no descriptor is left for one that comes with a message.
    pub fn recv(&self) -> Result<Option<R>> {
        let mut message = Undecoded::new();
        let incoming = self.incoming.receive(1, Deadline::Never, |bytes| message.keep(bytes));
        self.watch.settle(&self.incoming);
        match incoming? {
            Received::InPlace => message.decode("a message").map(Some),
            Received::Whole(bytes, descriptors) => task::decode(&bytes, descriptors, "a message").map(Some),
            Received::TimedOut | Received::Disconnected => Ok(None),
        }
    }

    /// Waits until [`recv`](Self::recv) would not block, no longer than `time`; says whether that came: a message, or
    /// that the other end is gone. ([`Duration::ZERO`] does not wait.)
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// # fn main() -> multiproc::Result<()> {
    /// let (here, there) = multiproc::pipe::<u32, u32>()?;
    /// assert!(!here.poll(Duration::from_millis(1))?);
    /// there.send(7)?;
    /// assert!(here.poll(Duration::from_millis(1))?);
    /// assert_eq!(here.recv()?, Some(7));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When the system refuses to wait.
    pub fn poll(&self, time: Duration) -> Result<bool> {
        let is_ready = self.incoming.wait(Deadline::after(time));
        self.watch.settle(&self.incoming);
        is_ready
    }

    fn put(&self, message: &S, deadline: Deadline) -> Result<()> {
        let mut buffer = Scratch::borrow();
        let mut descriptors = Vec::new();
        let bytes = if let Some(bytes) = raw::as_bytes(message) {
            bytes
        } else {
            descriptors = wire::encode_with_descriptors(message, &mut buffer.0, "a message")?;
            &buffer.0
        };
        let message = Message { bytes, descriptors: &descriptors };
        match self.outgoing.send(message, deadline, &mut 0)? {
            Sent::Done => Ok(()),
            Sent::TimedOut => Err(Error::timeout("send a message")),
            Sent::Disconnected => Err(Error::disconnected("other end of the pipe")),
        }
    }
}

impl<S, R> Connection<S, R> {
    fn new(outgoing: SenderCore, incoming: ReceiverCore) -> Self {
        Self { outgoing, incoming, watch: ReadinessFd::default(), messages: PhantomData }
    }
}

/// For `poll` among other descriptors: readable when [`Connection::recv`] would not block. A hint: it may be readable
/// although nothing is there. To be sure not to block, call [`poll`](Connection::poll) with [`Duration::ZERO`] before
/// `recv`; that also clears it.
///
/// It is a descriptor of its own, made with the first call, and not to be read from; an end that several processes hold
/// says so to one of them only. If the system has none to give, it is one that is always readable.
impl<S, R> AsFd for Connection<S, R> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.watch.begin(&self.incoming).unwrap_or_else(|| self.incoming.pages().as_fd())
    }
}

impl<S, R> Serialize for Connection<S, R> {
    fn serialize<Z: Serializer>(&self, serializer: Z) -> Result<Z::Ok, Z::Error> {
        let is_first = self.outgoing.plan() == LAYOUTS[0];
        (is_first, self.outgoing.pages(), self.outgoing.fds(), &self.incoming.fds().bells)
            .serialize(serializer)
    }
}

impl<'de, S, R> Deserialize<'de> for Connection<S, R> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (is_first, pages, there_links, bells) =
            <(bool, SharedMemory, EndpointFds, [SharedFd; 2])>::deserialize(deserializer)?;
        let back_links = EndpointFds { bells, ..there_links.clone() };
        let [there, back] = LAYOUTS;
        let (outgoing, incoming) = if is_first { (there, back) } else { (back, there) };
        let outgoing = SenderCore::open(outgoing, pages.clone(), there_links).map_err(D::Error::custom)?;
        let incoming = ReceiverCore::open(incoming, pages, back_links).map_err(D::Error::custom)?;
        Ok(Self::new(outgoing, incoming))
    }
}

impl<S, R> fmt::Debug for Connection<S, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}
