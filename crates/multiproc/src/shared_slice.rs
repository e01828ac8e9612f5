//! Read-only slices in sealed shared memory, which many processes read without copying them.

use std::fmt;
use std::marker::PhantomData;
use std::num::NonZeroUsize;
use std::ops::Deref;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use serde_core::de::Error as _;
use serde_core::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{Error, Result};
use crate::impl_serde::impl_serde;
use crate::ipc::wire::SharedFd;
use crate::mapping_cache::{MappingCache, Memory};
use crate::sys::immutable::{ImmutableMemory, identify};

pub use bytemuck::Pod;

/// A read-only slice of plain data in shared memory: filled once, then read by any number of processes, none
/// of which copies it.
///
/// ```
/// use multiproc::{SharedSlice, Pool};
///
/// fn sum_part(numbers: SharedSlice<u64>, part: usize) -> u64 {
///     numbers[part * 250_000..][..250_000].iter().sum()
/// }
///
/// fn main() -> multiproc::Result<()> {
///     multiproc::init();
///     let numbers = SharedSlice::build(1_000_000, |slots| {
///         for (slot, number) in slots.iter_mut().zip(1..) {
///             *slot = number;
///         }
///     })?;
///     let pool = Pool::new(2)?;
///     let sums = pool.starmap(sum_part, (0..4).map(|part| (numbers.clone(), part)))?;
///     assert_eq!(sums.iter().sum::<u64>(), 500_000_500_000);
///     Ok(())
/// }
/// ```
///
/// A slice is `AsRef<[T]>`, so other crates read its memory without a copy: `ndarray::ArrayView::from(slice.as_ref())`,
/// or Arrow's `Buffer::from(bytes::Bytes::from_owner(slice))`.
///
/// # Elements
///
/// Elements are [`Pod`], plain old data: numbers, arrays of them, and structs of them without padding. For a
/// struct of your own, depend on the crate [bytemuck](https://docs.rs/bytemuck) with its feature `derive`:
///
/// ```
/// use bytemuck::{Pod, Zeroable};
/// # use bytemuck_derive::{Pod, Zeroable};
/// use multiproc::SharedSlice;
///
/// #[derive(Clone, Copy, Pod, Zeroable)]
/// #[repr(C)]
/// struct Star {
///     position: [f32; 3],
///     brightness: f32,
/// }
///
/// fn main() -> multiproc::Result<()> {
///     multiproc::init();
///     let sun = Star { position: [0.0; 3], brightness: -26.7 };
///     let stars = SharedSlice::from_slice(&[sun])?;
///     assert_eq!(stars.len(), 1);
///     Ok(())
/// }
/// ```
///
/// An element of size zero, or one with an alignment above a page's 4096 bytes, does not compile.
///
/// # Immutability
///
/// No process can write the slice. The kernel seals the memory once it is filled, before any process can read
/// it; from then on it refuses every change, also to the process that made it. A receiving process checks the
/// seals before it reads.
///
/// # Transfer
///
/// A slice travels as an argument and as the result of a process or task, and through a queue or pipe. Only a
/// descriptor travels. A process holds one mapping for each slice, and one descriptor (a worker of a pool: at most
/// two), however often it receives the slice and however many clones it has. The kernel frees the memory when the
/// last process has dropped it, or has ended.
///
/// # Cost
///
/// Making a slice takes up to about a millisecond per megabyte, spent mainly by the kernel on finding pages.
/// The first read in a process takes some tens of microseconds per megabyte more than reading memory does;
/// only the part that is read costs anything. Receiving a slice again costs as much as any small message with
/// a descriptor, because **a process keeps the last 8 slices that it has received, up to 64 MiB together**,
/// also when the program uses them no more. That memory stays in use until the process has received others,
/// or has ended. A worker of a pool also keeps the last 8 slices and locks that several items have held, up to
/// 64 MiB, until other items hold others: such an item costs about a microsecond more than one without. A slice of
/// more than 64 MiB is not kept: each task maps it again, unless its worker holds a clone, for example in its
/// [state](crate::pool::PoolBuilder::state).
#[derive(Clone)]
pub struct SharedSlice<T> {
    /// `None` for an empty slice; a zero-length mapping is not possible.
    memory: Option<Arc<Memory>>,
    element: PhantomData<T>,
}

impl<T: Pod> SharedSlice<T> {
    /// Copies a slice, once. Blocks for the copying only.
    ///
    /// # Errors
    /// When the kernel refuses a descriptor or the memory, also for a limit on the size of files
    /// (`RLIMIT_FSIZE`) or of this process.
    pub fn from_slice(elements: &[T]) -> Result<Self> {
        const { Self::CHECKED };
        let bytes: &[u8] = bytemuck::cast_slice(elements);
        if bytes.is_empty() {
            return Ok(Self::empty());
        }
        Self::from_sealed(ImmutableMemory::copy(bytes)?)
    }

    /// Makes a slice of `length` elements, which `fill` writes in place; they are zeroed before. Blocks while
    /// `fill` runs, and for up to 10 s more while a process that was forked from this one during `fill` still
    /// maps the memory.
    ///
    /// ```
    /// use multiproc::SharedSlice;
    ///
    /// multiproc::init();
    /// let squares = SharedSlice::build(10, |slots: &mut [u32]| {
    ///     for (slot, number) in slots.iter_mut().zip(0..) {
    ///         *slot = number * number;
    ///     }
    /// })?;
    /// assert_eq!(squares[9], 81);
    /// # Ok::<(), multiproc::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`from_slice`](Self::from_slice); all of the memory is allocated before `fill` runs. Also
    /// when a process forked during `fill` lives on, since it could still write.
    ///
    /// # Panics
    /// When `fill` panics; the memory is then freed.
    pub fn build(length: usize, fill: impl FnOnce(&mut [T])) -> Result<Self> {
        const { Self::CHECKED };
        let size = length.checked_mul(size_of::<T>()).ok_or_else(|| {
            let operation = format!("find memory for {length} elements of {} bytes", size_of::<T>());
            Error::os(&operation, Errno::ENOMEM)
        })?;
        let Some(size) = NonZeroUsize::new(size) else {
            fill(&mut []);
            return Ok(Self::empty());
        };
        Self::from_sealed(ImmutableMemory::build(size, |bytes| fill(bytemuck::cast_slice_mut(bytes)))?)
    }

    /// A mapping begins with a page, and its size is a multiple of the element's.
    ///
    /// ```
    /// assert!(multiproc::SharedSlice::from_slice(&[0_u8]).is_ok());
    /// ```
    ///
    /// ```compile_fail
    /// assert!(multiproc::SharedSlice::from_slice(&[()]).is_ok());
    /// ```
    pub(crate) const CHECKED: () = {
        assert!(size_of::<T>() > 0, "elements of size zero cannot be shared");
        assert!(align_of::<T>() <= 4096, "elements cannot be aligned to more than a page");
    };

    fn empty() -> Self {
        Self { memory: None, element: PhantomData }
    }

    pub(crate) fn from_sealed((sealed, fd): (ImmutableMemory, OwnedFd)) -> Result<Self> {
        let (identity, _) = identify(fd.as_fd())?;
        let fd = match NonZeroUsize::new(sealed.bytes().len()) {
            Some(size) => SharedFd::of_memory(fd, size),
            None => fd.into(),
        };
        let memory = MappingCache::lock().insert(identity, Memory { fd, sealed });
        Ok(Self { memory: Some(memory), element: PhantomData })
    }

    fn receive(header: Header) -> Result<Self> {
        const { Self::CHECKED };
        let refused = |why: String| Err(Error::decode("a `SharedSlice`", why));
        if header.element != size_of::<T>() {
            return refused(format!(
                "elements of {} bytes announced, not {}",
                header.element,
                size_of::<T>()
            ));
        }
        let Some((fd, length)) = header.memory else { return Ok(Self::empty()) };
        if !length.get().is_multiple_of(size_of::<T>()) {
            return refused(format!("{length} bytes announced, no number of elements of {}", header.element));
        }
        Ok(Self { memory: Some(MappingCache::lock().receive(fd, length)?), element: PhantomData })
    }
}

impl<T: Pod> Deref for SharedSlice<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        self.memory.as_ref().map_or(&[], |memory| bytemuck::cast_slice(memory.sealed.bytes()))
    }
}

impl<T: Pod> AsRef<[T]> for SharedSlice<T> {
    fn as_ref(&self) -> &[T] {
        self
    }
}

impl<T: Pod> fmt::Debug for SharedSlice<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedSlice").field("len", &self.len()).finish_non_exhaustive()
    }
}

/// The encoding of a slice.
struct Header {
    /// The size of an element (bytes). Both sides run the same build, so this checks only that their types
    /// agree.
    element: usize,
    /// The memory and its size (bytes), unless the slice is empty.
    memory: Option<(SharedFd, NonZeroUsize)>,
}

impl_serde!(struct Header { element, memory });

impl<T: Pod> Serialize for SharedSlice<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let memory = self.memory.as_ref().and_then(|memory| Some((memory.fd.clone(), memory.length()?)));
        Header { element: size_of::<T>(), memory }.serialize(serializer)
    }
}

impl<'de, T: Pod> Deserialize<'de> for SharedSlice<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let header = Header::deserialize(deserializer)?;
        Self::receive(header).map_err(D::Error::custom)
    }
}

#[cfg(test)]
#[path = "shared_slice_tests.rs"]
pub(crate) mod tests;
