//! A queue whose items are acknowledged: Python's `JoinableQueue`, with `task_done` and `join`.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use serde_core::de::DeserializeOwned;
use serde_core::{Deserialize, Deserializer, Serialize, Serializer};

use super::delivery::{Delivery, End, Items, Receipt};
use super::{SendError, TERMS};
use crate::channel::errors;
use crate::error::{Error, Result};
use crate::ipc::panic;
use crate::ipc::scratch::Scratch;
use crate::ipc::wire::{self, SharedFd};
use crate::sync::deliveries::{Deliveries, MAX_CAPACITY, Next};
use crate::sys::poll::Deadline;
use crate::sys::socket;

/// What becomes of an item whose [`Delivery`] is dropped, or whose receiver ends, before it is
/// [done](Delivery::done).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfinished {
    /// It goes back to its place in the queue, and another receiver takes it. So an item may be dealt with
    /// twice, if its receiver dies between the work and the acknowledgement.
    Redeliver,
    /// It is lost, and the next [`join`](JoinableSender::join) is an error that names the process.
    Report,
}

/// Makes a queue whose items are acknowledged: [`join`](JoinableSender::join) blocks until all that was sent is
/// dealt with.
///
/// Received items are [deliveries](Delivery), which say so by [`done`](Delivery::done). `capacity`, from 1 to
/// 65,536, is the most items that are sent and not done; beyond it a sender blocks. `unfinished` says what
/// becomes of an item whose receiver dies, panics or gives up. A thread that waits in any call of the queue
/// notices the death of a receiver within half a second.
///
/// ```
/// use multiproc::{Process, Result, queue};
///
/// fn serve(receiver: queue::JoinableReceiver<String>) -> Result<usize> {
///     let mut letters = 0;
///     for delivery in receiver {
///         let delivery = delivery?;
///         letters += delivery.len();
///         delivery.done();
///     }
///     Ok(letters)
/// }
///
/// fn main() -> Result<()> {
///     multiproc::init();
///     let (sender, receiver) = queue::joinable(16, queue::Unfinished::Redeliver)?;
///     let servers = [(); 2].map(|()| Process::spawn(serve, (receiver.clone(),)));
///     drop(receiver);
///     for word in ["to", "be", "done"] {
///         sender.send(word.to_owned())?;
///     }
///     sender.join()?; // all three are done
///     drop(sender);
///     let letters: Result<usize> = servers.into_iter().map(|server| server?.join()?).sum();
///     assert_eq!(letters?, 8);
///     Ok(())
/// }
/// ```
///
/// An item stays in the queue's shared memory until it is done. The queue has 2 GiB of address space, of which
/// each item has an equal share: with a capacity of 1024, 2 MiB. It has memory for the items in it, and keeps up to
/// 64 KiB for each item that it has had at a time. Items cannot hold descriptors, such as a
/// [`SharedSlice`](crate::SharedSlice). Each call looks at all items, so a
/// capacity of thousands costs some microseconds a call; [`bounded`](super::bounded) is faster.
///
/// Ends travel as an argument, through a pipe or queue, and as the result of a process. A process of another
/// PID namespace cannot be checked, so it counts as living.
///
/// # Errors
/// When `capacity` is 0 or more than 65,536; or when the kernel refuses a descriptor, or 2 GiB of address space
/// or of file size (`RLIMIT_FSIZE`).
pub fn joinable<T>(
    capacity: u32,
    unfinished: Unfinished,
) -> Result<(JoinableSender<T>, JoinableReceiver<T>)> {
    if !(1..=MAX_CAPACITY).contains(&capacity) {
        return Err(Error::invalid(format!("a joinable queue has a capacity from 1 to {MAX_CAPACITY}")));
    }
    let deliveries = Deliveries::create(capacity, unfinished == Unfinished::Redeliver)?;
    let (from, to) = socket::pair()?;
    let end = |link: SharedFd| End { link, items: Items(deliveries.clone()) };
    Ok((
        JoinableSender { end: end(from.into()), item: PhantomData },
        JoinableReceiver { end: end(to.into()), item: PhantomData },
    ))
}

/// The sending end of a [joinable] queue. Can be cloned, and passed as an argument.
pub struct JoinableSender<T> {
    end: End,
    item: PhantomData<fn(T)>,
}

impl<T> Serialize for JoinableSender<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.end.serialize(serializer)
    }
}

impl<'de, T> Deserialize<'de> for JoinableSender<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self { end: End::deserialize(deserializer)?, item: PhantomData })
    }
}

/// The receiving end of a [joinable] queue. Can be cloned, and passed as an argument.
pub struct JoinableReceiver<T> {
    end: End,
    item: PhantomData<fn() -> T>,
}

impl<T> Serialize for JoinableReceiver<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.end.serialize(serializer)
    }
}

impl<'de, T> Deserialize<'de> for JoinableReceiver<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self { end: End::deserialize(deserializer)?, item: PhantomData })
    }
}

impl<T: Serialize + DeserializeOwned> JoinableSender<T> {
    /// Sends an item. Blocks while as many items as the capacity are not done.
    ///
    /// # Errors
    /// [`Error::is_disconnected`] when every receiver is gone; [`Error::is_codec`] when the item cannot be
    /// encoded, holds a descriptor or is larger than its share; [`Error::os_error`] when the kernel has no
    /// memory for it. The error gives the item back.
    pub fn send(&self, item: T) -> Result<(), SendError<T>> {
        self.put(item, Deadline::Never)
    }

    /// As [`send`](Self::send), but waits for room at most for `time`.
    ///
    /// # Errors
    /// Those of [`send`](Self::send); and [`Error::is_timeout`] when there was no room all that time.
    pub fn send_timeout(&self, item: T, time: Duration) -> Result<(), SendError<T>> {
        self.put(item, Deadline::after(time))
    }

    /// As [`send`](Self::send), but does not wait for room. If there is none, it takes some microseconds for
    /// each receiver to find out whether that lives.
    ///
    /// # Errors
    /// Those of [`send`](Self::send); and [`Error::is_full`] when there is no room.
    pub fn try_send(&self, item: T) -> Result<(), SendError<T>> {
        self.put(item, Deadline::now())
    }

    fn put(&self, item: T, deadline: Deadline) -> Result<(), SendError<T>> {
        let mut buffer = Scratch::borrow();
        let sent = wire::encode_value(&item, &mut buffer.0, TERMS.item).and_then(|bytes| {
            let sent = self.end.items.0.send(bytes, deadline, || self.end.peer_is_gone());
            TERMS.sent(sent?, deadline)
        });
        sent.map_err(|error| SendError::new(error, item))
    }
}

impl<T> JoinableSender<T> {
    /// Blocks until every item that was sent, by any process, is done.
    ///
    /// # Errors
    /// [`Error::is_disconnected`] when every receiver is gone and items are left. With [`Unfinished::Report`],
    /// an error of the kind [`Unacknowledged`](crate::ErrorKind::Unacknowledged) once no item is left, if items
    /// were lost: it says how many were lost since the last such error, and [`Error::pid`] which process lost
    /// the first of them.
    ///
    /// ```
    /// use multiproc::{ErrorKind, queue};
    ///
    /// let (sender, receiver) = queue::joinable(16, queue::Unfinished::Report)?;
    /// sender.send(1)?;
    /// drop(receiver.recv()?); // not done
    /// let error = sender.join().unwrap_err();
    /// assert_eq!((error.kind(), error.pid()), (ErrorKind::Unacknowledged, Some(std::process::id())));
    /// sender.join()?; // it was reported
    /// # Ok::<(), multiproc::Error>(())
    /// ```
    pub fn join(&self) -> Result<()> {
        self.wait(Deadline::Never)
    }

    /// As [`join`](Self::join), but blocks for `time` at most.
    ///
    /// # Errors
    /// Those of [`join`](Self::join); and [`Error::is_timeout`] when items are left after that time.
    pub fn join_timeout(&self, time: Duration) -> Result<()> {
        self.wait(Deadline::after(time))
    }

    /// The number of items that were sent and are not done. It may miss one while other processes send: only
    /// [`join`](Self::join) tells that all are done.
    pub fn unfinished(&self) -> usize {
        self.end.items.0.len()
    }

    /// The number of items that are queued, without those that receivers have:
    /// [`unfinished`](Self::unfinished) counts these, too. Other processes may change it at any time.
    ///
    /// ```
    /// use multiproc::queue;
    ///
    /// let (sender, receiver) = queue::joinable(16, queue::Unfinished::Redeliver)?;
    /// sender.send(1)?;
    /// sender.send(2)?;
    /// let delivery = receiver.recv()?;
    /// assert_eq!((sender.len(), sender.unfinished()), (1, 2));
    /// delivery.done();
    /// assert_eq!((sender.len(), sender.unfinished()), (1, 1));
    /// # Ok::<(), multiproc::Error>(())
    /// ```
    pub fn len(&self) -> usize {
        self.end.items.0.queued()
    }

    /// Whether no item is queued. Receivers may have items that are not done.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The most items that can be sent and not done.
    pub fn capacity(&self) -> usize {
        self.end.items.0.capacity()
    }

    fn wait(&self, deadline: Deadline) -> Result<()> {
        let is_joined = self.end.items.0.join(deadline, || self.end.peer_is_gone())?;
        if is_joined { Ok(()) } else { Err(Error::timeout("join a queue")) }
    }
}

impl<T: DeserializeOwned> JoinableReceiver<T> {
    /// Receives the next item. Blocks while none is queued and a sender is left, or items may come back: those
    /// that receivers have taken and not acknowledged, unless they are only [reported](Unfinished::Report). So a thread
    /// that keeps a delivery while it receives to the end waits for itself.
    ///
    /// # Errors
    /// [`Error::is_disconnected`] when no item is left and the last sender is gone; [`Error::is_codec`] when
    /// the item does not decode (that item is then done); and the kernel's error when it refuses memory for the item,
    /// which stays.
    pub fn recv(&self) -> Result<Delivery<T>> {
        self.take(Deadline::Never)
    }

    /// As [`recv`](Self::recv), but waits at most for `time`.
    ///
    /// # Errors
    /// Those of [`recv`](Self::recv); and [`Error::is_timeout`] when no item was queued all that time.
    pub fn recv_timeout(&self, time: Duration) -> Result<Delivery<T>> {
        self.take(Deadline::after(time))
    }

    /// As [`recv`](Self::recv), but does not wait for an item. If none is queued, it takes some microseconds for
    /// each receiver to find out whether that lives.
    ///
    /// # Errors
    /// Those of [`recv`](Self::recv); and [`Error::is_empty`] when no item is queued.
    pub fn try_recv(&self) -> Result<Delivery<T>> {
        self.take(Deadline::now())
    }

    /// Receives until no item is left and the last sender is gone.
    pub fn iter(&self) -> impl Iterator<Item = Result<Delivery<T>>> {
        let mut has_ended = false;
        std::iter::from_fn(move || errors::next(&mut has_ended, || self.recv()))
    }

    /// As [`iter`](Self::iter), but waits for each item at most for `time`: a timeout is the last item of this
    /// iterator.
    pub fn iter_timeout(&self, time: Duration) -> impl Iterator<Item = Result<Delivery<T>>> {
        let mut has_ended = false;
        std::iter::from_fn(move || errors::next(&mut has_ended, || self.recv_timeout(time)))
    }

    fn take(&self, deadline: Deadline) -> Result<Delivery<T>> {
        let end = &self.end;
        match end.items.0.receive(deadline, || end.peer_is_gone())? {
            Next::Item(taken, bytes) => {
                let receipt = Receipt::new(taken, end.clone());
                match panic::decode(&bytes, Vec::new(), TERMS.item) {
                    Ok(item) => Ok(Delivery { item, receipt }),
                    Err(error) => {
                        receipt.acknowledge();
                        Err(error)
                    }
                }
            }
            Next::TimedOut => Err(TERMS.timed_out(deadline)),
            Next::Disconnected => Err(TERMS.disconnected()),
        }
    }
}

impl<T> JoinableReceiver<T> {
    /// The number of items that are queued, without those that receivers have. Other processes may change it at
    /// any time.
    pub fn len(&self) -> usize {
        self.end.items.0.queued()
    }

    /// Whether no item is queued. A receiver may have items that come back.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The most items that can be sent and not done.
    pub fn capacity(&self) -> usize {
        self.end.items.0.capacity()
    }
}

impl<T: DeserializeOwned> IntoIterator for JoinableReceiver<T> {
    type Item = Result<Delivery<T>>;
    type IntoIter = JoinableIntoIter<T>;

    fn into_iter(self) -> JoinableIntoIter<T> {
        JoinableIntoIter { receiver: self, has_ended: false }
    }
}

/// Receives until no item is left and the last sender is gone. Made by [`JoinableReceiver::into_iter`].
#[derive(Debug)]
pub struct JoinableIntoIter<T> {
    receiver: JoinableReceiver<T>,
    has_ended: bool,
}

impl<T: DeserializeOwned> Iterator for JoinableIntoIter<T> {
    type Item = Result<Delivery<T>>;

    fn next(&mut self) -> Option<Self::Item> {
        errors::next(&mut self.has_ended, || self.receiver.recv())
    }
}

impl<T> Clone for JoinableSender<T> {
    fn clone(&self) -> Self {
        Self { end: self.end.clone(), item: PhantomData }
    }
}

impl<T> Clone for JoinableReceiver<T> {
    fn clone(&self) -> Self {
        Self { end: self.end.clone(), item: PhantomData }
    }
}

impl<T> fmt::Debug for JoinableSender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinableSender").field("unfinished", &self.unfinished()).finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for JoinableReceiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinableReceiver").finish_non_exhaustive()
    }
}
