//! The cache of sealed memory that this process has mapped, so that it maps no memory twice.

use std::collections::{BTreeMap, VecDeque};
use std::mem;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::error::Result;
use crate::ipc::wire::SharedFd;
use crate::sys::immutable::{ImmutableMemory, MemfdId, identify};
use crate::sys::process_local::ProcessLocal;

/// Sealed memory, its mapping in this process, and its descriptor; shared by all slices of it.
#[derive(Debug)]
pub(crate) struct Memory {
    pub(crate) fd: SharedFd,
    pub(crate) sealed: ImmutableMemory,
}

/// The most received mappings that the cache keeps alive, and the most bytes of them.
const MAX_MAPPINGS: usize = 8;
const MAX_BYTES: usize = 64 * 1024 * 1024;

/// The mappings of this process.
pub(crate) struct MappingCache {
    mapped: BTreeMap<MemfdId, Weak<Memory>>,
    /// At this number of entries, those without a mapping are removed.
    bound: usize,
    /// The mappings received last, the latest at the end, so that the next task finds them mapped.
    recent: VecDeque<Arc<Memory>>,
}

/// The mappings and descriptors stay valid in a forked copy of the process, which takes the cache over if no other
/// thread used it at the fork.
static CACHE: ProcessLocal<Mutex<MappingCache>> = ProcessLocal::new(|inherited| {
    let inherited = inherited.and_then(|cache| Some(mem::take(&mut *cache.try_lock().ok()?)));
    Mutex::new(inherited.unwrap_or_default())
});

impl Memory {
    pub(crate) fn length(&self) -> Option<NonZeroUsize> {
        NonZeroUsize::new(self.sealed.bytes().len())
    }
}

impl Default for MappingCache {
    fn default() -> Self {
        Self { mapped: BTreeMap::new(), bound: 2 * MAX_MAPPINGS, recent: VecDeque::new() }
    }
}

impl MappingCache {
    pub(crate) fn lock() -> MutexGuard<'static, Self> {
        CACHE.get().lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The memory of a received descriptor, mapped if it is not yet.
    pub(crate) fn receive(&mut self, fd: SharedFd, length: NonZeroUsize) -> Result<Arc<Memory>> {
        let (identity, _) = identify(fd.as_fd())?;
        // While memory is mapped, no other memory can have its identity, and it cannot lose its seals.
        let mapped = self.mapped.get(&identity).and_then(Weak::upgrade);
        let memory = if let Some(memory) = mapped.filter(|memory| memory.length() == Some(length)) {
            memory
        } else {
            let sealed = ImmutableMemory::open(fd.as_fd(), length)?;
            self.insert(identity, Memory { fd: fd.into_memory(length)?, sealed })
        };
        self.keep(&memory);
        Ok(memory)
    }

    pub(crate) fn insert(&mut self, identity: MemfdId, memory: Memory) -> Arc<Memory> {
        if self.mapped.len() >= self.bound {
            self.mapped.retain(|_, memory| memory.strong_count() > 0);
            self.bound = 2 * self.mapped.len().max(MAX_MAPPINGS); // keeps the cost per insertion constant
        }
        let memory = Arc::new(memory);
        self.mapped.insert(identity, Arc::downgrade(&memory));
        memory
    }

    fn keep(&mut self, memory: &Arc<Memory>) {
        let size = |memory: &Arc<Memory>| memory.sealed.bytes().len();
        if size(memory) > MAX_BYTES {
            return; // it would evict all others, and then itself
        }
        self.recent.retain(|recent| !Arc::ptr_eq(recent, memory));
        self.recent.push_back(Arc::clone(memory));
        while self.recent.len() > MAX_MAPPINGS || self.recent.iter().map(size).sum::<usize>() > MAX_BYTES {
            self.recent.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared_slice::tests::sealed;

    #[test]
    fn kept_mappings_stay_below_both_limits() {
        let mut cache = MappingCache::default();
        let mut receive = |size| {
            let (fd, length) = sealed(size);
            cache.receive(fd, length).unwrap();
            cache.recent.iter().map(|memory| memory.sealed.bytes().len()).collect::<Vec<_>>()
        };
        for _ in 0..MAX_MAPPINGS {
            receive(1);
        }
        assert_eq!(receive(2), [1, 1, 1, 1, 1, 1, 1, 2]);
        assert_eq!(receive(MAX_BYTES + 1), [1, 1, 1, 1, 1, 1, 1, 2]);
        assert_eq!(receive(MAX_BYTES - 3), [1, 2, MAX_BYTES - 3]);
    }

    #[test]
    fn entries_without_a_mapping_are_removed() {
        let mut cache = MappingCache::default();
        let held: Vec<_> = (1..=100).map(sealed).collect();
        let held: Vec<_> = held.into_iter().map(|(fd, size)| cache.receive(fd, size).unwrap()).collect();
        for size in 1..=1000 {
            let (fd, length) = sealed(size);
            cache.receive(fd, length).unwrap();
        }
        assert!(cache.mapped.len() < 3 * held.len(), "{} entries", cache.mapped.len());
        for memory in &held {
            let again = cache.receive(memory.fd.clone(), memory.length().unwrap()).unwrap();
            assert!(Arc::ptr_eq(&again, memory));
        }
    }
}
