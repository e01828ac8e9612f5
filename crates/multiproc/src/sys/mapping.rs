//! Memory without a name: bytes spilled in a descriptor, and pages that two processes share.

// What is done here is a move or two, and is to cost no more.
#![allow(clippy::inline_always)]

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
use std::ffi::c_void;
use std::fs::File;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::ptr::{self, NonNull};
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::libc;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::stat::fstat;

use super::atomic::{AtomicU32, AtomicU64};
use super::failpoint::{self, Failpoint};
use crate::error::{Error, Result};

/// Parks bytes in anonymous memory, to be handed over as a descriptor. What is behind them there is of no interest: it
/// may be memory that has been used before, and larger.
pub(crate) fn memfd_write(bytes: &[u8]) -> Result<OwnedFd> {
    let preforked = if bytes.len() >= MIN_RECYCLED { with_recycled(Vec::pop) } else { None };
    match preforked {
        Some(preforked) => check_limit(bytes.len()).and_then(|()| fill(preforked, bytes)),
        None => memfd_write_exactly(bytes),
    }
}

/// Puts bytes into anonymous memory of their own, of just their size.
pub(crate) fn memfd_write_exactly(bytes: &[u8]) -> Result<OwnedFd> {
    fill(create(bytes.len())?, bytes)
}

fn fill(fd: OwnedFd, bytes: &[u8]) -> Result<OwnedFd> {
    let file = File::from(fd);
    file.write_all_at(bytes, 0)
        .map_err(|error| Error::io(&format!("write {} bytes to anonymous memory", bytes.len()), &error))?;
    Ok(file.into())
}

/// Memory that nobody will look at any more is kept for the next [`memfd_write`], within limits: to write where memory is
/// already takes a fraction of the time.
pub(crate) fn recycle(fd: OwnedFd, length: usize) {
    if (MIN_RECYCLED..=MAX_RECYCLED).contains(&length) {
        with_recycled(|preforked| {
            if preforked.len() < MAX_RECYCLED_COUNT {
                preforked.push(fd);
            }
        });
    }
}

/// From this size on, and up to that one, memory is kept (bytes); and how much of it (pieces).
const MIN_RECYCLED: usize = 256 * 1024;
const MAX_RECYCLED: usize = 16 * 1024 * 1024;
const MAX_RECYCLED_COUNT: usize = 4;

/// The preforked child memory, and whose it is: a copy of the process that somebody forked has none.
static RECYCLED: Mutex<(u32, Vec<OwnedFd>)> = Mutex::new((0, Vec::new()));

fn with_recycled<R>(act: impl FnOnce(&mut Vec<OwnedFd>) -> R) -> R {
    let mut preforked = RECYCLED.lock().unwrap_or_else(PoisonError::into_inner);
    let own = std::process::id();
    if preforked.0 != own {
        *preforked = (own, Vec::new());
    }
    act(&mut preforked.1)
}

/// Reads the first `length` bytes of what [`memfd_write`] spilled; gives them behind `prefix`.
///
/// The copy is private: it needs no mapping and no descriptor, and no other process can change it.
pub(crate) fn read(fd: &OwnedFd, length: usize, prefix: &[u8]) -> Result<Vec<u8>> {
    let length = announced(fd, length)?.get();
    let mut bytes = with_room(prefix.len().saturating_add(length))?;
    bytes.extend_from_slice(prefix);
    append(fd, length, &mut bytes)?;
    Ok(bytes)
}

/// A copy of a message's bytes.
pub(crate) fn copy(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut copy = with_room(bytes.len())?;
    copy.extend_from_slice(bytes);
    Ok(copy)
}

fn with_room(length: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    bytes
        .try_reserve_exact(length)
        .map_err(|_| Error::system(&format!("find {length} bytes for a message"), Errno::ENOMEM))?;
    Ok(bytes)
}

/// Appends the first `length` bytes of a file, for which there must be room.
fn append(fd: &OwnedFd, length: usize, bytes: &mut Vec<u8>) -> Result<()> {
    let mut offset = 0;
    while offset < length {
        let room = &mut bytes.spare_capacity_mut()[..length - offset];
        let place = libc::off_t::try_from(offset).unwrap_or(libc::off_t::MAX);
        // SAFETY: the room is memory of our own, of that length, to which nothing else refers.
        let read = unsafe { libc::pread(fd.as_raw_fd(), room.as_mut_ptr().cast(), room.len(), place) };
        let read = match Errno::result(read) {
            Ok(0) => return Err(Error::decode("a message", "its memory ends before it does")),
            Ok(read) => read.cast_unsigned(),
            Err(Errno::EINTR) => continue,
            Err(errno) => return Err(Error::system("read anonymous memory", errno)),
        };
        // SAFETY: the system has written so many bytes to the beginning of the room.
        unsafe { bytes.set_len(bytes.len() + read) };
        offset += read;
    }
    Ok(())
}

/// Maps the first `length` bytes of what [`memfd_write`] spilled, to look at them in place.
pub(crate) fn map(fd: &OwnedFd, length: usize) -> Result<SharedMapping> {
    SharedMapping::map(fd.as_fd(), announced(fd, length)?)
}

/// The length that was announced, if the memory is as large.
fn announced(fd: &OwnedFd, length: usize) -> Result<NonZeroUsize> {
    let size = size_of_sealed(fd.as_fd())?;
    NonZeroUsize::new(length)
        .filter(|length| size >= length.get() as u64)
        .ok_or_else(|| Error::decode("a message", format!("{length} bytes announced, {size} sent")))
}

/// The size in bytes of memory that somebody has handed to us, and that will not be less, for which there is a seal.
pub(super) fn size_of_sealed(fd: BorrowedFd<'_>) -> Result<u64> {
    let seals = fcntl(fd, FcntlArg::F_GET_SEALS).map_err(|errno| Error::system("see seals", errno))?;
    if !SealFlag::from_bits_truncate(seals).contains(SealFlag::F_SEAL_SHRINK) {
        return Err(Error::decode("shared memory", "it could be made shorter"));
    }
    let size = fstat(fd).map_err(|errno| Error::system("size shared memory", errno))?.st_size;
    Ok(u64::try_from(size).unwrap_or(0))
}

/// Pages shared with another process: a header of atomic words, and bytes behind it.
#[derive(Debug)]
pub(crate) struct SharedMapping {
    start: NonNull<c_void>,
    length: NonZeroUsize,
}

// SAFETY: the mapping belongs to no thread, and is reached only through atomics and copies, see below.
unsafe impl Send for SharedMapping {}
// SAFETY: as for Send.
unsafe impl Sync for SharedMapping {}

impl SharedMapping {
    /// Creates zeroed pages of a fixed size; the descriptor is for the process to share them with.
    pub(crate) fn create(length: NonZeroUsize) -> Result<(Self, OwnedFd)> {
        let fd = create(length.get())?;
        nix::unistd::ftruncate(&fd, i64::try_from(length.get()).unwrap_or(i64::MAX))
            .map_err(|errno| Error::system("size shared memory", errno))?;
        add_seals(fd.as_fd(), SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL)?; // nor can it shrink, see `create`
        Ok((Self::map(fd.as_fd(), length)?, fd))
    }

    /// Maps what another process created, after a look at its size and its seals.
    pub(crate) fn open(fd: BorrowedFd<'_>, length: NonZeroUsize) -> Result<Self> {
        if size_of_sealed(fd)? != length.get() as u64 {
            return Err(Error::decode("shared memory", "its size is not the agreed one"));
        }
        Self::map(fd, length)
    }

    fn map(fd: BorrowedFd<'_>, length: NonZeroUsize) -> Result<Self> {
        if failpoint::should_fail(Failpoint::MapMemory) {
            return Err(Error::system("map shared memory", Errno::ENOMEM));
        }
        Self::map_file(fd, length)
    }

    pub(super) fn map_file(fd: BorrowedFd<'_>, length: NonZeroUsize) -> Result<Self> {
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choosing touches no memory in use.
        let start = unsafe { mmap(None, length, protection, MapFlags::MAP_SHARED, fd, 0) }
            .map_err(|errno| Error::system("map shared memory", errno))?;
        Ok(Self { start, length })
    }

    /// How large it is, in bytes.
    pub(crate) fn size(&self) -> NonZeroUsize {
        self.length
    }

    /// The 32-bit word at a byte offset, a multiple of 4 inside the mapping.
    #[inline(always)]
    pub(crate) fn word32(&self, offset: usize) -> &AtomicU32 {
        assert!(offset.is_multiple_of(align_of::<AtomicU32>()), "unaligned word");
        let place = self.place(offset, size_of::<AtomicU32>());
        // SAFETY: inside the mapping, aligned (both asserted), and all sides use atomics for words.
        unsafe { place.cast::<AtomicU32>().as_ref() }
    }

    /// The 64-bit word at a byte offset, a multiple of 8 inside the mapping.
    #[inline(always)]
    pub(crate) fn word64(&self, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(align_of::<AtomicU64>()), "unaligned word");
        let place = self.place(offset, size_of::<AtomicU64>());
        // SAFETY: inside the mapping, aligned (both asserted), and all sides use atomics for words.
        unsafe { place.cast::<AtomicU64>().as_ref() }
    }

    /// Copies bytes in at an offset; they must fit.
    #[inline(always)]
    pub(crate) fn write(&self, offset: usize, bytes: &[u8]) {
        let place = self.place(offset, bytes.len());
        // SAFETY: the range is inside the mapping; no Rust reference to it exists on any side, since bytes are only
        // ever copied in and out. A reader that comes too early copies nonsense, but from memory that is there.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), place.cast().as_ptr(), bytes.len()) }
    }

    /// Shows bytes in place; they must be inside the mapping, and nobody may write there meanwhile: in a ring, nobody
    /// does between a frame's being published and its being given free.
    #[inline(always)]
    pub(crate) fn with_bytes<R>(&self, offset: usize, length: usize, look: impl FnOnce(&[u8]) -> R) -> R {
        let place = self.place(offset, length);
        // SAFETY: inside the mapping (asserted), which lives as long as `self`; bytes of any value are bytes. That
        // nobody writes there is the protocol of all processes that have this memory, which run the same code.
        look(unsafe { std::slice::from_raw_parts(place.cast().as_ptr(), length) })
    }

    /// Has the line of memory at an offset fetched, where the processor can be told so. It waits for nothing.
    #[inline(always)]
    pub(crate) fn prefetch(&self, offset: usize) {
        let place = self.place(offset, 1);
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the place is inside the mapping, and nothing is read as far as the program can tell.
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(place.cast().as_ptr());
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = place;
    }

    #[inline(always)]
    pub(super) fn place(&self, offset: usize, length: usize) -> NonNull<c_void> {
        let end = offset.checked_add(length);
        assert!(end.is_some_and(|end| end <= self.length.get()), "outside of shared memory");
        // SAFETY: the offset is inside the mapping.
        unsafe { self.start.byte_add(offset) }
    }
}

impl Drop for SharedMapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and its references end with it. A failure could only leave it mapped.
        let _ = unsafe { munmap(self.start, self.length.get()) };
    }
}

/// An empty file in memory, to be grown to so many bytes, and sealed if that is wanted. It cannot shrink: no process can
/// take pages away under another that reads them (SIGBUS).
pub(crate) fn create(length: usize) -> Result<OwnedFd> {
    check_limit(length)?;
    if failpoint::should_fail(Failpoint::CreateMemory) {
        return Err(Error::system("create anonymous memory", Errno::ENFILE));
    }
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    // Never to be executed: a system may refuse any other. Linux before 6.3 does not know the flag.
    let never_executed = MFdFlags::from_bits_retain(libc::MFD_NOEXEC_SEAL);
    let fd = memfd_create(c"multiproc", flags | never_executed)
        .or_else(|errno| if errno == Errno::EINVAL { memfd_create(c"multiproc", flags) } else { Err(errno) })
        .map_err(|errno| Error::system("create anonymous memory", errno))?;
    add_seals(fd.as_fd(), SealFlag::F_SEAL_SHRINK)?;
    Ok(fd)
}

fn add_seals(fd: BorrowedFd<'_>, seals: SealFlag) -> Result<()> {
    fcntl(fd, FcntlArg::F_ADD_SEALS(seals)).map_err(|errno| Error::system("seal anonymous memory", errno))?;
    Ok(())
}

/// Growing a file beyond this limit does not fail but sends SIGXFSZ, which kills.
fn check_limit(length: usize) -> Result<()> {
    let (limit, _) =
        getrlimit(Resource::RLIMIT_FSIZE).map_err(|errno| Error::system("read a limit", errno))?;
    if length as u64 > limit {
        let operation = format!("create {length} bytes of anonymous memory beyond the limit on file sizes");
        return Err(Error::system(&operation, Errno::EFBIG));
    }
    Ok(())
}
