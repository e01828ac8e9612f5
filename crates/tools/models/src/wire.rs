//! A stand-in for `multiproc::wire`: memory and descriptors stay within the model's process.

use loom::sync::Arc;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::sys::EventFd;

pub(crate) use crate::sys::mapping::SharedMapping as SharedMemory;

/// A file descriptor.
#[derive(Clone, Debug)]
pub(crate) struct SharedFd(pub(crate) Arc<EventFd>);

impl SharedFd {
    pub(crate) fn as_fd(&self) -> &EventFd {
        &self.0
    }
}

impl Serialize for SharedFd {
    fn serialize<S: Serializer>(&self, _serializer: S) -> Result<S::Ok, S::Error> {
        unreachable!("a model serializes no descriptor")
    }
}

impl<'de> Deserialize<'de> for SharedFd {
    fn deserialize<D: Deserializer<'de>>(_deserializer: D) -> Result<Self, D::Error> {
        unreachable!("a model serializes no descriptor")
    }
}

impl Serialize for SharedMemory {
    fn serialize<S: Serializer>(&self, _serializer: S) -> Result<S::Ok, S::Error> {
        unreachable!("a model serializes no memory")
    }
}

impl<'de> Deserialize<'de> for SharedMemory {
    fn deserialize<D: Deserializer<'de>>(_deserializer: D) -> Result<Self, D::Error> {
        unreachable!("a model serializes no memory")
    }
}

/// A model encodes no attachment.
pub(crate) mod attachment {
    use serde::{Deserializer, Serialize, Serializer};

    pub(crate) enum Kind {
        Sync,
    }

    pub(crate) fn serialize<S: Serializer>(
        _kind: Kind,
        _value: &impl Serialize,
        _serializer: S,
    ) -> Result<S::Ok, S::Error> {
        unreachable!("a model serializes no attachment")
    }

    pub(crate) fn deserialize<'de, T, D: Deserializer<'de>>(
        _kind: Kind,
        _deserializer: D,
    ) -> Result<T, D::Error> {
        unreachable!("a model serializes no attachment")
    }
}
