//! Values as bytes, and the descriptors that travel beside them.

use std::cell::RefCell;
use std::mem::ManuallyDrop;
use std::num::NonZeroUsize;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use serde::de::{DeserializeOwned, Error as _};
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::codec;
use crate::codec::raw;
use crate::codec::{Finding, Subject};
use crate::error::{Cause, Error, Result};
use crate::ipc::ring::Memory;
use crate::sys::mapping::SharedMapping;

/// Appends a value to `out`; on an error `out` is as before. `what` names the value in the error.
///
/// Who decodes it must mean the same type: not only one that serde would take for it, since a plain value
/// (see [`crate::codec::raw`]) goes by its bytes alone.
#[inline]
pub(crate) fn encode<T: Travels>(value: &T, out: &mut Vec<u8>, what: &str) -> Result<()> {
    if let Some(bytes) = raw::as_bytes(value) {
        out.extend_from_slice(bytes);
        return Ok(());
    }
    encode_serde(value, out, false, what)
}

#[inline]
fn encode_serde<T: Travels>(value: &T, out: &mut Vec<u8>, has_list: bool, what: &str) -> Result<()> {
    let before = out.len();
    encode_marked(value, out, has_list).map_err(|error| {
        out.truncate(before);
        Error::new(Cause::Encode { what: what.to_owned(), why: error.to_string() })
    })
}

/// What can be encoded here, and decoded there.
pub(crate) trait Travels: Serialize + DeserializeOwned {}

impl<T: Serialize + DeserializeOwned> Travels for T {}

/// The encoding of a value: of a plain one its own bytes, of others what is made in `scratch`, which is
/// empty.
#[inline]
pub(crate) fn encode_value<'a, T: Travels>(
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

/// As [`encode`], for values that may hold descriptors.
pub(crate) fn encode_with_descriptors<T: Travels>(
    value: &T,
    out: &mut Vec<u8>,
    what: &str,
) -> Result<Vec<SharedFd>> {
    if raw::is_raw::<T>() {
        encode(value, out, what)?;
        return Ok(Vec::new());
    }
    OUTGOING.with(|list| {
        let meanwhile = Scope::begin(list, Some(Vec::new()));
        encode_serde(value, out, true, what)?;
        Ok(meanwhile.end().unwrap_or_default())
    })
}

/// As [`encode`], for a type of the library's own: it has no attribute for which the compact encoding does
/// not fit. So a program does not have to hold the code that finds that out, nor the code of the other
/// encoding.
pub(crate) fn encode_own<T: Serialize>(value: &T, out: &mut Vec<u8>, what: &str) -> Result<()> {
    let before = out.len();
    codec::encode(value, out).map_err(|error| {
        out.truncate(before);
        Error::new(Cause::Encode { what: what.to_owned(), why: error.to_string() })
    })
}

/// As [`encode_own`], for values that may hold descriptors.
pub(crate) fn encode_own_with_descriptors<T: Serialize>(
    value: &T,
    out: &mut Vec<u8>,
    what: &str,
) -> Result<Vec<SharedFd>> {
    OUTGOING.with(|list| {
        let meanwhile = Scope::begin(list, Some(Vec::new()));
        encode_own(value, out, what)?;
        Ok(meanwhile.end().unwrap_or_default())
    })
}

/// As [`decode`], of what [`encode_own`] has written.
pub(crate) fn decode_own<T: DeserializeOwned>(
    bytes: &[u8],
    descriptors: Vec<OwnedFd>,
    what: &str,
) -> Result<T> {
    match decode_own_front(bytes, descriptors, what)? {
        (value, []) => Ok(value),
        (_, rest) => Err(too_many(rest, what)),
    }
}

/// As [`decode_own`], from the front of `bytes`; gives the bytes behind the value, too.
pub(crate) fn decode_own_front<'a, T: DeserializeOwned>(
    bytes: &'a [u8],
    descriptors: Vec<OwnedFd>,
    what: &str,
) -> Result<(T, &'a [u8])> {
    INCOMING.with(|list| {
        let _meanwhile = Scope::begin(list, descriptors.into_iter().map(Some).collect());
        codec::decode(bytes).map_err(|error| Error::decode(what, error))
    })
}

#[cold]
fn too_many(rest: &[u8], what: &str) -> Error {
    Error::decode(what, format!("{} bytes too many", rest.len()))
}

/// Reads one value that takes up all of `bytes`, and the descriptors that came with them.
#[inline]
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8], descriptors: Vec<OwnedFd>, what: &str) -> Result<T> {
    if let Some(value) = raw::from_bytes(bytes) {
        return value.map_err(|error| Error::decode(what, error));
    }
    match decode_front(bytes, descriptors, what)? {
        (value, []) => Ok(value),
        (_, rest) => Err(too_many(rest, what)),
    }
}

/// Reads one value from the front of `bytes`; gives the bytes behind it, too.
///
/// Not a plain one, which has no end of its own: that is an error, whatever the bytes are.
pub(crate) fn decode_front<'a, T: DeserializeOwned>(
    bytes: &'a [u8],
    descriptors: Vec<OwnedFd>,
    what: &str,
) -> Result<(T, &'a [u8])> {
    if raw::is_raw::<T>() {
        return Err(Error::decode(what, "a plain value must not be followed by anything"));
    }
    INCOMING.with(|list| {
        let _meanwhile = Scope::begin(list, descriptors.into_iter().map(Some).collect());
        decode_marked(bytes).map_err(|error| Error::decode(what, error))
    })
}

// In front of each value that is not a plain one stands which encoding it is in.
const COMPACT: u8 = 0;
const DESCRIBED: u8 = 1;

#[inline]
fn encode_marked<T: Travels>(value: &T, out: &mut Vec<u8>, has_list: bool) -> Result<(), codec::Error> {
    if !codec::fits::<T>() {
        return encode_unknown(value, out, has_list);
    }
    let before = out.len();
    out.push(COMPACT);
    match codec::encode(value, out) {
        Err(error) if error.is_left_out() => {
            out.truncate(before);
            describe(value, out, has_list, true)
        }
        encoded => encoded,
    }
}

#[cold]
fn encode_unknown<T: Travels>(value: &T, out: &mut Vec<u8>, has_list: bool) -> Result<(), codec::Error> {
    // The code of a type that sends something itself must not do so for a value that is made up.
    if codec::is_trying_out() {
        return Err(codec::Error::new("it is sent by a value that is only made up"));
    }
    let found = without_lists(|| codec::finding(value));
    if found == Finding::Fits {
        return encode_marked(value, out, has_list);
    }
    describe(value, out, has_list, found == Finding::NeedsNames)
}

/// Looks at a value apart from the one that is being encoded or decoded.
fn without_lists<R>(look: impl FnOnce() -> R) -> R {
    INCOMING.with(|incoming| {
        let _meanwhile = Scope::begin(incoming, Vec::new());
        OUTGOING.with(|outgoing| {
            let _meanwhile = Scope::begin(outgoing, Some(Vec::new()));
            look()
        })
    })
}

/// In the encoding that says what is there. Whether the value arrives is not sure then, since names and kinds
/// are looked at; so it is tried. `has_list` says whether the list of descriptors is for this value,
/// `must_decode` whether one that does not decode is refused here, not there.
#[cold]
fn describe(
    value: &dyn Subject,
    out: &mut Vec<u8>,
    has_list: bool,
    must_decode: bool,
) -> Result<(), codec::Error> {
    let list = |change: fn(&mut Vec<SharedFd>) -> usize| {
        OUTGOING.with_borrow_mut(|list| list.as_mut().filter(|_| has_list).map_or(0, change))
    };
    list(|handles| {
        handles.clear(); // what was collected by an attempt that is given up
        0
    });
    out.push(DESCRIBED);
    let before = out.len();
    codec::describe(value, out)?;
    if list(|handles| handles.len()) > 0 {
        return Ok(()); // descriptors do not decode here
    }
    match arrives(value, &out[before..]) {
        Ok(false) => Err(codec::Error::new(
            "another value would arrive, because of an attribute of its type: `untagged` takes the first variant \
             that fits, and `default` need not be what `skip_serializing_if` leaves out",
        )),
        Err(why) if must_decode => Err(codec::Error::new(refusal(&why))),
        Ok(true) | Err(_) => Ok(()),
    }
}

/// Whether a value arrives as it is; or else why it does not arrive.
fn arrives(value: &dyn Subject, bytes: &[u8]) -> Result<bool, String> {
    let arrives = || {
        INCOMING.with(|incoming| {
            let _meanwhile = Scope::begin(incoming, Vec::new());
            codec::arrives(value, bytes)
        })
    };
    match catch_unwind(AssertUnwindSafe(arrives)) {
        Ok(arrives) => arrives.map_err(|error| error.to_string()),
        Err(payload) => {
            std::mem::forget(payload); // dropping it may panic once more
            Err("its type panics".to_owned())
        }
    }
}

/// Why a value would not arrive, with the attribute that is most likely to blame.
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

#[inline]
fn decode_marked<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, &[u8]), codec::Error> {
    match bytes.split_first() {
        Some((&COMPACT, bytes)) => codec::decode(bytes),
        Some((&DESCRIBED, bytes)) => codec::decode_described(bytes),
        Some((other, _)) => Err(codec::Error::new(format_args!("{other:#x} is no encoding"))),
        None => Err(codec::Error::new("nothing is there")),
    }
}

/// A descriptor inside a value. Its owner may be cloned, and the last clone closes it.
///
/// Encoded as a place in the list of descriptors that travel beside the bytes, which only some transports
/// have.
#[derive(Clone, Debug)]
pub(crate) struct SharedFd(Arc<OwnedFd>);

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
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let place = OUTGOING.with_borrow_mut(|outgoing| {
            let outgoing = outgoing.as_mut()?;
            outgoing.push(self.clone());
            u32::try_from(outgoing.len() - 1).ok()
        });
        match place {
            Some(place) => serializer.serialize_u32(place),
            None => Err(S::Error::custom(
                "an end of a queue or pipe, or a `SharedSlice`, travels as an argument of a process or task, or through a \
                 pipe, not inside a queue's items or a result",
            )),
        }
    }
}

impl<'de> Deserialize<'de> for SharedFd {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let place = usize::try_from(u32::deserialize(deserializer)?).map_err(D::Error::custom)?;
        INCOMING
            .with_borrow_mut(|incoming| incoming.get_mut(place)?.take())
            .map(Self::from)
            .ok_or_else(|| D::Error::custom("a descriptor did not arrive with the message"))
    }
}

impl SharedFd {
    /// The descriptor, if there is no clone of this.
    pub(crate) fn try_into_inner(self) -> Option<OwnedFd> {
        Arc::into_inner(self.0)
    }

    /// The descriptor itself, or another for the same thing where clones of this one are left.
    pub(crate) fn into_descriptor(self) -> Result<OwnedFd> {
        Arc::try_unwrap(self.0)
            .or_else(|shared| shared.try_clone())
            .map_err(|error| Error::io("copy a descriptor", &error))
    }
}

/// Shared memory inside a value: encoded as its descriptor, mapped anew by who decodes it.
#[derive(Clone, Debug)]
pub(crate) struct SharedMemory {
    memory: SharedFd,
    shared: Arc<SharedMapping>,
}

impl SharedMemory {
    /// Zeroed memory of a fixed size in bytes.
    pub(crate) fn create(size: NonZeroUsize) -> Result<Self> {
        let (shared, memory) = SharedMapping::create(size)?;
        Ok(Self { memory: memory.into(), shared: Arc::new(shared) })
    }

    /// Lets go of the descriptor: this memory will not be handed on.
    pub(crate) fn into_mapping(self) -> Arc<SharedMapping> {
        self.shared
    }
}

/// The descriptor of the memory.
impl AsFd for SharedMemory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }
}

impl Deref for SharedMemory {
    type Target = SharedMapping;

    fn deref(&self) -> &SharedMapping {
        &self.shared
    }
}

#[allow(clippy::inline_always)] // see `sys::memory`
impl Memory for SharedMemory {
    #[inline(always)]
    fn write(&self, offset: usize, bytes: &[u8]) {
        self.shared.write(offset, bytes);
    }

    #[inline(always)]
    fn read<R>(&self, offset: usize, length: usize, look: impl FnOnce(&[u8]) -> R) -> R {
        self.shared.with_bytes(offset, length, look)
    }

    #[inline(always)]
    fn prefetch(&self, offset: usize) {
        self.shared.prefetch(offset);
    }
}

impl Serialize for SharedMemory {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (&self.memory, self.shared.size()).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for SharedMemory {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (memory, size) = <(SharedFd, NonZeroUsize)>::deserialize(deserializer)?;
        let shared = SharedMapping::open(memory.as_fd(), size).map_err(D::Error::custom)?;
        Ok(Self { memory, shared: Arc::new(shared) })
    }
}

thread_local! {
    /// Collects what the value being encoded holds; `None` where descriptors cannot travel.
    static OUTGOING: List<Option<Vec<SharedFd>>> = const { RefCell::new(ManuallyDrop::new(None)) };
    /// What came with the value being decoded.
    static INCOMING: List<Vec<Option<OwnedFd>>> = const { RefCell::new(ManuallyDrop::new(Vec::new())) };
}

/// Not dropped with its thread, since nothing is in it then: so a thread need not keep in mind to do so,
/// which would take longer than to encode most values.
type List<T> = RefCell<ManuallyDrop<T>>;

/// While a list is in place of another, which comes back also when a user's `Serialize` panics or encodes
/// something else meanwhile.
struct Scope<'a, T: Default> {
    list: &'a List<T>,
    outer: T,
}

impl<'a, T: Default> Scope<'a, T> {
    fn begin(list: &'a List<T>, inner: T) -> Self {
        Self { list, outer: exchange(list, inner) }
    }

    /// Gives what is in the list by now.
    fn end(self) -> T {
        exchange(self.list, T::default())
    }
}

impl<T: Default> Drop for Scope<'_, T> {
    fn drop(&mut self) {
        exchange(self.list, std::mem::take(&mut self.outer));
    }
}

fn exchange<T>(list: &List<T>, other: T) -> T {
    ManuallyDrop::into_inner(list.replace(ManuallyDrop::new(other)))
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{any_bytes, cases, descriptors};

    proptest! {
        #![proptest_config(cases(200))]

        #[test]
        fn any_bytes_and_descriptors_are_a_value_or_an_error(bytes in any_bytes(60), choice in vec(any::<u8>(), 0..5)) {
            let sent = || descriptors(&choice);
            let _ = decode::<(SharedFd, u8, SharedFd)>(&bytes, sent(), "handles");
            let _ = decode::<(SharedMemory, u64)>(&bytes, sent(), "pages");
            let _ = decode::<Vec<Option<SharedFd>>>(&bytes, sent(), "handles");
            let _ = decode_front::<(SharedFd, Vec<bool>)>(&bytes, sent(), "a handle");
            INCOMING.with_borrow(|incoming| assert!(incoming.is_empty(), "it does not stay"));
        }

        #[test]
        fn any_bytes_are_a_plain_value_or_an_error(bytes in any_bytes(40)) {
            macro_rules! tries {
                ($($plain:ty)*) => {$(
                    if let Ok(value) = decode::<($plain,)>(&bytes, Vec::new(), "it") {
                        let mut again = Vec::new();
                        encode(&value, &mut again, "it").unwrap();
                        prop_assert_eq!(&again, &bytes);
                    }
                )*};
            }
            tries!(() bool char u8 u16 u32 u64 u128 i64 f32 f64 String Vec<u8> Vec<u16> Vec<u64> Vec<u128> Vec<f64>);
        }
    }

    #[test]
    fn a_value_that_cannot_be_encoded_leaves_nothing_behind() {
        struct Stubborn;
        impl Serialize for Stubborn {
            fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
                Err(S::Error::custom("I will not"))
            }
        }
        impl<'de> Deserialize<'de> for Stubborn {
            fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
                Ok(Self)
            }
        }
        let mut out = vec![1, 2, 3];
        let error = encode(&(7_u64, Stubborn), &mut out, "the pair").unwrap_err();
        assert!(error.is_codec());
        assert_eq!(error.to_string(), "cannot encode the pair: I will not");
        assert_eq!(out, [1, 2, 3]);
    }

    #[test]
    fn bytes_too_many_or_too_few_are_refused() {
        let mut out = Vec::new();
        encode(&Some(300_u64), &mut out, "a number").unwrap();
        assert_eq!(decode::<Option<u64>>(&out, Vec::new(), "a number").unwrap(), Some(300));
        let error = decode::<Option<u64>>(&out[..6], Vec::new(), "a number").unwrap_err();
        assert_eq!(error.to_string(), "cannot decode a number: 8 bytes or more expected at byte 1, 4 left");
        out.push(0);
        let error = decode::<Option<u64>>(&out, Vec::new(), "a number").unwrap_err();
        assert_eq!(error.to_string(), "cannot decode a number: 1 bytes too many");
    }

    #[test]
    fn plain_values_travel_as_their_bytes_and_stand_alone() {
        let mut out = Vec::new();
        encode_with_descriptors(&(vec![300_u16, 7],), &mut out, "numbers").unwrap();
        assert_eq!(out, bytemuck::bytes_of(&[300_u16, 7]));
        assert_eq!(decode::<(Vec<u16>,)>(&out, Vec::new(), "numbers").unwrap().0, [300, 7]);
        let error = decode::<u64>(&out, Vec::new(), "a number").unwrap_err();
        assert_eq!(error.to_string(), "cannot decode a number: 8 bytes expected, 4 found");
        assert!(decode_front::<u16>(&out, Vec::new(), "a number").unwrap_err().is_codec());
    }

    #[test]
    fn a_descriptor_travels_only_where_it_can() {
        let handle = SharedFd::from(OwnedFd::from(std::fs::File::open("/dev/null").unwrap()));
        let mut out = Vec::new();
        let error = encode(&handle, &mut out, "an item").unwrap_err();
        assert!(error.to_string().contains("not inside a queue's items"), "{error}");
        assert_eq!(encode_with_descriptors(&(1_u8, handle), &mut out, "a pair").unwrap().len(), 1);
        let error = decode::<(u8, SharedFd)>(&out, Vec::new(), "a pair").unwrap_err();
        assert!(error.to_string().contains("did not arrive"), "{error}");
    }
}
