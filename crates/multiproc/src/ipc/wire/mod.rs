//! Encoding and decoding of values that cross to another process, with the descriptors that travel beside
//! them.
//!
//! A raw value (see [`crate::codec::raw`]) is its own bytes. Any other begins with a byte that names its
//! encoding.

pub(crate) mod attachment;
mod descriptors;
mod memory;
mod segments;
mod shared_fd;
#[cfg(test)]
mod tests;

use std::panic::{AssertUnwindSafe, catch_unwind};

use serde_core::Serialize;
use serde_core::de::DeserializeOwned;

use self::descriptors::{Attachment, Beside};
use crate::codec;
use crate::codec::raw;
use crate::codec::{EncodingChoice, ErasedValue};
use crate::error::{Cause, Error, Result};

pub(crate) use self::memory::SharedMemory;
pub(crate) use self::segments::{
    Arrived, MAX_MEMORY_BYTES, MAX_SEGMENTS, SegmentList, Segments, SegmentsIdentity,
};
pub(crate) use self::shared_fd::{SegmentId, SharedFd};

/// The first byte of a value that is not raw.
const COMPACT: u8 = 0;
const DESCRIBED: u8 = 1;
/// The list of [attachments](attachment), after which another of these bytes follows.
const ATTACHED: u8 = 2;

/// A value that can be encoded here and decoded in another process.
pub(crate) trait Transferable: Serialize + DeserializeOwned {}

impl<T: Serialize + DeserializeOwned> Transferable for T {}

/// Appends a value to `out`, which stays as it is on an error. `what` names the value in the error.
///
/// The receiver must decode the very same type: the bytes of a raw value do not say what they are.
#[inline]
pub(crate) fn encode<T: Transferable>(value: &T, out: &mut Vec<u8>, what: &str) -> Result<()> {
    if let Some(bytes) = raw::as_bytes(value) {
        out.extend_from_slice(bytes);
        return Ok(());
    }
    or_undo(out, what, |out| encode_marked(value, out, false))
}

/// The encoding of a value: its own bytes if it is raw, otherwise `scratch`, which is empty before.
#[inline]
pub(crate) fn encode_value<'a, T: Transferable>(
    value: &'a T,
    scratch: &'a mut Vec<u8>,
    what: &str,
) -> Result<&'a [u8]> {
    if let Some(bytes) = raw::as_bytes(value) {
        return Ok(bytes);
    }
    encode(value, scratch, what)?;
    Ok(scratch)
}

/// As [`encode_value`], for values that may hold descriptors.
#[inline]
pub(crate) fn encode_value_with_descriptors<'a, T: Transferable>(
    value: &'a T,
    scratch: &'a mut Vec<u8>,
    what: &str,
) -> Result<(&'a [u8], Vec<SharedFd>)> {
    if let Some(bytes) = raw::as_bytes(value) {
        return Ok((bytes, Vec::new()));
    }
    let descriptors = encode_with_descriptors(value, scratch, what)?;
    Ok((scratch, descriptors))
}

/// As [`encode`], for values that may hold descriptors.
pub(crate) fn encode_with_descriptors<T: Transferable>(
    value: &T,
    out: &mut Vec<u8>,
    what: &str,
) -> Result<Vec<SharedFd>> {
    if raw::is_raw::<T>() {
        encode(value, out, what)?;
        return Ok(Vec::new());
    }
    let start = out.len();
    let beside = descriptors::collect(false, || or_undo(out, what, |out| encode_marked(value, out, true)))?;
    put_in_front(beside, out, start, what)
}

/// As [`encode_with_descriptors`], for a value of a chunk. Memory that has travelled before goes into the chunk's
/// list, and the value names it there.
pub(crate) fn encode_naming<T: Transferable>(
    value: &T,
    out: &mut Vec<u8>,
    segments: &mut SegmentList,
    what: &str,
) -> Result<Vec<SharedFd>> {
    let start = out.len();
    let encode = || or_undo(out, what, |out| encode_marked(value, out, true));
    put_in_front(descriptors::collect_naming(segments, encode)?, out, start, what)
}

/// Whether something was beside an encoded value, which is not raw.
pub(crate) fn has_attachments(bytes: &[u8]) -> bool {
    bytes.first() == Some(&ATTACHED)
}

/// Puts the attachments in front of the value, which begins at `start`; returns the descriptors.
fn put_in_front(
    beside: Beside<SharedFd, Attachment>,
    out: &mut Vec<u8>,
    start: usize,
    what: &str,
) -> Result<Vec<SharedFd>> {
    if !beside.attachments.is_empty() {
        let mut front = vec![ATTACHED];
        encode_internal(&beside.attachments, &mut front, what)?;
        out.splice(start..start, front);
    }
    Ok(beside.descriptors)
}

/// As [`encode`], for a type of the library itself, which always fits the compact encoding. It keeps the code
/// of the other encoding out of programs that do not need it.
pub(crate) fn encode_internal<T: Serialize>(value: &T, out: &mut Vec<u8>, what: &str) -> Result<()> {
    or_undo(out, what, |out| codec::encode(value, out))
}

/// As [`encode_internal`], for values that may hold descriptors.
pub(crate) fn encode_internal_with_descriptors<T: Serialize>(
    value: &T,
    out: &mut Vec<u8>,
    what: &str,
) -> Result<Vec<SharedFd>> {
    Ok(descriptors::collect(true, || encode_internal(value, out, what))?.descriptors)
}

/// Decodes a value that takes up all of `bytes`, with what arrived beside them.
#[inline]
pub(crate) fn decode<T: DeserializeOwned>(
    bytes: &[u8],
    arrived: impl Into<Arrived>,
    what: &str,
) -> Result<T> {
    if let Some(value) = raw::from_bytes(bytes) {
        return value.map_err(|error| Error::decode(what, error));
    }
    whole(decode_front(bytes, arrived, what)?, what)
}

/// Decodes a value at the front of `bytes`, and returns the bytes after it, too. A raw value has no end of
/// its own, so it is an error.
pub(crate) fn decode_front<'a, T: DeserializeOwned>(
    bytes: &'a [u8],
    arrived: impl Into<Arrived>,
    what: &str,
) -> Result<(T, &'a [u8])> {
    if raw::is_raw::<T>() {
        return Err(Error::decode(what, "no bytes may follow a raw value"));
    }
    let decode = |bytes, attachments| {
        descriptors::provide(false, arrived.into(), attachments, || decode_marked(bytes))
            .map_err(|error| Error::decode(what, error))
    };
    match bytes.split_first() {
        Some((&ATTACHED, rest)) => {
            let (attachments, bytes) = codec::decode(rest).map_err(|error| Error::decode(what, error))?;
            decode(bytes, attachments)
        }
        _ => decode(bytes, Vec::new()),
    }
}

/// As [`decode`], for a value of [`encode_internal`].
pub(crate) fn decode_internal<T: DeserializeOwned>(
    bytes: &[u8],
    arrived: impl Into<Arrived>,
    what: &str,
) -> Result<T> {
    whole(decode_internal_front(bytes, arrived, what)?, what)
}

/// As [`decode_front`], for a value of [`encode_internal`].
pub(crate) fn decode_internal_front<'a, T: DeserializeOwned>(
    bytes: &'a [u8],
    arrived: impl Into<Arrived>,
    what: &str,
) -> Result<(T, &'a [u8])> {
    descriptors::provide(true, arrived.into(), Vec::new(), || codec::decode(bytes))
        .map_err(|error| Error::decode(what, error))
}

/// Appends to `out`, and undoes that on an error.
#[inline]
fn or_undo(
    out: &mut Vec<u8>,
    what: &str,
    encode: impl FnOnce(&mut Vec<u8>) -> Result<(), codec::Error>,
) -> Result<()> {
    let before = out.len();
    encode(out).map_err(|error| {
        out.truncate(before);
        Error::new(Cause::Encode { what: what.to_owned(), why: error.to_string() })
    })
}

#[inline]
fn whole<T>((value, rest): (T, &[u8]), what: &str) -> Result<T> {
    #[cold]
    fn too_many(bytes: usize, what: &str) -> Error {
        Error::decode(what, format!("{bytes} bytes too many"))
    }
    if rest.is_empty() { Ok(value) } else { Err(too_many(rest.len(), what)) }
}

#[inline]
fn encode_marked<T: Transferable>(
    value: &T,
    out: &mut Vec<u8>,
    carries_descriptors: bool,
) -> Result<(), codec::Error> {
    if !codec::fits::<T>() {
        return encode_unknown(value, out, carries_descriptors);
    }
    let before = out.len();
    out.push(COMPACT);
    match codec::encode(value, out) {
        Err(error) if error.is_left_out() => {
            out.truncate(before);
            describe(value, out, carries_descriptors, true)
        }
        encoded => encoded,
    }
}

#[inline]
fn decode_marked<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, &[u8]), codec::Error> {
    match bytes.split_first() {
        Some((&COMPACT, bytes)) => codec::decode(bytes),
        Some((&DESCRIBED, bytes)) => codec::decode_described(bytes),
        Some((other, _)) => Err(codec::Error::new(format_args!("unknown encoding {other:#x}"))),
        None => Err(codec::Error::new("no bytes")),
    }
}

#[cold]
fn encode_unknown<T: Transferable>(
    value: &T,
    out: &mut Vec<u8>,
    carries_descriptors: bool,
) -> Result<(), codec::Error> {
    // A `Serialize` that itself sends something must not send a probe's made-up value.
    if codec::is_probing() {
        return Err(codec::Error::new("it is sent by a value that is only made up"));
    }
    let found = descriptors::isolate(|| codec::encoding_choice(value));
    if found == EncodingChoice::Fits {
        return encode_marked(value, out, carries_descriptors);
    }
    describe(value, out, carries_descriptors, found == EncodingChoice::NeedsNames)
}

/// Encodes a value with the names of its parts, and checks by decoding that it will arrive.
///
/// `carries_descriptors`: the list of descriptors belongs to this value. `must_decode`: a value that does not
/// decode is refused here, not by the receiver.
#[cold]
fn describe(
    value: &dyn ErasedValue,
    out: &mut Vec<u8>,
    carries_descriptors: bool,
    must_decode: bool,
) -> Result<(), codec::Error> {
    if carries_descriptors {
        descriptors::clear_outgoing(); // those of the compact encoding, which has failed
    }
    out.push(DESCRIBED);
    let before = out.len();
    codec::describe(value, out)?;
    let has_beside = carries_descriptors && descriptors::has_outgoing();
    if has_beside && !must_decode {
        return Ok(()); // of a type with a descriptor, which probing cannot make up; to try takes too long
    }
    match survives_round_trip(value, (!has_beside).then_some(&out[before..])) {
        Ok(false) => Err(codec::Error::new(
            "another value would arrive, because of an attribute of its type: `untagged` takes the first \
             variant that fits, `default` need not be what `skip_serializing_if` leaves out, and `with` or \
             `deserialize_with` need not read what was written",
        )),
        Err(why) if must_decode => Err(codec::Error::new(refusal(&why))),
        Ok(true) | Err(_) => Ok(()),
    }
}

/// Whether a value decodes to itself; an error if it does not decode. `bytes`: its encoding, unless it has
/// something beside it.
fn survives_round_trip(value: &dyn ErasedValue, bytes: Option<&[u8]>) -> Result<bool, String> {
    let attempt = || {
        if let Some(bytes) = bytes {
            return codec::survives_round_trip(value, bytes, bytes);
        }
        let (mut sent, mut expected) = (Vec::new(), Vec::new());
        codec::describe(value, &mut sent)?;
        descriptors::begin_round();
        codec::describe(value, &mut expected)?;
        codec::survives_round_trip(value, &sent, &expected)
    };
    match catch_unwind(AssertUnwindSafe(|| descriptors::attempt(attempt))) {
        Ok(survives) => survives.map_err(|error| error.to_string()),
        Err(payload) => {
            std::mem::forget(payload); // dropping it may panic once more
            Err("its type panics".to_owned())
        }
    }
}

/// The reason why a value would not arrive, with the attribute that most likely causes it.
fn refusal(why: &str) -> String {
    let blame = if ["128 is not supported", "as u128,", "as i128,"].iter().any(|words| why.contains(words)) {
        "serde's `tag`, `untagged` and `flatten` do not take a 128-bit number"
    } else if why.contains("missing field") {
        "what `skip_serializing` or `skip_serializing_if` leaves out needs a `default`, or `rename` differs"
    } else if why.contains("unknown field") {
        "`deny_unknown_fields` refuses what `skip_deserializing` ignores; names differ by `rename`"
    } else if why.contains("unknown variant") {
        "`skip_deserializing` leaves out a variant, or names differ by `rename`"
    } else {
        "its type reads what it does not write; see its attributes"
    };
    format!("it would not arrive: {why} ({blame})")
}
