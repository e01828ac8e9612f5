//! A writable mapping of a part of a memfd.

use std::ffi::c_void;
use std::num::NonZeroUsize;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::slice;

use nix::libc::off_t;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use nix::unistd::{SysconfVar, sysconf};

use super::memfd::{has_memory, size_if_unshrinkable};
use crate::error::{Error, Result};

/// Bytes that no other process reads or writes while this exists, for which the caller must see.
#[derive(Debug)]
pub(crate) struct WritableRange {
    /// The start of a page; the range begins `before` bytes later.
    start: NonNull<c_void>,
    before: usize,
    length: NonZeroUsize,
}

// SAFETY: a mapping belongs to no thread.
unsafe impl Send for WritableRange {}
// SAFETY: a shared reference gives access to nothing.
unsafe impl Sync for WritableRange {}

impl WritableRange {
    /// Maps the pages of the bytes, of which there must be some, inside of a memfd that cannot shrink.
    pub(crate) fn map(fd: BorrowedFd<'_>, first: usize, length: usize) -> Result<Self> {
        let refused = |errno| Error::os("map a chunk of an array", errno);
        let outside = || Error::decode("a chunk of an array", "it is empty or reaches beyond the memory");
        let length = NonZeroUsize::new(length).ok_or_else(outside)?;
        let end = first.checked_add(length.get()).ok_or_else(outside)?;
        if (end as u64) > size_if_unshrinkable(fd)? || !has_memory(fd, end) {
            return Err(outside());
        }
        let page =
            sysconf(SysconfVar::PAGE_SIZE).map_err(refused)?.and_then(|size| usize::try_from(size).ok());
        let before = first % page.unwrap_or(4096);
        let offset = off_t::try_from(first - before).map_err(|_| outside())?;
        let mapped = length.saturating_add(before);
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // The memory is allocated, and will be written: one call now costs less than a fault for each page.
        let flags = MapFlags::MAP_SHARED | MapFlags::MAP_POPULATE;
        // SAFETY: a new mapping at an address of the kernel's choosing touches no memory in use.
        let start = unsafe { mmap(None, mapped, protection, flags, fd, offset) }.map_err(refused)?;
        Ok(Self { start, before, length })
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the range begins inside of the mapping.
        let first = unsafe { self.start.byte_add(self.before) };
        // SAFETY: the range is inside the mapping, which lives as long as `self`; no process has another
        // reference to these bytes, see the type.
        unsafe { slice::from_raw_parts_mut(first.cast().as_ptr(), self.length.get()) }
    }
}

impl Drop for WritableRange {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and its references end with it. A failure is safe: it stays mapped.
        let _ = unsafe { munmap(self.start, self.length.get() + self.before) };
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use super::*;
    use crate::sys::memfd::{allocate_range, create};

    /// Another process sends the descriptor, and a mapping takes all memory of a chunk at once.
    #[test]
    fn a_chunk_that_is_a_hole_is_refused() {
        let length = 1 << 24;
        let file = File::from(create(length).unwrap());
        file.set_len(length as u64).unwrap();
        assert!(WritableRange::map(file.as_fd(), 0, length).unwrap_err().is_codec());
        allocate_range(&file, 0, length).unwrap();
        WritableRange::map(file.as_fd(), 4096, length - 4096).unwrap();
    }
}
