//! An item of a joinable queue in its receiver's hands.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::os::fd::AsFd;

use serde_core::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::Result;
use crate::impl_serde::impl_serde;
use crate::ipc::wire::SharedFd;
use crate::ipc::wire::attachment::{self, Kind};
use crate::sync::deliveries::{Deliveries, Taken};
use crate::sys::poll::{self, Deadline, PollFlags};

/// An item that was received and is not done. It gives access to the item by `Deref`.
///
/// Dropping it is not an acknowledgement: a `?` or a panic must not pass for work done. The item then goes back
/// or is reported, see [`Unfinished`](super::Unfinished).
#[must_use = "an item that is not `done` goes back to the queue, or is reported as lost"]
pub struct Delivery<T> {
    pub(super) item: T,
    pub(super) receipt: Receipt,
}

/// Gives the item up, unless it is acknowledged. It counts as a receiver.
pub(super) struct Receipt {
    taken: Option<Taken>,
    end: End,
}

/// One end: its side of a socket pair, by which the other side sees the last holder go; and the items. Dropped
/// in this order.
#[derive(Clone)]
pub(super) struct End {
    pub(super) link: SharedFd,
    pub(super) items: Items,
}

/// Notifies the other side when an end is dropped.
#[derive(Clone)]
pub(super) struct Items(pub(super) Deliveries);

impl_serde!(newtype Items);

impl<T> Delivery<T> {
    /// Acknowledges the item, Python's `task_done`, and returns it. Does not block.
    pub fn done(self) -> T {
        self.receipt.acknowledge();
        self.item
    }

    /// How often the item was received, this time included. An item that kills each of its receivers comes back
    /// each time: give it up at some number.
    ///
    /// ```
    /// let (sender, receiver) = multiproc::queue::joinable(16, multiproc::queue::Unfinished::Redeliver)?;
    /// sender.send(7)?;
    /// drop(receiver.recv()?);
    /// assert_eq!(receiver.recv()?.attempt(), 2);
    /// # Ok::<(), multiproc::Error>(())
    /// ```
    pub fn attempt(&self) -> u32 {
        self.receipt.taken.as_ref().map_or(0, Taken::attempt)
    }
}

impl Receipt {
    pub(super) fn new(taken: Taken, end: End) -> Self {
        Self { taken: Some(taken), end }
    }

    pub(super) fn acknowledge(mut self) {
        if let Some(taken) = self.taken.take().filter(Taken::is_own) {
            self.end.items.0.acknowledge(&taken);
        }
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        if let Some(taken) = self.taken.take().filter(Taken::is_own) {
            self.end.items.0.give_up(&taken);
        }
    }
}

impl End {
    /// Whether all ends of the other side are gone; `false` if the kernel does not tell.
    pub(super) fn peer_is_gone(&self) -> bool {
        poll::ready(self.link.as_fd(), PollFlags::empty(), Deadline::now()).unwrap_or(false)
    }
}

impl Serialize for End {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        attachment::serialize(Kind::Joinable, &(&self.link, &self.items), serializer)
    }
}

impl<'de> Deserialize<'de> for End {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (link, items) = attachment::deserialize(Kind::Joinable, deserializer)?;
        Ok(Self { link, items })
    }
}

impl Drop for Items {
    fn drop(&mut self) {
        self.0.notify();
    }
}

impl<T> Deref for Delivery<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.item
    }
}

impl<T> DerefMut for Delivery<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.item
    }
}

impl<T: fmt::Debug> fmt::Debug for Delivery<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Delivery").field(&self.item).finish()
    }
}
