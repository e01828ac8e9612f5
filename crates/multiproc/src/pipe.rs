//! Pipes: two connected ends, each of which sends one type of message and receives another.
//!
//! ```
//! use multiproc::{Connection, Error, Process, pipe};
//!
//! fn answer(questions: Connection<String, u32>) -> Result<(), Error> {
//!     for number in questions.iter() {
//!         let number = number?;
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
//!     assert_eq!(ours.recv()?, "7 squared is 49");
//!     drop(ours); // ends the child's loop
//!     child.join()?
//! }
//! ```

use std::fmt;
use std::marker::PhantomData;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use serde_core::de::{DeserializeOwned, Error as _};
use serde_core::{Deserialize, Deserializer, Serialize, Serializer};

use crate::channel::endpoint::EndpointFds;
use crate::channel::errors::{self, ErrorTerms, SendError};
use crate::channel::readiness::ReadinessFd;
use crate::channel::{Layout, Message, ReceiveOutcome, ReceiverCore, SenderCore, sockets};
use crate::error::Result;
use crate::ipc::panic;
use crate::ipc::scratch::{Scratch, Undecoded};
use crate::ipc::wire::attachment::{self, Kind};
use crate::ipc::wire::{self, SharedFd, SharedMemory};
use crate::sys::poll::Deadline;

/// Makes a pipe. The first end sends `A` and receives `B`; the second sends `B` and receives `A`.
///
/// Each direction has 1 MiB of shared memory; a direction that is usually empty uses half of it.
///
/// # Errors
/// When the kernel refuses a descriptor or memory.
pub fn pipe<A, B>() -> Result<(Connection<A, B>, Connection<B, A>)> {
    let size = NonZeroUsize::new(LAYOUTS[1].end()).unwrap_or(NonZeroUsize::MIN);
    let memory = SharedMemory::create(size)?;
    let (a, b) = sockets()?;
    let (to_there, there) = LAYOUTS[0].create(&memory, a.clone(), b.clone())?;
    let (to_here, here) = LAYOUTS[1].create(&memory, b, a)?;
    Ok((Connection::new(to_there, here), Connection::new(to_here, there)))
}

/// One end of a [`pipe()`], which sends `S` and receives `R`. Transferable as an argument of a process or task,
/// and through another pipe.
///
/// The other end is disconnected when this one is dropped, or when the last process that holds it has ended.
/// As with a [queue](crate::queue), [`is_disconnected`](crate::Error::is_disconnected) is the end of the
/// stream, [`is_full`](crate::Error::is_full) and [`is_empty`](crate::Error::is_empty) are errors of the
/// calls that do not wait, and [`is_timeout`](crate::Error::is_timeout) is one of the calls with a time
/// limit.
pub struct Connection<S, R> {
    outgoing: SenderCore,
    incoming: ReceiverCore,
    readiness: ReadinessFd,
    messages: PhantomData<fn(S) -> R>,
}

const TERMS: ErrorTerms = ErrorTerms {
    channel: "pipe",
    item: "a message",
    sender: "other end of the pipe",
    receiver: "other end of the pipe",
};

/// The two directions, one after the other.
const LAYOUTS: [Layout; 2] = {
    let there = Layout::new(0, RING, u32::MAX); // limited by memory alone
    [there, Layout::new(there.end().next_multiple_of(4096), RING, u32::MAX)]
};
const RING: u32 = 1024 * 1024;

impl<S: Serialize + DeserializeOwned, R: DeserializeOwned> Connection<S, R> {
    /// Sends a message. Blocks while the ring to the other end is full: 1 MiB, of which at least half is
    /// always usable. A message above 512 KiB, or one above 32 KiB that finds no room, is spilled to
    /// anonymous memory and counts as small. Of those, and of messages that hold descriptors, it also blocks while a
    /// few hundred are not received, which is a limit of the kernel.
    ///
    /// # Errors
    /// [`is_disconnected`](crate::Error::is_disconnected) when the other end is gone;
    /// [`is_codec`](crate::Error::is_codec) when the message cannot be encoded; the kernel's error when it refuses
    /// memory or a descriptor. The error gives the message back. If the other end was killed while it was busy
    /// receiving, up to 64 more messages may be sent first.
    pub fn send(&self, message: S) -> Result<(), SendError<S>> {
        self.put(message, Deadline::Never)
    }

    /// As [`send`](Self::send), but waits for room at most for `time`.
    ///
    /// # Errors
    /// Those of [`send`](Self::send); and [`is_timeout`](crate::Error::is_timeout) when there was no room all
    /// that time.
    pub fn send_timeout(&self, message: S, time: Duration) -> Result<(), SendError<S>> {
        self.put(message, Deadline::after(time))
    }

    /// As [`send`](Self::send), but does not wait for room. It blocks for at most 1 ms while another thread
    /// is sending.
    ///
    /// ```
    /// let (here, there) = multiproc::pipe::<Vec<u8>, ()>()?;
    /// while here.try_send(vec![0; 1000]).is_ok() {}
    /// assert!(here.try_send(vec![0; 1000]).unwrap_err().error().is_full());
    /// drop(there);
    /// assert!(here.try_send(vec![0; 1000]).unwrap_err().error().is_disconnected());
    /// # Ok::<(), multiproc::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`send`](Self::send); and [`is_full`](crate::Error::is_full) when there is no room.
    pub fn try_send(&self, message: S) -> Result<(), SendError<S>> {
        self.put(message, Deadline::now())
    }

    /// Receives the next message. Blocks until one arrives or the other end is gone.
    ///
    /// # Errors
    /// [`is_disconnected`](crate::Error::is_disconnected) when the other end is gone and no message is left;
    /// [`is_codec`](crate::Error::is_codec) when a message does not decode (it is then consumed); and
    /// [`os_error`](crate::Error::os_error) when the process has no descriptor or memory left to receive a
    /// message, which then stays.
    pub fn recv(&self) -> Result<R> {
        self.take(Deadline::Never)
    }

    /// As [`recv`](Self::recv), but waits at most for `time`.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let (here, there) = multiproc::pipe::<u32, u32>()?;
    /// assert!(here.recv_timeout(Duration::from_millis(1)).unwrap_err().is_timeout());
    /// there.send(7)?;
    /// assert_eq!(here.recv_timeout(Duration::from_millis(1))?, 7);
    /// # Ok::<(), multiproc::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`recv`](Self::recv); and [`is_timeout`](crate::Error::is_timeout) when no message came in
    /// that time.
    pub fn recv_timeout(&self, time: Duration) -> Result<R> {
        self.take(Deadline::after(time))
    }

    /// As [`recv`](Self::recv), but does not wait for a message. It blocks for at most 1 ms while another
    /// thread is receiving.
    ///
    /// ```
    /// let (here, there) = multiproc::pipe::<u32, u32>()?;
    /// assert!(here.try_recv().unwrap_err().is_empty());
    /// there.send(7)?;
    /// assert_eq!(here.try_recv()?, 7);
    /// drop(there);
    /// assert!(here.try_recv().unwrap_err().is_disconnected());
    /// # Ok::<(), multiproc::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`recv`](Self::recv); and [`is_empty`](crate::Error::is_empty) when there is no message, or
    /// another thread is about to receive it.
    pub fn try_recv(&self) -> Result<R> {
        self.take(Deadline::now())
    }

    /// Receives messages until the other end is gone, or until an error that consumes no message, which is
    /// then the last item.
    ///
    /// ```
    /// let (here, there) = multiproc::pipe::<u32, u32>()?;
    /// there.send(1)?;
    /// there.send(2)?;
    /// drop(there);
    /// assert_eq!(here.iter().collect::<multiproc::Result<Vec<_>>>()?, [1, 2]);
    /// # Ok::<(), multiproc::Error>(())
    /// ```
    pub fn iter(&self) -> impl Iterator<Item = Result<R>> {
        let mut has_ended = false;
        std::iter::from_fn(move || errors::next(&mut has_ended, || self.recv()))
    }

    /// As [`iter`](Self::iter), but waits for each message at most for `time`: a timeout is the last item of
    /// this iterator.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let (here, there) = multiproc::pipe::<u32, u32>()?;
    /// there.send(1)?;
    /// let mut messages = here.iter_timeout(Duration::from_millis(10));
    /// assert_eq!(messages.next().transpose()?, Some(1));
    /// assert!(messages.next().is_some_and(|late| late.is_err_and(|error| error.is_timeout())));
    /// assert!(messages.next().is_none());
    /// # Ok::<(), multiproc::Error>(())
    /// ```
    pub fn iter_timeout(&self, time: Duration) -> impl Iterator<Item = Result<R>> {
        let mut has_ended = false;
        std::iter::from_fn(move || errors::next(&mut has_ended, || self.recv_timeout(time)))
    }

    /// Waits at most for `time` until [`recv`](Self::recv) would not block, and returns whether that is so: a
    /// message is there, or the other end is gone. [`Duration::ZERO`] does not wait.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let (here, there) = multiproc::pipe::<u32, u32>()?;
    /// assert!(!here.poll(Duration::from_millis(1))?);
    /// there.send(7)?;
    /// assert!(here.poll(Duration::from_millis(1))?);
    /// assert_eq!(here.recv()?, 7);
    /// # Ok::<(), multiproc::Error>(())
    /// ```
    ///
    /// # Errors
    /// When the kernel refuses to wait.
    pub fn poll(&self, time: Duration) -> Result<bool> {
        let is_ready = self.incoming.wait(Deadline::after(time));
        self.readiness.update(&self.incoming);
        is_ready
    }

    fn put(&self, message: S, deadline: Deadline) -> Result<(), SendError<S>> {
        let mut buffer = Scratch::borrow();
        let sent = self.put_encoded(&message, &mut buffer.0, deadline);
        sent.map_err(|error| SendError::new(error, message))
    }

    fn put_encoded(&self, message: &S, buffer: &mut Vec<u8>, deadline: Deadline) -> Result<()> {
        let (bytes, descriptors) = wire::encode_value_with_descriptors(message, buffer, TERMS.item)?;
        let message = Message { bytes, descriptors: &descriptors };
        TERMS.sent(self.outgoing.send([message], deadline, &mut 0)?, deadline)
    }

    fn take(&self, deadline: Deadline) -> Result<R> {
        let mut message = Undecoded::new();
        let received = self.incoming.receive(1, deadline, |bytes| message.keep(bytes));
        self.readiness.update(&self.incoming);
        match received? {
            ReceiveOutcome::PassedToClosure => message.decode(TERMS.item),
            ReceiveOutcome::Owned(bytes, descriptors) => panic::decode(&bytes, descriptors, TERMS.item),
            ReceiveOutcome::TimedOut => Err(TERMS.timed_out(deadline)),
            ReceiveOutcome::Disconnected => Err(TERMS.disconnected()),
        }
    }
}

impl<S, R> Connection<S, R> {
    /// Ends the pipe for both its ends in all processes, in both directions, as
    /// [`Sender::close`](crate::queue::Sender::close) ends a queue. Later sends are errors, and so are those
    /// that wait for room; each end receives what was sent to it and then meets the end. Does not block; a pipe
    /// that is closed already stays so. (Python's `close` gives one handle up: here that is a drop.)
    ///
    /// ```
    /// let (here, there) = multiproc::pipe::<u32, u32>()?;
    /// there.send(1)?;
    /// here.close();
    /// assert!(here.send(2).unwrap_err().error().is_disconnected());
    /// assert!(there.send(2).unwrap_err().error().is_disconnected());
    /// assert_eq!(here.recv()?, 1);
    /// assert!(here.recv().unwrap_err().is_disconnected());
    /// # Ok::<(), multiproc::Error>(())
    /// ```
    pub fn close(&self) {
        self.incoming.end().refuse_messages(); // the two directions have the same sockets
        self.outgoing.end().close();
    }

    /// The number of messages that have arrived at this end and were not received yet.
    ///
    /// ```
    /// let (here, there) = multiproc::pipe::<u32, u32>()?;
    /// there.send(7)?;
    /// assert_eq!((here.len(), there.len()), (1, 0));
    /// assert!(there.is_empty());
    /// # Ok::<(), multiproc::Error>(())
    /// ```
    pub fn len(&self) -> usize {
        self.incoming.end().len()
    }

    /// Whether no message has arrived at this end that was not received yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn incoming(&self) -> &ReceiverCore {
        &self.incoming
    }

    fn new(outgoing: SenderCore, incoming: ReceiverCore) -> Self {
        Self { outgoing, incoming, readiness: ReadinessFd::default(), messages: PhantomData }
    }
}

/// For `poll` among other descriptors: readable when [`Connection::recv`] would not block. It is a hint: it
/// may be readable although no message is there. To be sure not to block, receive with
/// [`try_recv`](Connection::try_recv); that also clears it.
///
/// The first call makes the descriptor, which is not to be read from. An end belongs to one process; after a `fork` of
/// the program's own, only one of its copies sees the end become readable. Where several processes hold the other end,
/// and one is killed or stopped just as it sends, it may become readable with the next message only: poll with a time
/// limit then. When the kernel refuses one, the descriptor returned is always readable.
impl<S, R> AsFd for Connection<S, R> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.readiness.get_or_create(&self.incoming).unwrap_or_else(|| self.incoming.end().memory().as_fd())
    }
}

/// The encoding of an end: whether it is the first, its memory, and the descriptors for both directions.
type Parts = (bool, SharedMemory, EndpointFds, [SharedFd; 2]);

impl<S, R> Serialize for Connection<S, R> {
    fn serialize<Z: Serializer>(&self, serializer: Z) -> Result<Z::Ok, Z::Error> {
        let (outgoing, incoming) = (self.outgoing.end(), self.incoming.end());
        let is_first = outgoing.layout() == LAYOUTS[0];
        let parts = (is_first, outgoing.memory(), outgoing.fds(), &incoming.fds().eventfds);
        attachment::serialize(Kind::Pipe, &parts, serializer)
    }
}

impl<'de, S, R> Deserialize<'de> for Connection<S, R> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (is_first, memory, outgoing_fds, eventfds): Parts =
            attachment::deserialize(Kind::Pipe, deserializer)?;
        let incoming_fds = EndpointFds { eventfds, ..outgoing_fds.clone() };
        let [there, back] = LAYOUTS;
        let (outgoing, incoming) = if is_first { (there, back) } else { (back, there) };
        let outgoing = SenderCore::open(outgoing, memory.clone(), outgoing_fds).map_err(D::Error::custom)?;
        let incoming = ReceiverCore::open(incoming, memory, incoming_fds).map_err(D::Error::custom)?;
        Ok(Self::new(outgoing, incoming))
    }
}

impl<S, R> fmt::Debug for Connection<S, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}
