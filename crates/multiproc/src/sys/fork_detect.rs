//! Fork detection by a page that the kernel zeroes in forked copies (`MADV_WIPEONFORK`).

use std::num::NonZeroUsize;
use std::ptr::{self, NonNull};
use std::sync::OnceLock;

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};

use super::atomic::{AtomicU32, Relaxed};
use super::process::own_pid;

/// A process, which its forked copies are not.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OriginalProcess {
    /// It differs from the numbers of all processes that this one is a copy of. Without a page, it is the pid.
    number: u32,
    /// Where the number is as long as this process runs.
    word: &'static AtomicU32,
}

/// Where the kernel refuses the page, this stays 0.
static NO_PAGE: AtomicU32 = AtomicU32::new(0);

impl OriginalProcess {
    /// This process.
    #[inline]
    pub(crate) fn current() -> Self {
        match PAGE.get_or_init(WipedPage::map) {
            Some(page) => Self { number: page.number(), word: page.word() },
            None => Self { number: own_pid(), word: &NO_PAGE },
        }
    }

    /// Whether this process is it, and no copy. Costs a load; asking for the pid is a system call.
    #[inline]
    pub(crate) fn is_current(self) -> bool {
        self.word.load(Relaxed) == self.number || self.is_current_by_pid()
    }

    #[cold]
    fn is_current_by_pid(self) -> bool {
        ptr::eq(self.word, &raw const NO_PAGE) && own_pid() == self.number
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

    /// The number of this process: the next one if no call has asked for it.
    fn number(&self) -> u32 {
        match self.word().load(Relaxed) {
            0 => self.next_number(),
            known => known,
        }
    }

    #[cold]
    fn next_number(&self) -> u32 {
        // It grows only in a copy of a copy, so it never overflows.
        static LAST: AtomicU32 = AtomicU32::new(0);
        let next = LAST.fetch_add(1, Relaxed).wrapping_add(1);
        match self.word().compare_exchange(0, next, Relaxed, Relaxed) {
            Ok(_) => next,
            Err(of_another_thread) => of_another_thread,
        }
    }

    fn word(&self) -> &'static AtomicU32 {
        // SAFETY: mapped, aligned to a page and zeroed by the kernel, and never unmapped.
        unsafe { self.0.as_ref() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_page_the_pid_tells_a_process_from_a_copy() {
        assert!(OriginalProcess { number: own_pid(), word: &NO_PAGE }.is_current());
        assert!(!OriginalProcess { number: own_pid() + 1, word: &NO_PAGE }.is_current());
        let current = OriginalProcess::current();
        assert!(current.is_current() && !OriginalProcess { number: own_pid(), ..current }.is_current());
    }
}
