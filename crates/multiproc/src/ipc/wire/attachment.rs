//! Attachments: what a value of the library sends beside the value of the user that holds it.
//!
//! A user's `Serialize` sees what its parts pass to the serializer. It can alter that, repeat it, and mix the
//! parts of two values. So the descriptors, bounds and numbers on which soundness rests do not pass through
//! it: this module encodes them itself, and the user's encoding holds an index into the list of attachments.
//! A receiver takes each attachment once, whole, and as the kind as which it was sent. Another index is
//! another attachment of the same message, or an error.

use serde_core::de::{DeserializeOwned, Error as _};
use serde_core::ser::Error as _;
use serde_core::{Deserialize, Deserializer, Serialize, Serializer};

use super::descriptors::{self, Attachment};
use super::shared_fd::SharedFd;
use crate::codec;

pub(crate) use super::descriptors::Kind;

/// Attaches a value, which holds none of a user, and encodes the attachment's index. Inside of another
/// attachment, or of a message of the library, the value is encoded in place.
pub(crate) fn serialize<S: Serializer>(
    kind: Kind,
    value: &impl Serialize,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    if descriptors::is_encoding_internally() {
        return value.serialize(serializer);
    }
    let mut bytes = Vec::new();
    descriptors::encode_internally(|| codec::encode(value, &mut bytes)).map_err(S::Error::custom)?;
    match descriptors::attach(Attachment { kind, bytes }) {
        Some(index) => serializer.serialize_u32(index),
        None => Err(S::Error::custom(descriptors::NO_TRANSPORT)),
    }
}

/// The value that was attached.
pub(crate) fn deserialize<'de, T: DeserializeOwned, D: Deserializer<'de>>(
    kind: Kind,
    deserializer: D,
) -> Result<T, D::Error> {
    if descriptors::is_decoding_internally() {
        return T::deserialize(deserializer);
    }
    let index = u32::deserialize(deserializer)?;
    let attachment =
        descriptors::detach(index, kind).ok_or_else(|| D::Error::custom(descriptors::NOT_ARRIVED))?;
    match descriptors::decode_internally(|| codec::decode(&attachment.bytes)).map_err(D::Error::custom)? {
        (value, []) => Ok(value),
        _ => Err(D::Error::custom("an attachment has too many bytes")),
    }
}

impl Serialize for SharedFd {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if !descriptors::is_encoding_internally() {
            return serialize(Kind::Fd, self, serializer);
        }
        let index =
            descriptors::push_descriptor(self).ok_or_else(|| S::Error::custom(descriptors::NO_TRANSPORT))?;
        serializer.serialize_u32(index)
    }
}

impl<'de> Deserialize<'de> for SharedFd {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if !descriptors::is_decoding_internally() {
            return deserialize(Kind::Fd, deserializer);
        }
        let index = u32::deserialize(deserializer)?;
        descriptors::take_descriptor(index).ok_or_else(|| D::Error::custom(descriptors::NOT_ARRIVED))
    }
}
