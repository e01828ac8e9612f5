//! The transfer of a queue's ends to another process.

use std::marker::PhantomData;

use serde_core::de::Error as _;
use serde_core::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Receiver, Sender};
use crate::channel::endpoint::EndpointFds;
use crate::channel::{Layout, ReceiverCore, SenderCore};
use crate::error::Result;
use crate::ipc::wire::SharedMemory;
use crate::ipc::wire::attachment::{self, Kind};

/// The encoding of an end: its memory, its descriptors, and the queue's capacity, 0 if it is unbounded.
type Parts = (SharedMemory, EndpointFds, u32);

pub(super) const fn layout(capacity: u32) -> Layout {
    match capacity {
        0 => Layout::sparse(0),
        _ => Layout::new(0, 4 * 1024 * 1024, capacity),
    }
}

fn capacity(layout: Layout) -> u32 {
    layout.limit().and_then(|limit| u32::try_from(limit).ok()).unwrap_or(0)
}

impl<T> Serialize for Sender<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let end = self.core.end();
        let parts = (end.memory(), end.fds(), capacity(end.layout()));
        attachment::serialize(Kind::Sender, &parts, serializer)
    }
}

impl<T> Serialize for Receiver<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let end = self.core.end();
        let parts = (end.memory(), end.fds(), capacity(end.layout()));
        attachment::serialize(Kind::Receiver, &parts, serializer)
    }
}

impl<'de, T> Deserialize<'de> for Sender<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (memory, fds, capacity): Parts = attachment::deserialize(Kind::Sender, deserializer)?;
        let core = SenderCore::open(layout(capacity), memory, fds).map_err(D::Error::custom)?;
        Ok(Self { core, item: PhantomData })
    }
}

impl<'de, T> Deserialize<'de> for Receiver<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (memory, fds, capacity): Parts = attachment::deserialize(Kind::Receiver, deserializer)?;
        let core = ReceiverCore::open(layout(capacity), memory, fds).map_err(D::Error::custom)?;
        Ok(Self { core, item: PhantomData })
    }
}
