//! Shared memory that several messages name. It travels once; values hold indices into the list.

use std::os::fd::OwnedFd;
use std::ptr;
use std::sync::{Arc, Weak};

use super::shared_fd::{SegmentId, SharedFd};

/// The segments that the items of a chunk name, in the order of their indices.
#[derive(Clone, Debug, Default)]
pub(crate) struct Segments(Option<Arc<[SharedFd]>>);

/// What tells a list from any other.
#[derive(Debug, Default)]
pub(crate) struct SegmentsIdentity(Option<Weak<[SharedFd]>>);

/// Whether these are clones.
impl PartialEq for Segments {
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (one, other) => one.is_none() && other.is_none(),
        }
    }
}

impl PartialEq<SegmentsIdentity> for Segments {
    #[inline]
    fn eq(&self, SegmentsIdentity(identity): &SegmentsIdentity) -> bool {
        match (&self.0, identity) {
            (Some(list), Some(identity)) => ptr::addr_eq(Arc::as_ptr(list), identity.as_ptr()),
            (list, identity) => list.is_none() && identity.is_none(),
        }
    }
}

/// The list while items are encoded.
#[derive(Clone, Debug, Default)]
pub(crate) struct SegmentList(Vec<SharedFd>);

/// What has arrived beside the bytes of a value.
#[derive(Debug, Default)]
pub(crate) struct Arrived {
    pub(super) descriptors: Vec<OwnedFd>,
    pub(super) segments: Segments,
}

/// The most segments of a list, and the most bytes of them. A worker keeps as many.
pub(crate) const MAX_SEGMENTS: usize = 8;
pub(crate) const MAX_MEMORY_BYTES: usize = 64 * 1024 * 1024;

/// In an index: it is one into the list of segments, not into that of descriptors.
const IS_MEMORY: u32 = 1 << 31;

impl SegmentList {
    /// The index with which a value names this descriptor. `None` if it must travel with the value: it is no memory,
    /// or there is no room for it, or it travels for the first time, since most memory travels once.
    pub(super) fn index_of(&mut self, fd: &SharedFd) -> Option<u32> {
        let known = self.0.iter().position(|known| known == fd);
        let index = known.or_else(|| {
            let fits = fd.mark_travelled() && self.has_room_for(fd);
            fits.then(|| {
                self.0.push(fd.clone());
                self.0.len() - 1
            })
        });
        index.and_then(|index| u32::try_from(index).ok()).map(|index| index | IS_MEMORY)
    }

    fn has_room_for(&self, fd: &SharedFd) -> bool {
        let size = |fd: &SharedFd| fd.memory().map_or(usize::MAX, |(_, size)| size.get());
        let bytes = self.0.iter().chain([fd]).map(size).fold(0, usize::saturating_add);
        !self.is_full() && bytes <= MAX_MEMORY_BYTES
    }

    /// Whether it names as many segments as it can.
    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        self.0.len() >= MAX_SEGMENTS
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Forgets those after the first ones.
    pub(super) fn truncate(&mut self, length: usize) {
        self.0.truncate(length);
    }
}

impl Segments {
    pub(crate) const NONE: Self = Self(None);

    pub(crate) fn iter(&self) -> impl Iterator<Item = &SharedFd> {
        self.0.iter().flat_map(|segments| segments.iter())
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Their names.
    pub(crate) fn names(&self) -> Vec<SegmentId> {
        self.iter().filter_map(SharedFd::memory).map(|(id, _)| id).collect()
    }

    /// What tells this list, and its clones, from any other; without keeping the segments.
    pub(crate) fn identity(&self) -> SegmentsIdentity {
        SegmentsIdentity(self.0.as_ref().map(Arc::downgrade))
    }

    /// The one that an index in a value names; `None` if it is an index into the list of descriptors, or there is no
    /// such memory.
    pub(super) fn get(&self, index: u32) -> Option<SharedFd> {
        let index = usize::try_from(index & !IS_MEMORY).ok().filter(|_| is_memory(index))?;
        self.0.as_ref()?.get(index).cloned()
    }
}

/// Whether an index is one into the list of segments.
pub(super) fn is_memory(index: u32) -> bool {
    index & IS_MEMORY != 0
}

impl From<SegmentList> for Segments {
    #[inline]
    fn from(SegmentList(segments): SegmentList) -> Self {
        Self((!segments.is_empty()).then(|| segments.into()))
    }
}

impl FromIterator<SharedFd> for Segments {
    fn from_iter<I: IntoIterator<Item = SharedFd>>(segments: I) -> Self {
        let segments: Vec<_> = segments.into_iter().collect();
        Self((!segments.is_empty()).then(|| segments.into()))
    }
}

impl Arrived {
    pub(crate) fn new(descriptors: Vec<OwnedFd>, segments: Segments) -> Self {
        Self { descriptors, segments }
    }
}

impl From<Segments> for Arrived {
    fn from(segments: Segments) -> Self {
        Self::new(Vec::new(), segments)
    }
}

impl From<Vec<OwnedFd>> for Arrived {
    fn from(descriptors: Vec<OwnedFd>) -> Self {
        Self::new(descriptors, Segments::default())
    }
}
