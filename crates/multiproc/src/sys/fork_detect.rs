//! Fork detection by a page that the kernel zeroes in forked copies (`MADV_WIPEONFORK`).

use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::sync::OnceLock;

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};

use super::atomic::{AtomicU32, Relaxed};
use super::process::own_pid;

/// A process, which its forked copies are not.
///
/// The number differs from those of all processes that this one is a copy of. Where the kernel has no page for it,
/// it is the pid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OriginalProcess(u32);

impl OriginalProcess {
    /// This process. Costs a few loads; asking for the pid is a system call.
    #[inline]
    pub(crate) fn current() -> Self {
        match PAGE.get().and_then(Option::as_ref).map_or(0, WipedPage::number) {
            0 => Self::look_up(),
            number => Self(number),
        }
    }

    /// Whether this process is it, and no copy.
    #[inline]
    pub(crate) fn is_current(self) -> bool {
        self == Self::current()
    }

    #[cold]
    fn look_up() -> Self {
        Self(PAGE.get_or_init(WipedPage::map).as_ref().map_or_else(own_pid, WipedPage::number_or_next))
    }
}

static PAGE: OnceLock<Option<WipedPage>> = OnceLock::new();

/// A page that holds a number, and is zeroed in a copy.
struct WipedPage(NonNull<AtomicU32>);

const SIZE: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

// SAFETY: the page belongs to no thread, and is only reached through an atomic.
unsafe impl Send for WipedPage {}
// SAFETY: as for Send.
unsafe impl Sync for WipedPage {}

impl WipedPage {
    fn map() -> Option<Self> {
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choosing touches no memory in use.
        let page = unsafe { mmap_anonymous(None, SIZE, protection, MapFlags::MAP_PRIVATE) }.ok()?;
        // SAFETY: the page is ours, and the advice changes only what forked copies see.
        if unsafe { madvise(page, SIZE.get(), MmapAdvise::MADV_WIPEONFORK) }.is_err() {
            // SAFETY: the page is ours, and nothing refers to it.
            let _ = unsafe { munmap(page, SIZE.get()) };
            return None;
        }
        Some(Self(page.cast()))
    }

    /// 0 if no call has asked for it in this process.
    #[inline]
    fn number(&self) -> u32 {
        self.word().load(Relaxed)
    }

    fn number_or_next(&self) -> u32 {
        // It grows only in a copy of a copy, so it never overflows.
        static LAST: AtomicU32 = AtomicU32::new(0);
        let next = LAST.fetch_add(1, Relaxed).wrapping_add(1);
        match self.word().compare_exchange(0, next, Relaxed, Relaxed) {
            Ok(_) => next,
            Err(of_another_thread) => of_another_thread,
        }
    }

    #[inline]
    fn word(&self) -> &AtomicU32 {
        // SAFETY: mapped, aligned to a page and zeroed by the kernel, and never unmapped.
        unsafe { self.0.as_ref() }
    }
}
