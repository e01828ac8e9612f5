//! Memory that nobody can change any more: filled once, sealed, and only read from then on.
//!
//! Seals are the kernel's, and cannot be taken off. Under those that are asked for here, no process can write to the
//! memory, the one that made it included, nor take pages away under one that reads it (SIGBUS). That is what makes it
//! sound to read it as a plain slice.

use std::ffi::c_void;
use std::hint::black_box;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::slice;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, SealFlag, fallocate, fcntl};
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, munmap};
use nix::sys::stat::fstat;

use super::failpoint::{self, Failpoint};
use super::mapping::{create, memfd_write_exactly};
use crate::error::{Error, Result};

/// What makes it unchangeable: content, size, and these seals themselves.
const SEALS: SealFlag = SealFlag::F_SEAL_WRITE
    .union(SealFlag::F_SEAL_SHRINK)
    .union(SealFlag::F_SEAL_GROW)
    .union(SealFlag::F_SEAL_SEAL);

/// Sealed memory, mapped to be read. It begins at a page's start.
#[derive(Debug)]
pub(crate) struct Sealed(Mapping);

/// Which memory a descriptor is for. No other has the same while this one is open or mapped somewhere: on old
/// systems the numbers of anonymous memory come round after 2^32, so that the time counts, too, at which its
/// content was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Identity {
    device: u64,
    inode: u64,
    written: (i64, i64),
}

impl Sealed {
    /// Seals a copy of `bytes`, of which there must be some. The descriptor is for others to open.
    ///
    /// Written, not mapped and filled: that saves a page fault for every page, which is more than the copying.
    pub(crate) fn copy(bytes: &[u8]) -> Result<(Self, OwnedFd)> {
        let length = NonZeroUsize::new(bytes.len()).ok_or_else(|| Error::internal("no bytes to seal"))?;
        Self::seal(memfd_write_exactly(bytes)?, length)
    }

    /// Has `fill` write so many zeroed bytes in place, and seals them. The descriptor is for others to open.
    pub(crate) fn build(length: NonZeroUsize, fill: impl FnOnce(&mut [u8])) -> Result<(Self, OwnedFd)> {
        let fd = allocate(length)?;
        let mut mapping = Mapping::new(fd.as_fd(), length, Access::Write)?;
        mapping.populate();
        fill(mapping.bytes_mut());
        drop(mapping); // else it could still be written through, and the kernel refuses to seal it
        Self::seal(fd, length)
    }

    /// Maps what another process has sealed, after a look at its size, which is to be `length`, and its seals.
    pub(crate) fn open(fd: BorrowedFd<'_>, length: NonZeroUsize) -> Result<Self> {
        let (_, size) = identify(fd)?;
        let seals = fcntl(fd, FcntlArg::F_GET_SEALS).map_err(|errno| Error::system("see seals", errno))?;
        if !SealFlag::from_bits_truncate(seals).contains(SEALS) {
            return Err(Error::decode("sealed memory", "it is not sealed"));
        }
        if size != length.get() as u64 {
            return Err(Error::decode("sealed memory", format!("{length} bytes announced, {size} sent")));
        }
        Mapping::new(fd, length, Access::Read).map(Self)
    }

    /// Nobody has a writable mapping of it, or knows the descriptor.
    pub(crate) fn seal(fd: OwnedFd, length: NonZeroUsize) -> Result<(Self, OwnedFd)> {
        failpoint::hit(Failpoint::Filled);
        add_seals(fd.as_fd())?;
        failpoint::hit(Failpoint::Sealed);
        Ok((Self(Mapping::new(fd.as_fd(), length, Access::Read)?), fd))
    }

    /// What is in it.
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: so many bytes are mapped as long as `self` lives, and sealed, so nobody writes to them or removes
        // them: `open` has seen that, `seal` has done it.
        unsafe { slice::from_raw_parts(self.0.start.cast().as_ptr(), self.0.length.get()) }
    }
}

/// Puts bytes into sealed memory, for others to open.
pub(crate) fn store(bytes: &[u8]) -> Result<OwnedFd> {
    let fd = memfd_write_exactly(bytes)?;
    add_seals(fd.as_fd())?;
    Ok(fd)
}

/// Which memory this is, and its size in bytes.
pub(crate) fn identify(fd: BorrowedFd<'_>) -> Result<(Identity, u64)> {
    let status = fstat(fd).map_err(|errno| Error::system("identify sealed memory", errno))?;
    let written = (status.st_ctime, status.st_ctime_nsec);
    let identity = Identity { device: status.st_dev, inode: status.st_ino, written };
    Ok((identity, status.st_size.cast_unsigned()))
}

/// Zeroed memory of which every page is there, so that a lack of it shows here, and not when a page is touched.
pub(crate) fn allocate(length: NonZeroUsize) -> Result<OwnedFd> {
    let refused = |errno| Error::system(&format!("find {length} bytes of memory to seal"), errno);
    // The kernel's own judgement of what is obviously too much is not asked for files, and without it the file would
    // grow until something is killed. So it is asked for a vector.
    let mut vector = Vec::<u8>::new();
    vector.try_reserve_exact(length.get()).map_err(|_| refused(Errno::ENOMEM))?;
    drop(black_box(vector));
    let fd = create(length.get())?;
    let size = i64::try_from(length.get()).map_err(|_| refused(Errno::EFBIG))?;
    loop {
        match fallocate(&fd, FallocateFlags::empty(), 0, size) {
            Ok(()) => return Ok(fd),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(refused(errno)),
        }
    }
}

/// How long a copy of this process may take to execute another program.
const SEAL_RETRY_LIMIT: Duration = Duration::from_secs(10);

fn add_seals(fd: BorrowedFd<'_>) -> Result<()> {
    let begun = Instant::now();
    loop {
        match fcntl(fd, FcntlArg::F_ADD_SEALS(SEALS)) {
            Ok(_) => return Ok(()),
            // A copy of this process, forked by another thread to start a program, still has the writable mapping.
            Err(Errno::EBUSY) if begun.elapsed() < SEAL_RETRY_LIMIT => {
                thread::sleep(Duration::from_millis(1));
            }
            Err(errno) => return Err(Error::system("seal memory", errno)),
        }
    }
}

#[derive(Clone, Copy)]
enum Access {
    Read,
    Write,
}

#[derive(Debug)]
struct Mapping {
    start: NonNull<c_void>,
    length: NonZeroUsize,
}

// SAFETY: a mapping belongs to no thread, and is reached only through the references that its owner gives.
unsafe impl Send for Mapping {}
// SAFETY: as for Send; through a shared reference, it is only read.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Its pages are not made present when it is to be read: one fault maps 16 that are there already, so that all
    /// of them cost less than asking for all at once does, and those that nobody reads cost nothing.
    fn new(fd: BorrowedFd<'_>, length: NonZeroUsize, access: Access) -> Result<Self> {
        let (protection, flags) = match access {
            // Before Linux 6.7, sealed memory cannot be mapped as shared. What nobody writes is the same either way.
            Access::Read => (ProtFlags::PROT_READ, MapFlags::MAP_PRIVATE),
            Access::Write => (ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED),
        };
        // SAFETY: a new mapping at an address of the kernel's choosing touches no memory in use.
        let start = unsafe { mmap(None, length, protection, flags, fd, 0) }
            .map_err(|errno| Error::system(&format!("map {length} bytes of memory to seal"), errno))?;
        Ok(Self { start, length })
    }

    /// Makes the pages present at once, which is cheaper than one by one. Only a wish: Linux before 5.14 refuses it.
    fn populate(&mut self) {
        // SAFETY: the range is ours, and the advice does not change what is in it.
        let _ = unsafe { madvise(self.start, self.length.get(), MmapAdvise::MADV_POPULATE_WRITE) };
    }

    /// Only for a writable mapping.
    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: so many bytes are mapped, zeroed, and writable; nobody else knows the memory yet, and the borrow of
        // `self` keeps it to one reference.
        unsafe { slice::from_raw_parts_mut(self.start.cast().as_ptr(), self.length.get()) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and its references end with it. A failure could only leave it mapped.
        let _ = unsafe { munmap(self.start, self.length.get()) };
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{File, OpenOptions};
    use std::io::Write;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::FileExt;

    use nix::sys::memfd::{MFdFlags, memfd_create};

    use super::*;
    use crate::sys::mapping::{memfd_write, recycle};

    fn length(bytes: usize) -> NonZeroUsize {
        NonZeroUsize::new(bytes).unwrap()
    }

    #[test]
    fn nobody_can_change_it() {
        let (sealed, fd) = Sealed::copy(&[7; 5000]).unwrap();
        let (built, built_fd) = Sealed::build(length(5000), |bytes| bytes.fill(7)).unwrap();
        for (sealed, fd) in [(sealed, fd), (built, built_fd)] {
            let error = Mapping::new(fd.as_fd(), length(5000), Access::Write).unwrap_err();
            assert_eq!(error.os_error(), Some(Errno::EPERM as i32), "{error}");
            let opened_anew =
                OpenOptions::new().write(true).open(format!("/proc/self/fd/{}", fd.as_raw_fd()));
            for mut file in [File::from(fd), opened_anew.unwrap()] {
                assert!(file.write_at(b"x", 0).is_err());
                assert!(file.write_at(b"x", 5000).is_err());
                assert!(file.write_all(b"x").is_err());
                assert!(file.set_len(0).is_err());
                assert!(file.set_len(10_000).is_err());
                let mode = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
                assert!(fallocate(&file, mode, 0, 4096).is_err());
            }
            assert!(sealed.bytes() == [7; 5000]);
        }
    }

    #[test]
    fn what_is_not_sealed_is_not_opened() {
        let with = |seals: SealFlag| {
            let fd = memfd_create(c"test", MFdFlags::MFD_ALLOW_SEALING).unwrap();
            nix::unistd::write(&fd, &[7; 100]).unwrap();
            fcntl(&fd, FcntlArg::F_ADD_SEALS(seals)).unwrap();
            Sealed::open(fd.as_fd(), length(100))
        };
        assert!(with(SEALS).is_ok());
        for missing in SEALS.iter() {
            let error = with(SEALS - missing).unwrap_err();
            assert!(error.to_string().contains("it is not sealed"), "{error}");
        }
        assert!(with((SEALS - SealFlag::F_SEAL_WRITE) | SealFlag::F_SEAL_FUTURE_WRITE).is_err());
        assert!(Sealed::open(File::open("/dev/zero").unwrap().as_fd(), length(100)).is_err());
    }

    #[test]
    fn it_is_of_the_size_that_was_announced() {
        let (_sealed, fd) = Sealed::copy(&[7; 5000]).unwrap();
        assert!(Sealed::open(fd.as_fd(), length(5000)).is_ok());
        for announced in [1, 4999, 5001, 8192, usize::MAX] {
            assert!(Sealed::open(fd.as_fd(), length(announced)).is_err(), "{announced}");
        }
    }

    #[test]
    fn it_is_not_made_of_memory_that_was_used_before() {
        for _ in 0..10 {
            let used = memfd_write(&vec![1; 1024 * 1024]).unwrap();
            recycle(used, 1024 * 1024); // which others of these tests may take, and keep
        }
        let (_sealed, fd) = Sealed::copy(&vec![7; 512 * 1024]).unwrap();
        assert!(Sealed::open(fd.as_fd(), length(512 * 1024)).unwrap().bytes() == vec![7; 512 * 1024]);
    }

    /// As a copy of the process does that is about to execute another program.
    #[test]
    fn one_who_will_soon_lose_a_writable_mapping_is_waited_for() {
        let fd = allocate(length(100)).unwrap();
        let mapping = Mapping::new(fd.as_fd(), length(100), Access::Write).unwrap();
        let other = thread::spawn(move || {
            thread::sleep(Duration::from_millis(20)); // so that mostly, it is waited for; it is right in any case
            drop(mapping);
        });
        add_seals(fd.as_fd()).unwrap();
        other.join().unwrap();
    }
}
