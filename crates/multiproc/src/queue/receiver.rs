//! The receiving end of a queue.

use std::fmt;
use std::iter::FusedIterator;
use std::marker::PhantomData;
use std::time::Duration;

use serde_core::de::DeserializeOwned;

use super::TERMS;
use crate::channel::batch::Batch;
use crate::channel::errors;
use crate::channel::{ReceiveOutcome, ReceiverCore};
use crate::codec::raw;
use crate::error::{Error, Result};
use crate::ipc::panic;
use crate::ipc::scratch::Undecoded;
use crate::sys::poll::Deadline;

/// The receiving end of a queue. Can be cloned, and passed as an argument.
///
/// As an iterator it yields items until the last sender is gone. Each is a `Result`, because an item may fail
/// to decode; such an error does not end the iteration. An error that consumes no item is the last one: the
/// process has no descriptor or memory left to receive an item, which then stays in the queue. A later
/// [`iter`](Self::iter) continues with that item.
pub struct Receiver<T> {
    pub(super) core: ReceiverCore,
    pub(super) item: PhantomData<fn() -> T>,
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
    /// of those in the queue. It takes no more once it has 1 MiB of them. Blocks while the queue is empty and a sender
    /// is left. A `max` of 0 returns no item, at once.
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

impl<T> Receiver<T> {
    pub(crate) fn core(&self) -> &ReceiverCore {
        &self.core
    }

    /// As [`Sender::close`](super::Sender::close): nothing can be sent any more, and what was sent can still be
    /// received.
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

    /// The most items that the queue holds; `None` if it is [unbounded](super::unbounded).
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

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        Self { core: self.core.clone(), item: PhantomData }
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").finish_non_exhaustive()
    }
}
