//! Shared memory, `mmap(2)` of a [memfd](super::memfd): atomic words, and bytes that are copied.

// Each of these is a move or two; a call would cost more.
#![allow(clippy::inline_always)]

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
use std::ffi::c_void;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};

use nix::errno::Errno;
use nix::fcntl::SealFlag;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use super::atomic::{AtomicU32, AtomicU64};
use super::failpoint::{self, Failpoint};
use super::memfd::{add_seals, check_length, create, size_if_unshrinkable};
use crate::error::{Error, Result};

/// Maps the first `length` bytes that another process wrote to a memfd.
pub(crate) fn map(fd: &OwnedFd, length: usize) -> Result<SharedMapping> {
    SharedMapping::map(fd.as_fd(), check_length(fd, length)?)
}

/// Maps all of a memfd that has been written, of at most `most` bytes: one call costs less than a fault for each page.
pub(crate) fn map_present(fd: &OwnedFd, most: usize) -> Result<SharedMapping> {
    let size = usize::try_from(size_if_unshrinkable(fd.as_fd())?).unwrap_or(usize::MAX);
    if size > most {
        return Err(Error::decode("a message", "its memory has grown"));
    }
    SharedMapping::map_with(fd.as_fd(), check_length(fd, size)?, MapFlags::MAP_POPULATE)
}

/// A mapping that other processes have, too.
#[derive(Debug)]
pub(crate) struct SharedMapping {
    start: NonNull<c_void>,
    length: NonZeroUsize,
}

// SAFETY: a mapping belongs to no thread, and is reached only through atomics and copies, see below.
unsafe impl Send for SharedMapping {}
// SAFETY: as for Send.
unsafe impl Sync for SharedMapping {}

impl SharedMapping {
    /// Creates zeroed memory of a fixed size, and the descriptor to share it by.
    pub(crate) fn create(length: NonZeroUsize) -> Result<(Self, OwnedFd)> {
        let fd = create(length.get())?;
        nix::unistd::ftruncate(&fd, i64::try_from(length.get()).unwrap_or(i64::MAX))
            .map_err(|errno| Error::os("size shared memory", errno))?;
        add_seals(&fd, SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL)?; // nor can it shrink, see `create`
        Ok((Self::map(fd.as_fd(), length)?, fd))
    }

    /// Maps what another process created, after a check of its size and its seals.
    pub(crate) fn open(fd: BorrowedFd<'_>, length: NonZeroUsize) -> Result<Self> {
        if size_if_unshrinkable(fd)? != length.get() as u64 {
            return Err(Error::decode("shared memory", "its size is not the agreed one"));
        }
        Self::map(fd, length)
    }

    fn map(fd: BorrowedFd<'_>, length: NonZeroUsize) -> Result<Self> {
        Self::map_with(fd, length, MapFlags::empty())
    }

    fn map_with(fd: BorrowedFd<'_>, length: NonZeroUsize, flags: MapFlags) -> Result<Self> {
        if failpoint::should_fail(Failpoint::MapMemory) {
            return Err(Error::os("map shared memory", Errno::ENOMEM));
        }
        Self::map_file(fd, length, flags)
    }

    pub(super) fn map_file(fd: BorrowedFd<'_>, length: NonZeroUsize, flags: MapFlags) -> Result<Self> {
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choosing touches no memory in use.
        let start = unsafe { mmap(None, length, protection, MapFlags::MAP_SHARED | flags, fd, 0) }
            .map_err(|errno| Error::os("map shared memory", errno))?;
        Ok(Self { start, length })
    }

    /// Its size in bytes.
    pub(crate) fn size(&self) -> NonZeroUsize {
        self.length
    }

    /// The 32-bit word at a byte offset. Panics if the offset is not a multiple of 4 inside the mapping.
    #[inline(always)]
    pub(crate) fn word32(&self, offset: usize) -> &AtomicU32 {
        assert!(offset.is_multiple_of(align_of::<AtomicU32>()), "unaligned word");
        let address = self.address(offset, size_of::<AtomicU32>());
        // SAFETY: inside the mapping, aligned (both asserted), and all processes use atomics for words.
        unsafe { address.cast::<AtomicU32>().as_ref() }
    }

    /// The 64-bit word at a byte offset. Panics if the offset is not a multiple of 8 inside the mapping.
    #[inline(always)]
    pub(crate) fn word64(&self, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(align_of::<AtomicU64>()), "unaligned word");
        let address = self.address(offset, size_of::<AtomicU64>());
        // SAFETY: inside the mapping, aligned (both asserted), and all processes use atomics for words.
        unsafe { address.cast::<AtomicU64>().as_ref() }
    }

    /// Copies bytes to an offset. Panics if they do not fit.
    #[inline(always)]
    pub(crate) fn write(&self, offset: usize, bytes: &[u8]) {
        let address = self.address(offset, bytes.len());
        // SAFETY: the range is inside the mapping; no process has a Rust reference to it, since bytes are
        // only copied in and out. A reader that is too early copies garbage, but from mapped memory.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), address.cast().as_ptr(), bytes.len()) }
    }

    /// Passes bytes in place to `read`. Panics if they are not inside the mapping.
    ///
    /// No process may write there meanwhile. In a ring, none writes to a frame from publication to release.
    #[inline(always)]
    pub(crate) fn with_bytes<R>(&self, offset: usize, length: usize, read: impl FnOnce(&[u8]) -> R) -> R {
        let address = self.address(offset, length);
        // SAFETY: inside the mapping (asserted), which lives as long as `self`; bytes may have any value.
        // That none writes there is the protocol of all processes with this memory, which run the same code.
        read(unsafe { std::slice::from_raw_parts(address.cast().as_ptr(), length) })
    }

    /// Has the CPU fetch the cache line at an offset. Does not wait.
    #[inline(always)]
    pub(crate) fn prefetch(&self, offset: usize) {
        let address = self.address(offset, 1);
        #[cfg(target_arch = "x86_64")]
        // SAFETY: inside the mapping, and a prefetch changes nothing that a program can observe.
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(address.cast().as_ptr());
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = address;
    }

    #[inline(always)]
    pub(super) fn address(&self, offset: usize, length: usize) -> NonNull<c_void> {
        let end = offset.checked_add(length);
        assert!(end.is_some_and(|end| end <= self.length.get()), "outside of shared memory");
        // SAFETY: the offset is inside the mapping.
        unsafe { self.start.byte_add(offset) }
    }
}

impl Drop for SharedMapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and its references end with it. A failure is safe: it stays mapped.
        let _ = unsafe { munmap(self.start, self.length.get()) };
    }
}
