//! A descriptor inside a value, and what is known of it if it is shared memory.

use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, OnceLock};

use crate::error::{Error, Result};
use crate::sys::mapping::SharedMapping;

/// A descriptor inside a value, closed by its last clone. It can be encoded where the transport carries
/// descriptors.
#[derive(Clone, Debug)]
pub(crate) struct SharedFd(Arc<Descriptor>);

#[derive(Debug)]
struct Descriptor {
    fd: OwnedFd,
    memory: Option<MemoryInfo>,
}

/// What is known of shared memory.
#[derive(Debug)]
struct MemoryInfo {
    /// Of this process; no other memory gets it.
    id: MemoryId,
    size: NonZeroUsize,
    /// It was encoded for a pool.
    has_travelled: AtomicBool,
    /// Its mapping, if it is [kept](SharedFd::map_once).
    mapping: OnceLock<Arc<SharedMapping>>,
}

/// Names the shared memory of a process, to itself and to what it tells the name.
pub(crate) type MemoryId = u64;

impl SharedFd {
    /// Shared memory of `size` bytes. No value rests on when it is closed.
    pub(crate) fn of_memory(fd: OwnedFd, size: NonZeroUsize) -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let id = LAST.fetch_add(1, Relaxed).wrapping_add(1);
        let (has_travelled, mapping) = (AtomicBool::new(false), OnceLock::new());
        Self(Arc::new(Descriptor { fd, memory: Some(MemoryInfo { id, size, has_travelled, mapping }) }))
    }

    /// The name and the size of shared memory; `None` for any other descriptor.
    pub(crate) fn memory(&self) -> Option<(MemoryId, NonZeroUsize)> {
        self.0.memory.as_ref().map(|memory| (memory.id, memory.size))
    }

    /// Whether this is shared memory that was asked about before.
    pub(super) fn has_travelled(&self) -> bool {
        self.0.memory.as_ref().is_some_and(|memory| memory.has_travelled.swap(true, Relaxed))
    }

    /// This descriptor, which is that of shared memory of `size` bytes.
    pub(crate) fn into_memory(self, size: NonZeroUsize) -> Result<Self> {
        if self.0.memory.is_some() {
            return Ok(self);
        }
        self.into_descriptor().map(|fd| Self::of_memory(fd, size))
    }

    /// Maps shared memory of this size. A descriptor that is known to be memory keeps the mapping, so that the next
    /// value that names it finds it mapped.
    pub(super) fn map_once(&self, size: NonZeroUsize) -> Result<Arc<SharedMapping>> {
        let kept = self.0.memory.as_ref().map(|memory| &memory.mapping);
        if let Some(mapping) = kept.and_then(OnceLock::get).filter(|mapping| mapping.size() == size) {
            return Ok(Arc::clone(mapping));
        }
        let mapping = Arc::new(SharedMapping::open(self.as_fd(), size)?);
        let _ = kept.map(|kept| kept.set(Arc::clone(&mapping))); // it may have one of another size
        Ok(mapping)
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
