//! The sending end of a queue.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use serde_core::Serialize;
use serde_core::de::DeserializeOwned;

use super::{SendError, TERMS};
use crate::channel::batch::Batch;
use crate::channel::{Message, SenderCore};
use crate::error::Result;
use crate::ipc::scratch::Scratch;
use crate::ipc::wire;
use crate::sys::poll::Deadline;
use crate::sys::socket::Sent;

/// The sending end of a queue. Can be cloned, and passed as an argument.
pub struct Sender<T> {
    pub(super) core: SenderCore,
    pub(super) item: PhantomData<fn(T)>,
}

impl<T: Serialize + DeserializeOwned> Sender<T> {
    /// Sends an item. Blocks while the queue is full; an unbounded queue never blocks.
    ///
    /// Once every receiver is gone, it returns an error: mostly at once, and within 10 ms if this process has not
    /// noticed their end. If receivers were killed while they were busy receiving, up to 64 more items may be sent
    /// first.
    ///
    /// # Errors
    /// [`is_disconnected`](crate::Error::is_disconnected) when every receiver is gone;
    /// [`is_codec`](crate::Error::is_codec) when the item cannot be encoded; the kernel's error when it refuses memory
    /// or a descriptor; [`is_full`](crate::Error::is_full) when an [unbounded](crate::queue::unbounded) queue has 2 GiB
    /// of items, or as many with descriptors as the kernel lets it have. The error gives the item back.
    pub fn send(&self, item: T) -> Result<(), SendError<T>> {
        self.put(item, Deadline::Never)
    }

    /// As [`send`](Self::send), but waits for room at most for `time`.
    ///
    /// # Errors
    /// Those of [`send`](Self::send); and [`is_timeout`](crate::Error::is_timeout) when the queue was full all
    /// that time. An unbounded queue has no room to wait for: its error is [`is_full`](crate::Error::is_full), at
    /// once, unless the time is over.
    pub fn send_timeout(&self, item: T, time: Duration) -> Result<(), SendError<T>> {
        self.put(item, Deadline::after(time))
    }

    /// As [`send`](Self::send), but does not wait for room. It blocks for at most 1 ms while another sender
    /// is sending.
    ///
    /// # Errors
    /// Those of [`send`](Self::send); and [`is_full`](crate::Error::is_full) when the queue is full.
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
                let (error, mut unsent) = refused.map_or_else(|| (error, Vec::new()), SendError::into_parts);
                unsent.push(item);
                return Err(SendError::new(error, unsent));
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
        sent.map_err(|error| SendError::new(error, item))
    }

    fn put_encoded(&self, item: &T, buffer: &mut Vec<u8>, deadline: Deadline) -> Result<()> {
        let (bytes, descriptors) = wire::encode_value_with_descriptors(item, buffer, TERMS.item)?;
        let message = Message { bytes, descriptors: &descriptors };
        self.sent(self.core.send([message], deadline, &mut 0)?, deadline)
    }

    /// An unbounded queue that is full does not wait. Any other wait in vain is one for another sender.
    fn sent(&self, outcome: Sent, deadline: Deadline) -> Result<()> {
        let is_full = outcome == Sent::TimedOut && self.capacity().is_none() && !deadline.is_over();
        TERMS.sent(outcome, if is_full { Deadline::now() } else { deadline })
    }

    fn put_batch(&self, batch: &mut Batch, items: &mut Vec<T>) -> Result<(), SendError<Vec<T>>> {
        let mut sent = 0;
        let outcome = self.core.send_batch(batch, Deadline::Never, &mut sent);
        batch.clear();
        let unsent = items.drain(..).skip(sent);
        outcome
            .and_then(|outcome| self.sent(outcome, Deadline::Never))
            .map_err(|error| SendError::new(error, unsent.collect()))
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

    /// The most items that the queue holds; `None` if it is [unbounded](super::unbounded).
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

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self { core: self.core.clone(), item: PhantomData }
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").finish_non_exhaustive()
    }
}
