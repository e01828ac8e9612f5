//! Fork detection by a page that the kernel zeroes in forked copies (`MADV_WIPEONFORK`).

use std::num::NonZeroUsize;
use std::ptr::NonNull;

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};

use super::atomic::{AtomicU32, Relaxed};
use crate::error::{Error, Result};

/// Tells a process from its forked copies at the cost of a load. (Asking for the pid is a system call.)
#[derive(Debug)]
pub(crate) struct ForkDetector(NonNull<AtomicU32>);

const PAGE: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

// SAFETY: the page belongs to no thread, and is only reached through an atomic.
unsafe impl Send for ForkDetector {}
// SAFETY: as for Send.
unsafe impl Sync for ForkDetector {}

impl ForkDetector {
    /// Takes this process for the original.
    pub(crate) fn new() -> Result<Self> {
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choosing touches no memory in use.
        let page = unsafe { mmap_anonymous(None, PAGE, protection, MapFlags::MAP_PRIVATE) }
            .map_err(|errno| Error::os("map a page of memory", errno))?;
        let original = Self(page.cast());
        // SAFETY: the page is ours, and the advice changes only what forked copies see.
        unsafe { madvise(page, PAGE.get(), MmapAdvise::MADV_WIPEONFORK) }
            .map_err(|errno| Error::os("mark a page of memory", errno))?;
        original.word().store(1, Relaxed);
        Ok(original)
    }

    #[inline]
    pub(crate) fn in_original_process(&self) -> bool {
        self.word().load(Relaxed) != 0
    }

    /// The [generation](Self::generation), or 0 if no call has asked for it in this process.
    #[inline]
    pub(crate) fn known_generation(&self) -> u32 {
        self.word().load(Relaxed)
    }

    /// A number that differs from those of all processes that this one is a forked copy of.
    pub(crate) fn generation(&self) -> u32 {
        // 1 is the generation that `new` writes. The number grows only in a copy of a copy, so it never overflows.
        static LAST: AtomicU32 = AtomicU32::new(1);
        let known = self.known_generation();
        if known != 0 {
            return known;
        }
        let next = LAST.fetch_add(1, Relaxed).wrapping_add(1);
        match self.word().compare_exchange(0, next, Relaxed, Relaxed) {
            Ok(_) => next,
            Err(of_another_thread) => of_another_thread,
        }
    }

    #[inline]
    fn word(&self) -> &AtomicU32 {
        // SAFETY: mapped, aligned to a page and zeroed by the kernel, for as long as `self` lives.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for ForkDetector {
    fn drop(&mut self) {
        // SAFETY: the page is ours, and its references have ended with `self`.
        let _ = unsafe { munmap(self.0.cast(), PAGE.get()) };
    }
}
