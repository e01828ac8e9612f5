//! Queues: items from any number of processes to any number of processes.
//!
//! [`bounded`] makes a queue and returns its two ends. Both can be cloned, and passed to a child as
//! arguments. **The ends are the protocol**: passing an end to a child closes this process's copy. When the
//! last [`Sender`] is dropped, or the process that holds it exits or is killed, the receivers take the items
//! that are left and then meet the end. No sentinel is needed.
//!
//! ```
//! use multiproc::{Error, Process, queue};
//!
//! fn consume(receiver: queue::Receiver<String>) -> Result<Vec<String>, Error> {
//!     receiver.into_iter().collect()
//! }
//!
//! fn main() -> Result<(), Error> {
//!     multiproc::init();
//!     let (sender, receiver) = queue::bounded::<String>(16)?;
//!     let consumer = Process::spawn(consume, (receiver,))?;
//!     sender.send("ticket1".to_owned())?;
//!     sender.send("ticket2".to_owned())?;
//!     drop(sender);
//!     assert_eq!(consumer.join()??, ["ticket1", "ticket2"]);
//!     Ok(())
//! }
//! ```
//!
//! [`unbounded`] makes a queue that can be filled before anything reads from it; [`joinable`] one whose items are
//! acknowledged, so that a sender can wait until all is done. The rest of this page is about the other two.
//!
//! Each item goes to exactly one receiver, and the items of one sender arrive in its order. A process killed
//! at any instruction leaves an item in the queue whole or not at all; an item that a killed receiver had not
//! finished taking goes to another receiver. A receiver that is *stopped* (SIGSTOP) while it takes or waits
//! delays the other receivers until it continues; their timed calls still return on time. The same holds for
//! senders.
//!
//! An item may be any value that [serde](https://serde.rs) can write and read (but see
//! [Limits](crate#limits)), also one with a descriptor in it: a [`SharedSlice`](crate::SharedSlice), an
//! [`Fd`](crate::Fd), an end of a queue or pipe. It is closed if the item is never received. An end of the
//! queue that lies in that queue itself keeps it open until it is received.
//!
//! Items travel through 4 MiB of shared memory; a queue that is usually empty uses half of it. An item larger
//! than 32 KiB that finds no room there, and any item larger than 2 MiB, is spilled to anonymous memory of
//! its own, so a large item does not block its sender: a child may send 20 MB and exit before any receiver
//! reads.

mod delivery;
mod joinable_ends;
mod transfer;

use std::fmt;
use std::iter::FusedIterator;
use std::marker::PhantomData;
use std::num::NonZeroUsize;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::channel::batch::Batch;
use crate::channel::errors::{self, ErrorTerms};
use crate::channel::{Message, ReceiveOutcome, ReceiverCore, SenderCore, sockets};
use crate::codec::raw;
use crate::error::{Error, Result};
use crate::ipc::panic;
use crate::ipc::scratch::{Scratch, Undecoded};
use crate::ipc::wire::{self, SharedMemory};
use crate::sys::poll::Deadline;
use crate::sys::socket::Sent;

pub use self::delivery::Delivery;
pub use self::joinable_ends::{JoinableIntoIter, JoinableReceiver, JoinableSender, Unfinished, joinable};
pub use crate::channel::errors::SendError;

/// Makes a queue that holds at most `capacity` items at a time.
///
/// A sender blocks while the queue is full. That back-pressure keeps a fast producer from filling memory with
/// items that a slow consumer has not taken yet.
///
/// Items up to 32 KiB also wait while the queue's memory is full, whatever the capacity: it always has room
/// for 2 MiB of them (usually 4 MiB), each counted with 8 bytes more and rounded up to a multiple of 8.
/// Larger items are spilled to memory of their own instead; beside the capacity, they wait only for the
/// kernel's limits on descriptors in flight (`RLIMIT_NOFILE`) and on unreceived packets (a few hundred).
///
/// # Errors
/// When `capacity` is 0, or when the kernel refuses a descriptor or memory.
pub fn bounded<T>(capacity: u32) -> Result<(Sender<T>, Receiver<T>)> {
    if capacity == 0 {
        return Err(Error::invalid("queue capacity must be at least 1"));
    }
    create(capacity)
}

/// Makes a queue in which items never wait for room: it can be filled before anything reads from it.
///
/// Its items lie in shared memory, not in their sender: once [`send`](Sender::send) has returned, the item
/// arrives even if its sender exits or is killed. The queue has memory for the items in it, and gives it back
/// in steps of 4 MiB as they are received. It holds up to 2 GiB of items, each counted with 8 bytes more; when
/// it is full, or the kernel has no memory, sending is an error, and does not wait either. The same holds for
/// items with descriptors, of which the kernel limits how many are sent and not received (`RLIMIT_NOFILE`, and
/// a few hundred packets).
///
/// [`bounded`] is faster, since its memory stays in the processor's cache; and it keeps a fast producer from
/// filling memory.
///
/// ```
/// use multiproc::{Process, Result, queue};
///
/// fn main() -> Result<()> {
///     multiproc::init();
///     let (sender, receiver) = queue::unbounded()?;
///     for number in 0..100_000_u64 {
///         sender.send(number)?;
///     }
///     drop(sender);
///     let sum = |receiver: queue::Receiver<u64>| receiver.into_iter().sum::<Result<u64>>();
///     assert_eq!(Process::spawn(sum, (receiver,))?.join()??, 4_999_950_000);
///     Ok(())
/// }
/// ```
///
/// # Errors
/// When the kernel refuses a descriptor, or 2 GiB of address space or of file size (`RLIMIT_FSIZE`).
pub fn unbounded<T>() -> Result<(Sender<T>, Receiver<T>)> {
    create(0)
}

fn create<T>(capacity: u32) -> Result<(Sender<T>, Receiver<T>)> {
    let layout = transfer::layout(capacity);
    let size = NonZeroUsize::new(layout.end()).unwrap_or(NonZeroUsize::MIN);
    let (from, to) = sockets()?;
    let (sender, receiver) = layout.create(&SharedMemory::create(size)?, from, to)?;
    Ok((Sender { core: sender, item: PhantomData }, Receiver { core: receiver, item: PhantomData }))
}

/// The sending end of a queue. Can be cloned, and passed as an argument.
pub struct Sender<T> {
    core: SenderCore,
    item: PhantomData<fn(T)>,
}

/// The receiving end of a queue. Can be cloned, and passed as an argument.
///
/// As an iterator it yields items until the last sender is gone. Each is a `Result`, because an item may fail
/// to decode; such an error does not end the iteration. An error that consumes no item is the last one: the
/// process has no descriptor or memory left to receive an item, which then stays in the queue. A later
/// [`iter`](Self::iter) continues with that item.
pub struct Receiver<T> {
    core: ReceiverCore,
    item: PhantomData<fn() -> T>,
}

const TERMS: ErrorTerms = ErrorTerms {
    channel: "queue",
    item: "an item",
    sender: "sender of the queue",
    receiver: "receiver of the queue",
};

impl<T: Serialize + DeserializeOwned> Sender<T> {
    /// Sends an item. Blocks while the queue is full.
    ///
    /// When every receiver is gone, an error is returned at once if the receivers were dropped, were killed
    /// while waiting, or took nothing since the last check and this process knows of their end (it has joined
    /// them, for example); if it does not, within 10 ms. If they were killed while busy receiving, up to 64
    /// more items may be sent first.
    ///
    /// # Errors
    /// [`Error::is_disconnected`] when every receiver is gone; [`Error::is_codec`] when the item cannot be
    /// encoded. The error gives the item back.
    pub fn send(&self, item: T) -> Result<(), SendError<T>> {
        self.put(item, Deadline::Never)
    }

    /// As [`send`](Self::send), but waits for room at most for `time`.
    ///
    /// # Errors
    /// Those of [`send`](Self::send); and [`Error::is_timeout`] when the queue was full all that time.
    pub fn send_timeout(&self, item: T, time: Duration) -> Result<(), SendError<T>> {
        self.put(item, Deadline::after(time))
    }

    /// As [`send`](Self::send), but does not wait for room. It blocks for at most 1 ms while another sender
    /// is sending.
    ///
    /// # Errors
    /// Those of [`send`](Self::send); and [`Error::is_full`] when the queue is full.
    pub fn try_send(&self, item: T) -> Result<(), SendError<T>> {
        self.put(item, Deadline::now())
    }

    /// Sends items in batches, which costs much less than one by one. Blocks while the queue is full.
    ///
    /// Receivers see nothing of a batch before it is complete (1024 items or 64 KiB), so the iterator must
    /// not block on the fate of an earlier item. When it panics, the items of the unfinished batch are lost.
    ///
    /// # Errors
    /// Those of [`send`](Self::send). The error gives back, in their order, the items that were taken from
    /// `items` and not sent; all items before them have been sent. When an item cannot be encoded, the error
    /// holds it alone.
    ///
    /// ```
    /// let (sender, receiver) = multiproc::queue::bounded(10_000)?;
    /// sender.send_all(0..10_000_u64)?;
    /// let mut sum = 0;
    /// while sum < 49_995_000 {
    ///     for number in receiver.recv_many(1_000)? {
    ///         sum += number?;
    ///     }
    /// }
    /// # Ok::<(), multiproc::Error>(())
    /// ```
    pub fn send_all(&self, items: impl IntoIterator<Item = T>) -> Result<(), SendError<Vec<T>>> {
        let (mut batch, mut batched) = (Batch::default(), Vec::new());
        for item in items {
            let encoded = batch.push(&item);
            if let Err(error) = encoded {
                let refused = self.put_batch(&mut batch, &mut batched).err();
                let mut refused = refused.unwrap_or(SendError { error, item: Vec::new() });
                refused.item.push(item);
                return Err(refused);
            }
            batched.push(item);
            if batch.is_complete() {
                self.put_batch(&mut batch, &mut batched)?;
            }
        }
        self.put_batch(&mut batch, &mut batched)
    }

    // Encoding and decoding run user code, so no lock is held then. A raw value is copied under the lock.

    fn put(&self, item: T, deadline: Deadline) -> Result<(), SendError<T>> {
        let mut buffer = Scratch::borrow();
        let sent = self.put_encoded(&item, &mut buffer.0, deadline);
        sent.map_err(|error| SendError { error, item })
    }

    fn put_encoded(&self, item: &T, buffer: &mut Vec<u8>, deadline: Deadline) -> Result<()> {
        let (bytes, descriptors) = wire::encode_value_with_descriptors(item, buffer, TERMS.item)?;
        let message = Message { bytes, descriptors: &descriptors };
        Self::sent(self.core.send([message], deadline, &mut 0)?, deadline)
    }

    /// A call without a time limit times out only where it does not wait: the queue is unbounded and full.
    fn sent(outcome: Sent, deadline: Deadline) -> Result<()> {
        TERMS.sent(outcome, if matches!(deadline, Deadline::Never) { Deadline::now() } else { deadline })
    }

    fn put_batch(&self, batch: &mut Batch, items: &mut Vec<T>) -> Result<(), SendError<Vec<T>>> {
        let mut sent = 0;
        let outcome = self.core.send_batch(batch, Deadline::Never, &mut sent);
        batch.clear();
        let unsent = items.drain(..).skip(sent);
        outcome
            .and_then(|outcome| Self::sent(outcome, Deadline::Never))
            .map_err(|error| SendError { error, item: unsent.collect() })
    }
}

impl<T: DeserializeOwned> Receiver<T> {
    /// Receives the next item. Blocks while the queue is empty and a sender is left.
    ///
    /// # Errors
    /// [`Error::is_disconnected`] when the queue is empty and the last sender is gone; [`Error::is_codec`]
    /// when the item does not decode (that item is then consumed); and [`Error::os_error`] when the process
    /// has no descriptor or memory left to receive a large item, which then stays.
    pub fn recv(&self) -> Result<T> {
        self.take(Deadline::Never)
    }

    /// As [`recv`](Self::recv), but waits at most for `time`.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let (sender, receiver) = multiproc::queue::bounded(1)?;
    /// assert!(receiver.recv_timeout(Duration::from_millis(1)).unwrap_err().is_timeout());
    /// sender.send(7)?;
    /// assert_eq!(receiver.recv_timeout(Duration::from_millis(1))?, 7);
    /// drop(sender);
    /// assert!(receiver.recv_timeout(Duration::from_secs(10)).unwrap_err().is_disconnected());
    /// # Ok::<(), multiproc::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`recv`](Self::recv); and [`Error::is_timeout`] when the queue was empty all that time.
    pub fn recv_timeout(&self, time: Duration) -> Result<T> {
        self.take(Deadline::after(time))
    }

    /// As [`recv`](Self::recv), but does not wait for an item. It blocks for at most 1 ms while another
    /// receiver is taking an item.
    ///
    /// ```
    /// let (sender, receiver) = multiproc::queue::bounded(1)?;
    /// assert!(receiver.try_recv().unwrap_err().is_empty());
    /// sender.send(7)?;
    /// assert_eq!(receiver.try_recv()?, 7);
    /// drop(sender);
    /// assert!(receiver.try_recv().unwrap_err().is_disconnected());
    /// # Ok::<(), multiproc::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`recv`](Self::recv); and [`Error::is_empty`] when the queue is empty, or another receiver is
    /// about to take what is in it.
    pub fn try_recv(&self) -> Result<T> {
        self.take(Deadline::now())
    }

    /// Receives several items at once, which costs much less than one by one: at least one, and at most `max`
    /// of those in the queue. Blocks while the queue is empty and a sender is left. A `max` of 0 returns no
    /// item, at once.
    ///
    /// Each item is a `Result` of its own, as when iterating: an item that does not decode, or panics while
    /// decoding, affects no other.
    ///
    /// # Errors
    /// [`Error::is_disconnected`] when the queue is empty and the last sender is gone; and
    /// [`Error::os_error`] when the process has no descriptor or memory left to receive a large item, which
    /// then stays.
    pub fn recv_many(&self, max: usize) -> Result<Vec<Result<T>>> {
        if max == 0 {
            return Ok(Vec::new());
        }
        let mut batch = Batch::default();
        let mut decoded = Vec::new();
        let take = |bytes: &[u8]| match raw::from_bytes(bytes) {
            Some(item) => decoded.push(item.map_err(|why| Error::decode(TERMS.item, why))),
            None => batch.add(bytes),
        };
        let max = u32::try_from(max).unwrap_or(u32::MAX);
        match self.core.receive(max, Deadline::Never, take)? {
            ReceiveOutcome::PassedToClosure if raw::is_raw::<T>() => Ok(decoded),
            ReceiveOutcome::PassedToClosure => {
                Ok(batch.map(|bytes| panic::decode(bytes, Vec::new(), TERMS.item)))
            }
            ReceiveOutcome::Owned(bytes, descriptors) => {
                Ok(vec![panic::decode(&bytes, descriptors, TERMS.item)])
            }
            ReceiveOutcome::Disconnected => Err(TERMS.disconnected()),
            ReceiveOutcome::TimedOut => Err(TERMS.timed_out(Deadline::Never)),
        }
    }

    /// Receives items until the last sender is gone, or until an error that consumes no item. Such an error
    /// is the last item of this iterator; another one, or [`recv`](Self::recv), tries the same item again.
    pub fn iter(&self) -> impl Iterator<Item = Result<T>> {
        let mut has_ended = false;
        std::iter::from_fn(move || errors::next(&mut has_ended, || self.recv()))
    }

    /// As [`iter`](Self::iter), but waits for each item at most for `time`: a timeout is the last item of this
    /// iterator.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let (sender, receiver) = multiproc::queue::bounded(10)?;
    /// sender.send_all([1, 2])?;
    /// for item in receiver.iter_timeout(Duration::from_millis(10)) {
    ///     match item {
    ///         Err(error) if error.is_timeout() => println!("nothing came for 10 ms"),
    ///         item => println!("{}", item?),
    ///     }
    /// }
    /// # Ok::<(), multiproc::Error>(())
    /// ```
    pub fn iter_timeout(&self, time: Duration) -> impl Iterator<Item = Result<T>> {
        let mut has_ended = false;
        std::iter::from_fn(move || errors::next(&mut has_ended, || self.recv_timeout(time)))
    }

    fn take(&self, deadline: Deadline) -> Result<T> {
        let mut item = Undecoded::new();
        match self.core.receive(1, deadline, |bytes| item.keep(bytes))? {
            ReceiveOutcome::PassedToClosure => item.decode(TERMS.item),
            ReceiveOutcome::Owned(bytes, descriptors) => panic::decode(&bytes, descriptors, TERMS.item),
            ReceiveOutcome::TimedOut => Err(TERMS.timed_out(deadline)),
            ReceiveOutcome::Disconnected => Err(TERMS.disconnected()),
        }
    }
}

impl<T> Sender<T> {
    /// Ends the queue for all its ends in all processes, whoever else holds one. Later sends are errors, and so
    /// are those that wait for room; receivers take the items that are left and then meet the end. Does not
    /// block; a queue that is closed already stays so.
    ///
    /// ```
    /// let (sender, receiver) = multiproc::queue::bounded(10)?;
    /// let other = sender.clone();
    /// sender.send(1)?;
    /// sender.close();
    /// assert!(other.send(2).unwrap_err().error().is_disconnected());
    /// assert_eq!(receiver.recv()?, 1);
    /// assert!(receiver.recv().unwrap_err().is_disconnected());
    /// # Ok::<(), multiproc::Error>(())
    /// ```
    pub fn close(&self) {
        self.core.end().close();
    }

    /// The most items that the queue holds; `None` if it is [unbounded].
    pub fn capacity(&self) -> Option<usize> {
        self.core.end().layout().limit()
    }

    /// The number of items in the queue. It may be off by what other processes send and receive during the
    /// call.
    pub fn len(&self) -> usize {
        self.core.end().len()
    }

    /// Whether the queue holds no item, as exact as [`len`](Self::len).
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T> Receiver<T> {
    pub(crate) fn core(&self) -> &ReceiverCore {
        &self.core
    }

    /// As [`Sender::close`]: nothing can be sent any more, and what was sent can still be received.
    ///
    /// ```
    /// let (sender, receiver) = multiproc::queue::bounded::<u32>(10)?;
    /// receiver.close();
    /// assert!(sender.send(1).unwrap_err().error().is_disconnected());
    /// # Ok::<(), multiproc::Error>(())
    /// ```
    pub fn close(&self) {
        self.core.end().close();
    }

    /// The most items that the queue holds; `None` if it is [unbounded].
    pub fn capacity(&self) -> Option<usize> {
        self.core.end().layout().limit()
    }

    /// The number of items in the queue. It may be off by what other processes send and receive during the
    /// call.
    ///
    /// ```
    /// let (sender, receiver) = multiproc::queue::bounded(10)?;
    /// assert!(receiver.is_empty());
    /// sender.send_all([1, 2, 3])?;
    /// assert_eq!((receiver.len(), sender.len()), (3, 3));
    /// # Ok::<(), multiproc::Error>(())
    /// ```
    pub fn len(&self) -> usize {
        self.core.end().len()
    }

    /// Whether the queue holds no item, as exact as [`len`](Self::len).
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T: DeserializeOwned> IntoIterator for Receiver<T> {
    type Item = Result<T>;
    type IntoIter = IntoIter<T>;

    fn into_iter(self) -> IntoIter<T> {
        IntoIter { receiver: self, has_ended: false }
    }
}

/// Receives items until the last sender is gone, or until an error that consumes no item. Made by
/// [`Receiver::into_iter`].
#[derive(Debug)]
pub struct IntoIter<T> {
    receiver: Receiver<T>,
    has_ended: bool,
}

impl<T: DeserializeOwned> FusedIterator for IntoIter<T> {}

impl<T: DeserializeOwned> Iterator for IntoIter<T> {
    type Item = Result<T>;

    fn next(&mut self) -> Option<Result<T>> {
        errors::next(&mut self.has_ended, || self.receiver.recv())
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self { core: self.core.clone(), item: PhantomData }
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        Self { core: self.core.clone(), item: PhantomData }
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").finish_non_exhaustive()
    }
}
