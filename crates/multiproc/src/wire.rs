//! Values as bytes, and the descriptors that travel beside them.

use std::cell::RefCell;
use std::num::NonZeroUsize;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use postcard::ser_flavors::Flavor;
use serde::de::{DeserializeOwned, Error as _};
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{Cause, Error, Result};
use crate::ring::Memory;
use crate::sys::memory::Shared;

/// Appends a value to `out`; on an error `out` is as before. `what` names the value in the error.
pub(crate) fn encode<T: Serialize>(value: &T, out: &mut Vec<u8>, what: &str) -> Result<()> {
    let before = out.len();
    REFUSAL.take();
    postcard::serialize_with_flavor(value, Append(out)).map_err(|error| {
        out.truncate(before);
        let why = REFUSAL.take().unwrap_or_else(|| error.to_string());
        Error::new(Cause::Encode { what: what.to_owned(), why })
    })
}

/// As [`encode`], for values that may hold descriptors.
pub(crate) fn encode_with_descriptors<T: Serialize>(
    value: &T,
    out: &mut Vec<u8>,
    what: &str,
) -> Result<Vec<Handle>> {
    let outer = OUTGOING.replace(Some(Vec::new()));
    let restore = Restore(&OUTGOING, outer);
    encode(value, out, what)?;
    let handles = OUTGOING.take().unwrap_or_default();
    drop(restore);
    Ok(handles)
}

/// Reads one value that takes up all of `bytes`, and the descriptors that came with them.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8], descriptors: Vec<OwnedFd>, what: &str) -> Result<T> {
    match decode_front(bytes, descriptors, what)? {
        (value, []) => Ok(value),
        (_, rest) => Err(Error::decode(what, format!("{} bytes too many", rest.len()))),
    }
}

/// Reads one value from the front of `bytes`; gives the bytes behind it, too.
pub(crate) fn decode_front<'a, T: DeserializeOwned>(
    bytes: &'a [u8],
    descriptors: Vec<OwnedFd>,
    what: &str,
) -> Result<(T, &'a [u8])> {
    let outer = INCOMING.replace(descriptors.into_iter().map(Some).collect());
    let _restore = Restore(&INCOMING, outer);
    REFUSAL.take();
    postcard::take_from_bytes(bytes).map_err(|error| {
        let why = REFUSAL.take().unwrap_or_else(|| error.to_string());
        Error::decode(what, why)
    })
}

/// A descriptor inside a value. Its owner may be cloned, and the last clone closes it.
///
/// Encoded as a place in the list of descriptors that travel beside the bytes, which only some transports have.
#[derive(Clone, Debug)]
pub(crate) struct Handle(Arc<OwnedFd>);

impl From<OwnedFd> for Handle {
    fn from(fd: OwnedFd) -> Self {
        Self(Arc::new(fd))
    }
}

impl AsFd for Handle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Serialize for Handle {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let place = OUTGOING.with_borrow_mut(|outgoing| {
            let outgoing = outgoing.as_mut()?;
            outgoing.push(self.clone());
            u32::try_from(outgoing.len() - 1).ok()
        });
        match place {
            Some(place) => serializer.serialize_u32(place),
            None => Err(S::Error::custom(refuse(
                "an end of a queue or pipe travels as an argument of a process or task, or through a pipe, \
                 not inside a queue's items or a result",
            ))),
        }
    }
}

impl<'de> Deserialize<'de> for Handle {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let place = usize::try_from(u32::deserialize(deserializer)?).map_err(D::Error::custom)?;
        INCOMING
            .with_borrow_mut(|incoming| incoming.get_mut(place)?.take())
            .map(Self::from)
            .ok_or_else(|| D::Error::custom(refuse("a descriptor did not arrive with the message")))
    }
}

impl Handle {
    /// The descriptor itself, or another for the same thing where clones of this one are left.
    pub(crate) fn into_descriptor(self) -> Result<OwnedFd> {
        Arc::try_unwrap(self.0)
            .or_else(|shared| shared.try_clone())
            .map_err(|error| Error::io("copy a descriptor", &error))
    }
}

/// Shared memory inside a value: encoded as its descriptor, mapped anew by who decodes it.
#[derive(Clone, Debug)]
pub(crate) struct Pages {
    memory: Handle,
    shared: Arc<Shared>,
}

impl Pages {
    /// Zeroed memory of a fixed size in bytes.
    pub(crate) fn create(size: NonZeroUsize) -> Result<Self> {
        let (shared, memory) = Shared::create(size)?;
        Ok(Self { memory: memory.into(), shared: Arc::new(shared) })
    }
}

/// The descriptor of the memory.
impl AsFd for Pages {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }
}

impl Deref for Pages {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.shared
    }
}

impl Memory for Pages {
    #[inline]
    fn write(&self, offset: usize, bytes: &[u8]) {
        self.shared.write(offset, bytes);
    }

    #[inline]
    fn read<R>(&self, offset: usize, length: usize, look: impl FnOnce(&[u8]) -> R) -> R {
        self.shared.look(offset, length, look)
    }
}

impl Serialize for Pages {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (&self.memory, self.shared.size()).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Pages {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (memory, size) = <(Handle, NonZeroUsize)>::deserialize(deserializer)?;
        let shared = Shared::open(memory.as_fd(), size)
            .map_err(|error| D::Error::custom(refuse(&error.to_string())))?;
        Ok(Self { memory, shared: Arc::new(shared) })
    }
}

thread_local! {
    /// Collects what the value being encoded holds; `None` where descriptors cannot travel.
    static OUTGOING: RefCell<Option<Vec<Handle>>> = const { RefCell::new(None) };
    /// What came with the value being decoded.
    static INCOMING: RefCell<Vec<Option<OwnedFd>>> = const { RefCell::new(Vec::new()) };
    /// The codec keeps no text of an error, so ours passes by here.
    static REFUSAL: RefCell<Option<String>> = const { RefCell::new(None) };
}

fn refuse(why: &str) -> &str {
    REFUSAL.set(Some(why.to_owned()));
    why
}

/// Puts the former list back, also when a user's `Serialize` panics or encodes something else meanwhile.
struct Restore<T: 'static>(&'static std::thread::LocalKey<RefCell<T>>, T)
where
    T: Default;

impl<T: Default> Drop for Restore<T> {
    fn drop(&mut self) {
        let outer = std::mem::take(&mut self.1);
        let _ = self.0.try_with(|list| list.replace(outer));
    }
}

/// Lets the codec write behind what a vector holds already.
struct Append<'a>(&'a mut Vec<u8>);

impl Flavor for Append<'_> {
    type Output = ();

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_cannot_be_encoded_leaves_nothing_behind() {
        struct Stubborn;
        impl Serialize for Stubborn {
            fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
                Err(S::Error::custom("I will not"))
            }
        }
        let mut out = vec![1, 2, 3];
        let error = encode(&(7_u64, Stubborn), &mut out, "the pair").unwrap_err();
        assert!(error.is_codec());
        assert!(error.to_string().starts_with("cannot encode the pair"), "{error}");
        assert_eq!(out, [1, 2, 3]);
    }

    #[test]
    fn bytes_too_many_or_too_few_are_refused() {
        let mut out = Vec::new();
        encode(&300_u64, &mut out, "a number").unwrap();
        assert_eq!(decode::<u64>(&out, Vec::new(), "a number").unwrap(), 300);
        assert!(decode::<u64>(&out[..1], Vec::new(), "a number").is_err());
        out.push(0);
        let error = decode::<u64>(&out, Vec::new(), "a number").unwrap_err();
        assert_eq!(error.to_string(), "cannot decode a number: 1 bytes too many");
    }

    #[test]
    fn a_descriptor_travels_only_where_it_can() {
        let handle = Handle::from(OwnedFd::from(std::fs::File::open("/dev/null").unwrap()));
        let mut out = Vec::new();
        let error = encode(&handle, &mut out, "an item").unwrap_err();
        assert!(error.to_string().contains("not inside a queue's items"), "{error}");
        assert_eq!(encode_with_descriptors(&(1_u8, handle), &mut out, "a pair").unwrap().len(), 1);
        let error = decode::<(u8, Handle)>(&out, Vec::new(), "a pair").unwrap_err();
        assert!(error.to_string().contains("did not arrive"), "{error}");
    }
}
