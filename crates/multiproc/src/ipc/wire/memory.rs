//! Shared memory inside a value: encoded as its descriptor and size, mapped when it is decoded.

use std::num::NonZeroUsize;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use serde_core::de::Error as _;
use serde_core::{Deserialize, Deserializer, Serialize, Serializer};

use super::attachment::{self, Kind};
use super::shared_fd::SharedFd;
use crate::error::Result;
use crate::ipc::ring::Memory;
use crate::sys::atomic::Relaxed;
use crate::sys::mapping::SharedMapping;
use crate::sys::memfd;

/// Shared memory that can be passed to other processes.
#[derive(Clone, Debug)]
pub(crate) struct SharedMemory {
    memory: SharedFd,
    mapping: Arc<SharedMapping>,
}

impl SharedMemory {
    /// Zeroed memory of a fixed size in bytes.
    pub(crate) fn create(size: NonZeroUsize) -> Result<Self> {
        let (mapping, memory) = SharedMapping::create(size)?;
        Ok(Self { memory: memory.into(), mapping: Arc::new(mapping) })
    }

    /// Allocates all of it, so that a lack of memory is an error here and not a signal at a later access.
    pub(crate) fn allocate(&self) -> Result<()> {
        memfd::allocate_range(&self.memory, 0, self.size().get())
    }

    /// As memory that items of a pool may [name](super::Segments): no process waits until it is closed.
    pub(crate) fn nameable(self) -> Result<Self> {
        Ok(Self { memory: self.memory.into_memory(self.mapping.size())?, mapping: self.mapping })
    }

    /// The mapping without the descriptor, for memory that is not passed on.
    pub(crate) fn into_mapping(self) -> Arc<SharedMapping> {
        self.mapping
    }
}

impl AsFd for SharedMemory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }
}

impl Deref for SharedMemory {
    type Target = SharedMapping;

    fn deref(&self) -> &SharedMapping {
        &self.mapping
    }
}

#[allow(clippy::inline_always)] // see `sys::mapping`
impl Memory for SharedMemory {
    #[inline(always)]
    fn write(&self, offset: usize, bytes: &[u8]) {
        self.mapping.write(offset, bytes);
    }

    #[inline(always)]
    fn read<R>(&self, offset: usize, length: usize, read: impl FnOnce(&[u8]) -> R) -> R {
        self.mapping.with_bytes(offset, length, read)
    }

    #[inline(always)]
    fn load_word(&self, offset: usize) -> u64 {
        self.word64(offset).load(Relaxed)
    }

    #[inline(always)]
    fn store_word(&self, offset: usize, word: u64) {
        self.word64(offset).store(word, Relaxed);
    }

    #[inline(always)]
    fn prefetch(&self, offset: usize) {
        self.mapping.prefetch(offset);
    }

    #[cold]
    fn has_memory(&self, length: usize) -> bool {
        memfd::has_memory(&self.memory, length)
    }
}

impl Serialize for SharedMemory {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        attachment::serialize(Kind::Memory, &(&self.memory, self.mapping.size()), serializer)
    }
}

impl<'de> Deserialize<'de> for SharedMemory {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (memory, size): (SharedFd, NonZeroUsize) = attachment::deserialize(Kind::Memory, deserializer)?;
        let mapping = memory.map(size).map_err(D::Error::custom)?;
        Ok(Self { memory, mapping })
    }
}
