//! Anonymous memory as a descriptor, `memfd_create(2)`: bytes too large for a packet, and memory to share.

use std::fs::File;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, SealFlag, fallocate, fcntl};
use nix::libc;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::stat::fstat;

use super::failpoint::{self, Failpoint};
use crate::error::{Error, Result};

/// Writes bytes to a new memfd of just their size.
pub(crate) fn write(bytes: &[u8]) -> Result<OwnedFd> {
    fill(create(bytes.len())?, bytes)
}

/// Writes bytes to the beginning of an existing memfd. What follows them there stays.
pub(crate) fn write_over(fd: OwnedFd, bytes: &[u8]) -> Result<OwnedFd> {
    check_limit(bytes.len())?;
    fill(fd, bytes)
}

fn fill(fd: OwnedFd, bytes: &[u8]) -> Result<OwnedFd> {
    let file = File::from(fd);
    file.write_all_at(bytes, 0)
        .map_err(|error| Error::io(&format!("write {} bytes to anonymous memory", bytes.len()), &error))?;
    Ok(file.into())
}

/// Reads the first `length` bytes; returns them after `prefix`.
///
/// The copy is private: it needs no mapping and no descriptor, and no other process can change it.
pub(crate) fn read(fd: &OwnedFd, length: usize, prefix: &[u8]) -> Result<Vec<u8>> {
    let length = check_length(fd, length)?.get();
    let mut bytes = try_with_capacity(prefix.len().saturating_add(length))?;
    bytes.extend_from_slice(prefix);
    append(fd, length, &mut bytes)?;
    Ok(bytes)
}

/// Whether a file has as much memory as `length` bytes take, be it swapped out. Short ones need not.
///
/// Another process chooses the length of what it sends, and to make a file large costs it nothing. To read a hole, the
/// kernel would find memory: so a few bytes of a faulty or hostile process would cost the reader gigabytes, and
/// seconds. (`SEEK_HOLE` tells of each hole, but blocks while another process allocates memory of the file.)
pub(crate) fn has_memory(fd: impl AsFd, length: usize) -> bool {
    const BLOCK: u64 = 512; // whatever the file system's blocks are, see stat(3type)
    let memory =
        || fstat(fd).map(|status| u64::try_from(status.st_blocks).unwrap_or(0).saturating_mul(BLOCK));
    length < WORTH_CHECKING || memory().is_ok_and(|memory| memory >= length as u64)
}

/// From this length on (bytes), what another process sends is checked for its [memory](has_memory).
pub(crate) const WORTH_CHECKING: usize = 1024 * 1024;

/// A vector with room for a message. Another process chooses the length, so a lack of memory is an error.
pub(crate) fn try_with_capacity(length: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    bytes
        .try_reserve_exact(length)
        .map_err(|_| Error::os(&format!("find {length} bytes for a message"), Errno::ENOMEM))?;
    Ok(bytes)
}

/// Appends the first `length` bytes of a file to a vector that has room for them.
fn append(fd: &OwnedFd, length: usize, bytes: &mut Vec<u8>) -> Result<()> {
    let mut offset = 0;
    while offset < length {
        let room = &mut bytes.spare_capacity_mut()[..length - offset];
        let at = libc::off_t::try_from(offset).unwrap_or(libc::off_t::MAX);
        // SAFETY: the room is memory of our own, of that length, to which nothing else refers.
        let read = unsafe { libc::pread(fd.as_raw_fd(), room.as_mut_ptr().cast(), room.len(), at) };
        let read = match Errno::result(read) {
            Ok(0) => return Err(Error::decode("a message", "its memory ends before it does")),
            Ok(read) => read.cast_unsigned(),
            Err(Errno::EINTR) => continue,
            Err(errno) => return Err(Error::os("read anonymous memory", errno)),
        };
        // SAFETY: the kernel has written that many bytes to the beginning of the room.
        unsafe { bytes.set_len(bytes.len() + read) };
        offset += read;
    }
    Ok(())
}

/// Allocates pages for a range that other processes may map: a lack of memory is an error here, not a signal
/// at a later access.
pub(crate) fn allocate_range(fd: impl AsFd, offset: usize, length: usize) -> Result<()> {
    // In steps, since a kernel may undo a whole one at a signal (EINTR), which a profiler sends all the time.
    const STEP: usize = 1024 * 1024;
    let end = offset.saturating_add(length);
    for start in (offset..end).step_by(STEP) {
        change_pages(&fd, FallocateFlags::empty(), start, STEP.min(end - start))
            .map_err(|errno| Error::os(&format!("find {length} bytes of memory to share"), errno))?;
    }
    Ok(())
}

/// Gives the pages of a range back, which then reads as zeros. They stay where the kernel refuses it.
pub(crate) fn release(fd: impl AsFd, offset: usize, length: usize) {
    let _ = change_pages(
        fd,
        FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE,
        offset,
        length,
    );
}

fn change_pages(fd: impl AsFd, how: FallocateFlags, offset: usize, length: usize) -> nix::Result<()> {
    let number = |bytes| i64::try_from(bytes).map_err(|_| Errno::EFBIG);
    loop {
        match fallocate(&fd, how, number(offset)?, number(length)?) {
            Err(Errno::EINTR) => {}
            _ if length == 0 => return Ok(()),
            outcome => return outcome,
        }
    }
}

/// Checks that another process has written `length` bytes, more than 0, to its memfd.
pub(super) fn check_length(fd: &OwnedFd, length: usize) -> Result<NonZeroUsize> {
    let size = size_if_unshrinkable(fd.as_fd())?;
    let length = NonZeroUsize::new(length)
        .filter(|length| size >= length.get() as u64)
        .ok_or_else(|| Error::decode("a message", format!("{length} bytes announced, {size} sent")))?;
    if has_memory(fd, length.get()) {
        return Ok(length);
    }
    Err(Error::decode("a message", format!("{length} bytes announced, fewer written")))
}

/// The size in bytes of another process's memfd, which cannot shrink: a seal says so.
pub(super) fn size_if_unshrinkable(fd: BorrowedFd<'_>) -> Result<u64> {
    let seals = fcntl(fd, FcntlArg::F_GET_SEALS).map_err(|errno| Error::os("see seals", errno))?;
    if !SealFlag::from_bits_truncate(seals).contains(SealFlag::F_SEAL_SHRINK) {
        return Err(Error::decode("shared memory", "it could be made shorter"));
    }
    let size = fstat(fd).map_err(|errno| Error::os("size shared memory", errno))?.st_size;
    Ok(u64::try_from(size).unwrap_or(0))
}

/// An empty memfd, to be grown to `length` bytes. It cannot shrink, so no process can take pages away under
/// another that reads them (SIGBUS). More seals can be added.
pub(super) fn create(length: usize) -> Result<OwnedFd> {
    check_limit(length)?;
    if failpoint::should_fail(Failpoint::CreateMemory) {
        return Err(Error::os("create anonymous memory", Errno::ENFILE));
    }
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    // Never to be executed: a kernel may be set to refuse any other. Linux before 6.3 does not know the flag.
    let never_executed = MFdFlags::from_bits_retain(libc::MFD_NOEXEC_SEAL);
    let fd = memfd_create(c"multiproc", flags | never_executed)
        .or_else(|errno| if errno == Errno::EINVAL { memfd_create(c"multiproc", flags) } else { Err(errno) })
        .map_err(|errno| Error::os("create anonymous memory", errno))?;
    add_seals(&fd, SealFlag::F_SEAL_SHRINK)?;
    Ok(fd)
}

pub(super) fn add_seals(fd: &OwnedFd, seals: SealFlag) -> Result<()> {
    fcntl(fd, FcntlArg::F_ADD_SEALS(seals)).map_err(|errno| Error::os("seal anonymous memory", errno))?;
    Ok(())
}

/// Growing a file beyond `RLIMIT_FSIZE` does not just fail: it sends SIGXFSZ, which kills.
fn check_limit(length: usize) -> Result<()> {
    let (limit, _) = getrlimit(Resource::RLIMIT_FSIZE).map_err(|errno| Error::os("read a limit", errno))?;
    if length as u64 > limit {
        let operation = format!("create {length} bytes of anonymous memory beyond the limit on file sizes");
        return Err(Error::os(&operation, Errno::EFBIG));
    }
    Ok(())
}
