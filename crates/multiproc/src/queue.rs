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
//! Each item goes to exactly one receiver, and items of one sender arrive in its order. That holds whoever is killed,
//! at whatever instruction: an item is in the queue whole or not at all, and one that a receiver had not finished
//! taking goes to another. A receiver that is *stopped* (SIGSTOP) while it takes or waits delays the others until it
//! goes on; timed calls return on time all the same. So it is with senders.
//!
//! An item may be any value that [serde](https://serde.rs) can write and read (but see [Limits](crate#limits)), as long
//! as it holds no end of a queue or pipe and no [`SharedSlice`](crate::SharedSlice): sending one that does is an error. Those
//! travel as arguments of a process or task, or through a [pipe](crate::pipe()).
//!
//! Items travel through 4 MiB of shared memory, of which a queue that is mostly empty uses half. An item larger than
//! 32 KiB that finds no room there, and any item larger than 2 MiB, is spilled in anonymous memory of its own, so a
//! large item does not block its sender: a child may put 20 MB and exit before anybody looks.

use std::fmt;
use std::iter::FusedIterator;
use std::marker::PhantomData;
use std::num::NonZeroUsize;
use std::time::Duration;

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::channel::batch::Batch;
use crate::channel::endpoint::EndpointFds;
use crate::channel::{Layout, Message, Received, ReceiverCore, SenderCore, sockets};
use crate::codec;
use crate::codec::raw;
use crate::error::{Cause, Error, Result};
use crate::ipc::scratch::{Scratch, Undecoded};
use crate::ipc::wire::{self, SharedMemory, Travels};
use crate::sys::poll::Deadline;
use crate::sys::socket::Sent;
use crate::task;

/// Makes a queue that holds at most `capacity` items at a time.
///
/// A sender waits while the queue is full; that is the back-pressure that keeps a quick producer from filling memory
/// with what a slow consumer has not got to.
///
/// Items up to 32 KiB also wait while the queue's memory is full, whatever the capacity: there is always room for 2 MiB
/// of them (mostly 4 MiB), each counted with 8 bytes more and rounded up to a multiple of 8. Larger items are spilled in
/// memory of their own instead; beside the capacity, they wait only for the system's limits on descriptors in flight
/// (`RLIMIT_NOFILE`) and on unreceived packets (a few hundred).
///
/// # Errors
/// When `capacity` is 0, or when the system refuses a descriptor or memory.
pub fn bounded<T>(capacity: u32) -> Result<(Sender<T>, Receiver<T>)> {
    if capacity == 0 {
        return Err(Error::invalid("a queue needs room for at least one item"));
    }
    let plan = plan(capacity);
    let size = NonZeroUsize::new(plan.end()).unwrap_or(NonZeroUsize::MIN);
    let (from, to) = sockets()?;
    let (sender, receiver) = plan.create(&SharedMemory::create(size)?, from, to)?;
    Ok((Sender { end: sender, item: PhantomData }, Receiver { end: receiver, item: PhantomData }))
}

/// The end of a queue that items are put into. Can be cloned, and passed as an argument.
pub struct Sender<T> {
    end: SenderCore,
    item: PhantomData<fn(T)>,
}

/// The end of a queue that items are taken from. Can be cloned, and passed as an argument.
///
/// As an iterator it gives items until the last sender is gone. Each comes as a `Result`, because an item may fail to
/// decode; such an error does not end the iteration. One that takes no item does, when it has been given: no descriptor or
/// memory is left to receive an item, which then stays in the queue. Later, [`iter`](Self::iter) goes on with it.
pub struct Receiver<T> {
    end: ReceiverCore,
    item: PhantomData<fn() -> T>,
}

impl<T: Serialize + DeserializeOwned> Sender<T> {
    /// Puts an item into the queue. Blocks while the queue is full.
    ///
    /// When every receiver is gone, an error comes at once if the receivers were dropped, were killed while waiting, or
    /// took nothing since the last check. If they were killed while busy receiving, up to 64 more items may be sent
    /// first.
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

    /// As [`send`](Self::send), but does not wait for room; at most a moment (1 ms) for another sender that is just
    /// putting an item.
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

    /// Puts items into the queue, in batches, which costs much less than one by one. Blocks while the queue is full.
    ///
    /// Receivers see nothing of a batch before it is complete (1024 items or 64 KiB), so what `items` gives must not
    /// wait for what becomes of an earlier item. When it panics, the items of the batch that was begun are lost.
    ///
    /// # Errors
    /// Those of [`send`](Self::send). The error gives back, in their order, the items that were taken from `items` and
    /// not sent; all before them have been sent. The first of them is the one that could not be encoded, if that was
    /// it.
    ///
    /// ```
    /// # fn main() -> multiproc::Result<()> {
    /// let (numbers, desk) = multiproc::queue::bounded(10_000)?;
    /// numbers.send_all(0..10_000_u64)?;
    /// let mut sum = 0;
    /// while sum < 49_995_000 {
    ///     for number in desk.recv_many(1_000)? {
    ///         sum += number?;
    ///     }
    /// }
    /// # Ok(())
    /// # }
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

    fn put(&self, item: T, deadline: Deadline) -> Result<(), SendError<T>> {
        let sent = with_encoded(&item, |bytes| {
            self.end.send(Message::plain(bytes), deadline, &mut 0).and_then(outcome)
        });
        sent.map_err(|error| SendError { error, item })
    }

    fn put_batch(&self, batch: &mut Batch, items: &mut Vec<T>) -> Result<(), SendError<Vec<T>>> {
        let mut sent = 0;
        let result = self.end.send_batch(batch, Deadline::Never, &mut sent).and_then(outcome);
        batch.clear();
        let rest = items.drain(..).skip(sent);
        result.map_err(|error| SendError { error, item: rest.collect() })
    }
}

impl<T: DeserializeOwned> Receiver<T> {
    /// Takes the next item. Blocks while the queue is empty and a sender is left.
    ///
    /// # Errors
    /// [`Error::is_disconnected`] when the queue is empty and the last sender is gone; when an item does not decode
    /// (that item is then gone); and when no descriptor or memory is left to receive a large item, which then stays.
    pub fn recv(&self) -> Result<T> {
        self.take(Deadline::Never)?.ok_or_else(|| Error::timeout("take an item from the queue"))
    }

    /// As [`recv`](Self::recv), but waits no longer than `time`; then gives `None`.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// # fn main() -> multiproc::Result<()> {
    /// let (sender, receiver) = multiproc::queue::bounded(1)?;
    /// assert_eq!(receiver.recv_timeout(Duration::from_millis(1))?, None);
    /// sender.send(7)?;
    /// assert_eq!(receiver.recv_timeout(Duration::from_millis(1))?, Some(7));
    /// drop(sender);
    /// assert!(receiver.recv_timeout(Duration::from_secs(10)).unwrap_err().is_disconnected());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of [`recv`](Self::recv).
    pub fn recv_timeout(&self, time: Duration) -> Result<Option<T>> {
        self.take(Deadline::after(time))
    }

    /// As [`recv`](Self::recv), but does not wait for an item: `None` when the queue is empty or another receiver is
    /// about to take what is in it; waits at most 1 ms for one that is taking an item right now.
    ///
    /// # Errors
    /// Those of [`recv`](Self::recv).
    pub fn try_recv(&self) -> Result<Option<T>> {
        self.take(Deadline::now())
    }

    /// Takes several items at once, which costs much less than one by one: at least one, and up to `max` of those that
    /// are there. Blocks while the queue is empty and a sender is left. (With a `max` of 0 it takes none, at once.)
    ///
    /// Each item is a `Result` of its own, as it is when iterating: what does not decode, or panics while it does,
    /// harms no other.
    ///
    /// # Errors
    /// [`Error::is_disconnected`] when the queue is empty and the last sender is gone; and when no descriptor or memory
    /// is left to receive a large item, which then stays.
    pub fn recv_many(&self, max: usize) -> Result<Vec<Result<T>>> {
        if max == 0 {
            return Ok(Vec::new());
        }
        let mut batch = Batch::default();
        let mut plain = Vec::new();
        let show = |bytes: &[u8]| match raw::from_bytes(bytes) {
            Some(item) => plain.push(item.map_err(misfit)),
            None => batch.add(bytes),
        };
        let max = u32::try_from(max).unwrap_or(u32::MAX);
        match self.end.receive(max, Deadline::Never, show)? {
            Received::InPlace if raw::is_raw::<T>() => Ok(plain),
            Received::InPlace => Ok(batch.map(decode)),
            Received::Whole(bytes, _) => Ok(vec![decode(&bytes)]),
            Received::Disconnected => Err(gone()),
            Received::TimedOut => Err(Error::timeout("take items from the queue")),
        }
    }

    /// Takes items until the last sender is gone, or until an error that takes no item: that is the last it gives, and
    /// another iterator, or [`recv`](Self::recv), tries the same item again.
    pub fn iter(&self) -> impl Iterator<Item = Result<T>> {
        let mut is_over = false;
        std::iter::from_fn(move || self.take_until(&mut is_over))
    }

    /// The next item of an iterator.
    fn take_until(&self, is_over: &mut bool) -> Option<Result<T>> {
        if *is_over {
            return None;
        }
        let taken = self.recv();
        // Else one that passes errors over, such as `flatten`, would meet this one again and again.
        *is_over = taken.as_ref().is_err_and(|error| !error.is_codec());
        Some(taken).filter(|taken| !taken.as_ref().is_err_and(Error::is_disconnected))
    }

    fn take(&self, deadline: Deadline) -> Result<Option<T>> {
        let mut item = Undecoded::new();
        match self.end.receive(1, deadline, |bytes| item.keep(bytes))? {
            Received::InPlace => item.decode("an item").map(Some),
            Received::Whole(bytes, _) => decode(&bytes).map(Some),
            Received::TimedOut => Ok(None),
            Received::Disconnected => Err(gone()),
        }
    }
}

// Here an item becomes bytes, and bytes an item. No lock is held meanwhile, as user code may run. A plain item is made
// of the bytes where they lie, in one copy: for that, no user code runs.

fn with_encoded<T: Travels, R>(item: &T, send: impl FnOnce(&[u8]) -> Result<R>) -> Result<R> {
    let mut buffer = Scratch::borrow();
    send(wire::encode_value(item, &mut buffer.0, "an item")?)
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    task::decode(bytes, Vec::new(), "an item")
}

fn misfit(why: codec::Error) -> Error {
    Error::decode("an item", why)
}

fn outcome(sent: Sent) -> Result<()> {
    match sent {
        Sent::Done => Ok(()),
        Sent::TimedOut => Err(Error::timeout("put an item into the queue")),
        Sent::Disconnected => Err(Error::disconnected("receiver of the queue")),
    }
}

fn gone() -> Error {
    Error::disconnected("sender of the queue")
}

const fn plan(capacity: u32) -> Layout {
    Layout::new(0, 4 * 1024 * 1024, capacity)
}

impl<T> Sender<T> {
    /// How many items are in the queue. Exact when nobody is putting or taking one at the moment.
    pub fn len(&self) -> usize {
        self.end.len() as usize
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
        IntoIter { receiver: self, is_over: false }
    }
}

/// Takes items until the last sender is gone, or until an error that takes no item. Made by [`Receiver::into_iter`].
#[derive(Debug)]
pub struct IntoIter<T> {
    receiver: Receiver<T>,
    is_over: bool,
}

impl<T: DeserializeOwned> FusedIterator for IntoIter<T> {}

impl<T: DeserializeOwned> Iterator for IntoIter<T> {
    type Item = Result<T>;

    fn next(&mut self) -> Option<Result<T>> {
        self.receiver.take_until(&mut self.is_over)
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
    ($name:ident, $end:ident) => {
        impl<T> Clone for $name<T> {
            fn clone(&self) -> Self {
                Self { end: self.end.clone(), item: PhantomData }
            }
        }

        impl<T> fmt::Debug for $name<T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        }

        impl<T> Serialize for $name<T> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                (self.end.pages(), self.end.fds(), self.end.plan().capacity()).serialize(serializer)
            }
        }

        impl<'de, T> Deserialize<'de> for $name<T> {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let (pages, links, capacity) = <(SharedMemory, EndpointFds, u32)>::deserialize(deserializer)?;
                let end = $end::open(plan(capacity), pages, links).map_err(D::Error::custom)?;
                Ok(Self { end, item: PhantomData })
            }
        }
    };
}

end!(Sender, SenderCore);
end!(Receiver, ReceiverCore);
