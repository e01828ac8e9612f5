//! Immutable memory: a memfd that is filled once and sealed (`F_ADD_SEALS`, `fcntl(2)`).
//!
//! The kernel keeps seals for good. Under these, no process can write to the memory, not even its maker, nor
//! take pages away under a reader (SIGBUS). That makes it sound to read it as a plain slice.

use std::ffi::c_void;
use std::hint::black_box;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::slice;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, munmap};
use nix::sys::stat::fstat;

use super::failpoint::{self, Failpoint};
use super::memfd::{self, create};
use crate::error::{Error, Result};

/// Against changes of content, of size, and of the seals themselves.
const SEALS: SealFlag = SealFlag::F_SEAL_WRITE
    .union(SealFlag::F_SEAL_SHRINK)
    .union(SealFlag::F_SEAL_GROW)
    .union(SealFlag::F_SEAL_SEAL);

/// Sealed memory, mapped for reading. It is aligned to a page.
#[derive(Debug)]
pub(crate) struct ImmutableMemory(RawMapping);

/// Identifies the memory behind a descriptor, while it is open or mapped in any process. The inode is not
/// enough: on old kernels those of memfds repeat after 2^32. The time of the write tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct MemfdId {
    device: u64,
    inode: u64,
    written: (i64, i64),
}

impl ImmutableMemory {
    /// Seals a copy of `bytes`, at least one, and returns the descriptor for others to [open](Self::open).
    ///
    /// Writes, and does not copy into a mapping: that saves a fault a page, which costs more than the copy.
    pub(crate) fn copy(bytes: &[u8]) -> Result<(Self, OwnedFd)> {
        let length = NonZeroUsize::new(bytes.len()).ok_or_else(|| Error::internal("no bytes to seal"))?;
        Self::seal(memfd::write(bytes)?, length)
    }

    /// Seals `length` bytes, zeroed and then filled in place. Returns the descriptor for others to open.
    pub(crate) fn build(length: NonZeroUsize, fill: impl FnOnce(&mut [u8])) -> Result<(Self, OwnedFd)> {
        let fd = create_allocated(length)?;
        let mut mapping = RawMapping::new(fd.as_fd(), length, Access::Write)?;
        mapping.populate();
        fill(mapping.bytes_mut());
        drop(mapping); // the kernel does not seal memory that has a writable mapping
        Self::seal(fd, length)
    }

    /// Maps what another process has sealed, after a check of its seals and that its size is `length`.
    pub(crate) fn open(fd: BorrowedFd<'_>, length: NonZeroUsize) -> Result<Self> {
        let (_, size) = identify(fd)?;
        let seals = fcntl(fd, FcntlArg::F_GET_SEALS).map_err(|errno| Error::os("see seals", errno))?;
        if !SealFlag::from_bits_truncate(seals).contains(SEALS) {
            return Err(Error::decode("sealed memory", "it is not sealed"));
        }
        if size != length.get() as u64 {
            return Err(Error::decode("sealed memory", format!("{length} bytes announced, {size} sent")));
        }
        if !memfd::has_memory(fd, length.get()) {
            return Err(Error::decode("sealed memory", format!("{length} bytes announced, fewer written")));
        }
        RawMapping::new(fd, length, Access::Read).map(Self)
    }

    /// There is no writable mapping of it, and no other process has the descriptor.
    pub(crate) fn seal(fd: OwnedFd, length: NonZeroUsize) -> Result<(Self, OwnedFd)> {
        failpoint::hit(Failpoint::Filled);
        add_seals(fd.as_fd())?;
        failpoint::hit(Failpoint::Sealed);
        Ok((Self(RawMapping::new(fd.as_fd(), length, Access::Read)?), fd))
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: the bytes are mapped as long as `self` lives, and sealed, so no process writes to them or
        // removes them: `open` has checked that, `seal` has done it.
        unsafe { slice::from_raw_parts(self.0.start.cast().as_ptr(), self.0.length.get()) }
    }
}

/// Writes bytes to sealed memory, for others to [open](ImmutableMemory::open).
pub(crate) fn store(bytes: &[u8]) -> Result<OwnedFd> {
    let fd = memfd::write(bytes)?;
    add_seals(fd.as_fd())?;
    Ok(fd)
}

/// The identity of the memory, and its size in bytes.
pub(crate) fn identify(fd: BorrowedFd<'_>) -> Result<(MemfdId, u64)> {
    let status = fstat(fd).map_err(|errno| Error::os("identify sealed memory", errno))?;
    let written = (status.st_ctime, status.st_ctime_nsec);
    let identity = MemfdId { device: status.st_dev, inode: status.st_ino, written };
    Ok((identity, status.st_size.cast_unsigned()))
}

/// Zeroed memory with all pages present: a lack of memory is an error here, not a signal at a later access.
pub(crate) fn create_allocated(length: NonZeroUsize) -> Result<OwnedFd> {
    let refused = |errno| Error::os(&format!("find {length} bytes of memory to seal"), errno);
    // The kernel's overcommit heuristic does not apply to files: one that is far too large would grow until
    // the OOM killer strikes. So the heuristic is asked by way of a vector.
    let mut vector = Vec::<u8>::new();
    vector.try_reserve_exact(length.get()).map_err(|_| refused(Errno::ENOMEM))?;
    drop(black_box(vector));
    let fd = create(length.get())?;
    memfd::allocate_range(&fd, 0, length.get())?;
    Ok(fd)
}

/// The longest time that a forked copy of this process may take to execute another program.
const SEAL_RETRY_LIMIT: Duration = Duration::from_secs(10);

fn add_seals(fd: BorrowedFd<'_>) -> Result<()> {
    let begun = Instant::now();
    loop {
        match fcntl(fd, FcntlArg::F_ADD_SEALS(SEALS)) {
            Ok(_) => return Ok(()),
            // A forked copy of this process that is about to execute a program has the writable mapping.
            Err(Errno::EBUSY) if begun.elapsed() < SEAL_RETRY_LIMIT => {
                thread::sleep(Duration::from_millis(1));
            }
            Err(errno) => return Err(Error::os("seal memory", errno)),
        }
    }
}

#[derive(Clone, Copy)]
enum Access {
    Read,
    Write,
}

#[derive(Debug)]
struct RawMapping {
    start: NonNull<c_void>,
    length: NonZeroUsize,
}

// SAFETY: a mapping belongs to no thread, and is reached only through the references that its owner gives.
unsafe impl Send for RawMapping {}
// SAFETY: as for Send; through a shared reference, it is only read.
unsafe impl Sync for RawMapping {}

impl RawMapping {
    /// Does not populate pages for reading: one fault maps 16 present pages, so that faults for all of them
    /// cost less than `MAP_POPULATE`, and unread pages cost nothing.
    fn new(fd: BorrowedFd<'_>, length: NonZeroUsize, access: Access) -> Result<Self> {
        let (protection, flags) = match access {
            // Linux before 6.7 refuses to map sealed memory as shared. Private is the same: it is immutable.
            Access::Read => (ProtFlags::PROT_READ, MapFlags::MAP_PRIVATE),
            Access::Write => (ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED),
        };
        // SAFETY: a new mapping at an address of the kernel's choosing touches no memory in use.
        let start = unsafe { mmap(None, length, protection, flags, fd, 0) }
            .map_err(|errno| Error::os(&format!("map {length} bytes of memory to seal"), errno))?;
        Ok(Self { start, length })
    }

    /// Makes all pages present at once, which is cheaper than one by one. Linux before 5.14 cannot do it.
    fn populate(&mut self) {
        // SAFETY: the range is ours, and the advice does not change its content.
        let _ = unsafe { madvise(self.start, self.length.get(), MmapAdvise::MADV_POPULATE_WRITE) };
    }

    /// Only for a writable mapping.
    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the bytes are mapped, zeroed, and writable; no other process has the memory yet, and the
        // borrow of `self` keeps it to one reference.
        unsafe { slice::from_raw_parts_mut(self.start.cast().as_ptr(), self.length.get()) }
    }
}

impl Drop for RawMapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and its references end with it. A failure is safe: it stays mapped.
        let _ = unsafe { munmap(self.start, self.length.get()) };
    }
}

#[cfg(test)]
mod tests;
