//! Sealed memory: what it refuses, and what is not opened as such.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::*;

fn length(bytes: usize) -> NonZeroUsize {
    NonZeroUsize::new(bytes).unwrap()
}

#[test]
fn it_is_immutable() {
    let (sealed, fd) = ImmutableMemory::copy(&[7; 5000]).unwrap();
    let (built, built_fd) = ImmutableMemory::build(length(5000), |bytes| bytes.fill(7)).unwrap();
    for (sealed, fd) in [(sealed, fd), (built, built_fd)] {
        let error = RawMapping::new(fd.as_fd(), length(5000), Access::Write).unwrap_err();
        assert_eq!(error.os_error(), Some(Errno::EPERM as i32), "{error}");
        let reopened = OpenOptions::new().write(true).open(format!("/proc/self/fd/{}", fd.as_raw_fd()));
        for mut file in [File::from(fd), reopened.unwrap()] {
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
        ImmutableMemory::open(fd.as_fd(), length(100))
    };
    assert!(with(SEALS).is_ok());
    for missing in SEALS.iter() {
        let error = with(SEALS - missing).unwrap_err();
        assert!(error.to_string().contains("it is not sealed"), "{error}");
    }
    assert!(with((SEALS - SealFlag::F_SEAL_WRITE) | SealFlag::F_SEAL_FUTURE_WRITE).is_err());
    assert!(ImmutableMemory::open(File::open("/dev/zero").unwrap().as_fd(), length(100)).is_err());
}

#[test]
fn it_is_of_the_size_that_was_announced() {
    let (_sealed, fd) = ImmutableMemory::copy(&[7; 5000]).unwrap();
    assert!(ImmutableMemory::open(fd.as_fd(), length(5000)).is_ok());
    for announced in [1, 4999, 5001, 8192, usize::MAX] {
        assert!(ImmutableMemory::open(fd.as_fd(), length(announced)).is_err(), "{announced}");
    }
}

/// A file can be large and have no memory, which the first read of each page would find.
#[test]
fn a_hole_is_not_opened() {
    let size = length(1 << 24);
    let file = File::from(memfd_create(c"test", MFdFlags::MFD_ALLOW_SEALING).unwrap());
    file.set_len(1 << 24).unwrap();
    fcntl(&file, FcntlArg::F_ADD_SEALS(SEALS)).unwrap();
    let error = ImmutableMemory::open(file.as_fd(), size).unwrap_err();
    assert!(error.to_string().contains("fewer written"), "{error}");
    let (_built, fd) = ImmutableMemory::build(size, |_| ()).unwrap();
    assert!(
        ImmutableMemory::open(fd.as_fd(), size).is_ok(),
        "its memory is there, though nothing was written"
    );
}

/// As a forked copy of the process has one until it executes another program.
#[test]
fn sealing_waits_until_a_writable_mapping_is_gone() {
    let fd = create_allocated(length(100)).unwrap();
    let mapping = RawMapping::new(fd.as_fd(), length(100), Access::Write).unwrap();
    let other = thread::spawn(move || {
        thread::sleep(Duration::from_millis(20)); // usually sealing has begun by then; it holds either way
        drop(mapping);
    });
    add_seals(fd.as_fd()).unwrap();
    other.join().unwrap();
}

/// Old kernels give the inode of closed memory to other memory, which was written at another time.
#[test]
fn an_inode_that_was_written_at_another_time_is_other_memory() {
    let file = File::from(memfd::write(&[7; 100]).unwrap());
    let identity = || identify(file.as_fd()).unwrap().0;
    let before = identity();
    assert_eq!(identity(), before);
    thread::sleep(Duration::from_millis(50)); // the kernel's clock of files goes on every 10 ms or sooner
    file.write_all_at(&[8], 0).unwrap();
    let after = identity();
    assert_eq!((after.device, after.inode), (before.device, before.inode));
    assert_ne!(after, before);
    assert!(after.cmp(&before).is_ne(), "a map takes them for the same");
}
