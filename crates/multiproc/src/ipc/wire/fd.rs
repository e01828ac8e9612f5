//! Descriptors inside values. They travel beside the bytes; a value holds an index into their list.

use std::cell::RefCell;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use serde::de::Error as _;
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{Error, Result};

/// A descriptor inside a value, closed by its last clone. It can be encoded where the transport carries
/// descriptors.
#[derive(Clone, Debug)]
pub(crate) struct SharedFd(Arc<OwnedFd>);

/// Why a descriptor cannot be encoded.
const NO_TRANSPORT: &str = "a descriptor (an `Fd`, an end of a queue or pipe, shared memory) travels \
     as an argument, as a result, and through a pipe or queue; not through a joinable queue";

thread_local! {
    /// The descriptors of the value that is being encoded; `None` if its transport carries none.
    pub(super) static OUTGOING: List<Option<Vec<SharedFd>>> = const { RefCell::new(ManuallyDrop::new(None)) };
    /// The descriptors that arrived with the value that is being decoded.
    pub(super) static INCOMING: List<Vec<Option<OwnedFd>>> =
        const { RefCell::new(ManuallyDrop::new(Vec::new())) };
}

/// Not dropped with its thread, which leaves it empty: to register a destructor would take longer than to
/// encode most values.
type List<T> = RefCell<ManuallyDrop<T>>;

/// Replaces a list while a value is encoded or decoded. The outer list returns also when the user's code
/// panics, or encodes another value meanwhile.
struct FdScope<'a, T: Default> {
    list: &'a List<T>,
    outer: T,
}

/// Calls `encode` and returns the descriptors of the values that it encodes.
pub(super) fn collect(encode: impl FnOnce() -> Result<()>) -> Result<Vec<SharedFd>> {
    OUTGOING.with(|list| {
        let scope = FdScope::begin(list, Some(Vec::new()));
        encode()?;
        Ok(scope.end().unwrap_or_default())
    })
}

/// Calls `decode`, whose values take their descriptors from these.
pub(super) fn provide<R>(descriptors: Vec<OwnedFd>, decode: impl FnOnce() -> R) -> R {
    INCOMING.with(|list| {
        let _scope = FdScope::begin(list, descriptors.into_iter().map(Some).collect());
        decode()
    })
}

/// Calls `f` with empty lists, for a value other than the one that is being encoded or decoded.
pub(super) fn isolate<R>(f: impl FnOnce() -> R) -> R {
    provide(Vec::new(), || {
        OUTGOING.with(|outgoing| {
            let _scope = FdScope::begin(outgoing, Some(Vec::new()));
            f()
        })
    })
}

impl<'a, T: Default> FdScope<'a, T> {
    fn begin(list: &'a List<T>, inner: T) -> Self {
        Self { list, outer: exchange(list, inner) }
    }

    /// The list's content at the end of the scope.
    fn end(self) -> T {
        exchange(self.list, T::default())
    }
}

impl<T: Default> Drop for FdScope<'_, T> {
    fn drop(&mut self) {
        exchange(self.list, std::mem::take(&mut self.outer));
    }
}

fn exchange<T>(list: &List<T>, other: T) -> T {
    ManuallyDrop::into_inner(list.replace(ManuallyDrop::new(other)))
}

impl SharedFd {
    /// The descriptor, if there is no other clone.
    pub(crate) fn try_into_inner(self) -> Option<OwnedFd> {
        Arc::into_inner(self.0)
    }

    /// The descriptor, or a duplicate if there are other clones.
    pub(crate) fn into_descriptor(self) -> Result<OwnedFd> {
        Arc::try_unwrap(self.0)
            .or_else(|shared| shared.try_clone())
            .map_err(|error| Error::io("copy a descriptor", &error))
    }
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
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let index = OUTGOING.with_borrow_mut(|outgoing| {
            let outgoing = outgoing.as_mut()?;
            outgoing.push(self.clone());
            u32::try_from(outgoing.len() - 1).ok()
        });
        match index {
            Some(index) => serializer.serialize_u32(index),
            None => Err(S::Error::custom(NO_TRANSPORT)),
        }
    }
}

impl<'de> Deserialize<'de> for SharedFd {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let index = usize::try_from(u32::deserialize(deserializer)?).map_err(D::Error::custom)?;
        INCOMING
            .with_borrow_mut(|incoming| incoming.get_mut(index)?.take())
            .map(Self::from)
            .ok_or_else(|| D::Error::custom("a descriptor did not arrive with the message"))
    }
}
