//! A stand-in for `multiproc::wire`: memory and descriptors stay within the model's process.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::Result;

pub(crate) use crate::sys::mapping::SharedMapping as SharedMemory;

/// A file descriptor.
#[derive(Clone, Debug)]
pub(crate) struct SharedFd(Arc<OwnedFd>);

/// What can be encoded.
pub(crate) trait Transferable {}

pub(crate) fn encode_with_descriptors<T>(_item: &T, _to: &mut Vec<u8>, _what: &str) -> Result<Vec<SharedFd>> {
    unreachable!("a model encodes no item")
}

impl From<OwnedFd> for SharedFd {
    fn from(fd: OwnedFd) -> Self {
        Self(Arc::new(fd))
    }
}

impl AsFd for SharedFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
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
