//! A stand-in for `multiproc::wire`: memory and descriptors stay within the model's process.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use serde_core::de::DeserializeOwned;
use serde_core::de::value::SeqDeserializer;
use serde_core::{Deserialize, Deserializer, Serialize, Serializer};

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

/// Any value is these bytes.
const ENCODED: [u8; 8] = [7; 8];

#[allow(clippy::unnecessary_wraps)] // as the library has it
pub(crate) fn encode_internal(_value: &impl Serialize, to: &mut Vec<u8>, _what: &str) -> Result<()> {
    to.extend(ENCODED);
    Ok(())
}

/// A structure whose parts are nothing, such as an error of a model.
#[allow(clippy::unnecessary_wraps)]
pub(crate) fn decode_internal<T: DeserializeOwned>(
    bytes: &[u8],
    _descriptors: Vec<OwnedFd>,
    what: &str,
) -> Result<T> {
    assert_eq!(bytes, ENCODED, "torn: {what}");
    let parts = SeqDeserializer::<_, serde_core::de::value::Error>::new([(), ()].into_iter());
    Ok(T::deserialize(parts).unwrap())
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
    use serde_core::{Deserializer, Serialize, Serializer};

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
