//! A descriptor inside a value, and what is known of it if it is shared memory.

use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};

use crate::error::{Error, Result};
use crate::sys::mapping::SharedMapping;
use crate::sys::private_mutex::PrivateMutex;

/// A descriptor inside a value, closed by its last clone. It can be encoded where the transport carries
/// descriptors.
#[derive(Clone, Debug)]
pub(crate) struct SharedFd(Arc<Descriptor>);

#[derive(Debug)]
struct Descriptor {
    fd: OwnedFd,
    memory: Option<MemoryInfo>,
}

/// What is known of memory that items of a pool may name.
#[derive(Debug)]
struct MemoryInfo {
    /// Of this process; no other memory gets it.
    id: SegmentId,
    size: NonZeroUsize,
    /// It was encoded for a pool.
    has_travelled: AtomicBool,
    /// Its mapping, if that is kept for the next item that names it.
    mapping: Option<PrivateMutex<Option<Arc<SharedMapping>>>>,
}

/// Names the shared memory of a process, to itself and to what it tells the name.
pub(crate) type SegmentId = u64;

impl SharedFd {
    /// Shared memory of `size` bytes, whose closing no process waits for.
    pub(crate) fn of_memory(fd: OwnedFd, size: NonZeroUsize) -> Self {
        Self::with_memory(fd, size, None)
    }

    /// As [`of_memory`](Self::of_memory), for the receiver of memory that items name. It is mapped once.
    pub(crate) fn of_named_memory(fd: OwnedFd, size: NonZeroUsize) -> Self {
        Self::with_memory(fd, size, Some(PrivateMutex::default()))
    }

    fn with_memory(
        fd: OwnedFd,
        size: NonZeroUsize,
        mapping: Option<PrivateMutex<Option<Arc<SharedMapping>>>>,
    ) -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let id = LAST.fetch_add(1, Relaxed).wrapping_add(1);
        let memory = MemoryInfo { id, size, has_travelled: AtomicBool::new(false), mapping };
        Self(Arc::new(Descriptor { fd, memory: Some(memory) }))
    }

    /// The name and the size of shared memory; `None` for any other descriptor.
    pub(crate) fn memory(&self) -> Option<(SegmentId, NonZeroUsize)> {
        self.0.memory.as_ref().map(|memory| (memory.id, memory.size))
    }

    /// Marks shared memory as encoded for a pool; returns whether it was before.
    pub(super) fn mark_travelled(&self) -> bool {
        self.0.memory.as_ref().is_some_and(|memory| memory.has_travelled.swap(true, Relaxed))
    }

    /// This descriptor, which is that of shared memory of `size` bytes.
    pub(crate) fn into_memory(self, size: NonZeroUsize) -> Result<Self> {
        if self.0.memory.is_some() {
            return Ok(self);
        }
        self.into_descriptor().map(|fd| Self::of_memory(fd, size))
    }

    /// A mapping of this size; the same each time if this is [named memory](Self::of_named_memory).
    pub(super) fn map(&self, size: NonZeroUsize) -> Result<Arc<SharedMapping>> {
        let open = || SharedMapping::open(self.as_fd(), size).map(Arc::new);
        let kept = self.0.memory.as_ref().and_then(|memory| memory.mapping.as_ref()?.lock());
        let Some(mut kept) = kept else { return open() };
        match &*kept {
            Some(mapping) if mapping.size() == size => Ok(Arc::clone(mapping)),
            _ => Ok(Arc::clone(kept.insert(open()?))),
        }
    }

    /// The descriptor, if there is no other clone.
    pub(crate) fn try_into_inner(self) -> Option<OwnedFd> {
        Arc::into_inner(self.0).map(|shared| shared.fd)
    }

    /// The descriptor, or a duplicate if there are other clones.
    pub(crate) fn into_descriptor(self) -> Result<OwnedFd> {
        Arc::try_unwrap(self.0)
            .map(|shared| shared.fd)
            .or_else(|shared| shared.fd.try_clone())
            .map_err(|error| Error::io("copy a descriptor", &error))
    }
}

impl PartialEq for SharedFd {
    /// Whether these are clones.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl From<OwnedFd> for SharedFd {
    fn from(fd: OwnedFd) -> Self {
        Self(Arc::new(Descriptor { fd, memory: None }))
    }
}

impl AsFd for SharedFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.fd.as_fd()
    }
}
