//! Fork detection by a page that the kernel zeroes in forked copies (`MADV_WIPEONFORK`).

use std::num::NonZeroUsize;
use std::ptr::{self, NonNull};
use std::sync::atomic::AtomicPtr;
use std::sync::atomic::Ordering::{AcqRel, Acquire};

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};

use super::atomic::{AtomicU32, Relaxed};
use super::process::{exit_immediately, own_pid};

/// The identity of a process. A forked copy has another.
#[derive(Clone, Copy, Debug)]
pub struct OriginalProcess {
    /// It differs from the numbers of all processes that this one is a copy of. Without a page, it is the pid.
    number: u32,
    /// Holds the number as long as this process runs, and not in a copy; or it is [`NO_PAGE`].
    word: &'static AtomicU32,
}

/// The word where the kernel refuses a page.
static NO_PAGE: AtomicU32 = AtomicU32::new(0);

impl OriginalProcess {
    /// This process.
    #[inline]
    pub fn current() -> Self {
        let word = word();
        match word.load(Relaxed) {
            0 => Self { number: next_number(word), word },
            number => Self { number, word },
        }
    }

    /// Whether the calling process is this one, and no copy. Costs a load; asking for the pid is a system call.
    #[inline]
    pub fn is_current(self) -> bool {
        self.word.load(Relaxed) == self.number || self.is_current_by_pid()
    }

    /// Ends the calling process if it is a copy, which user code has forked and let return.
    pub(crate) fn exit_if_copy(self) {
        if !self.is_current() {
            exit_immediately(0);
        }
    }

    #[cold]
    fn is_current_by_pid(self) -> bool {
        ptr::eq(self.word, &raw const NO_PAGE) && own_pid() == self.number
    }
}

/// Gives this process its number, at the first call.
#[cold]
fn next_number(word: &'static AtomicU32) -> u32 {
    // It grows by one from copy to copy of a copy, and for a thread that is late here. So it never overflows.
    static LAST: AtomicU32 = AtomicU32::new(0);
    if ptr::eq(word, &raw const NO_PAGE) {
        return own_pid();
    }
    let next = LAST.fetch_add(1, Relaxed).wrapping_add(1);
    match word.compare_exchange(0, next, Relaxed, Relaxed) {
        Ok(_) => next,
        Err(of_another_thread) => of_another_thread,
    }
}

/// The word that is zeroed in a copy. Null before the first use. No lock guards it: a copy would wait for a thread
/// that it lacks.
static WORD: AtomicPtr<AtomicU32> = AtomicPtr::new(ptr::null_mut());

#[inline]
fn word() -> &'static AtomicU32 {
    // SAFETY: null, or from `find_word`.
    unsafe { WORD.load(Acquire).as_ref() }.unwrap_or_else(find_word)
}

#[cold]
fn find_word() -> &'static AtomicU32 {
    let mapped = map_page();
    let found = mapped.map_or((&raw const NO_PAGE).cast_mut(), NonNull::as_ptr);
    match WORD.compare_exchange(ptr::null_mut(), found, AcqRel, Acquire) {
        // SAFETY: a static, or a page that is aligned and zeroed by the kernel, and stays mapped from now on.
        Ok(_) => unsafe { &*found },
        Err(of_another_thread) => {
            if let Some(page) = mapped {
                // SAFETY: the page is ours, and no other thread has seen it.
                let _ = unsafe { munmap(page.cast(), SIZE.get()) };
            }
            // SAFETY: as above.
            unsafe { &*of_another_thread }
        }
    }
}

const SIZE: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

fn map_page() -> Option<NonNull<AtomicU32>> {
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new mapping at an address of the kernel's choosing touches no memory in use.
    let page = unsafe { mmap_anonymous(None, SIZE, protection, MapFlags::MAP_PRIVATE) }.ok()?;
    // SAFETY: the page is ours, and the advice changes only what forked copies see.
    if unsafe { madvise(page, SIZE.get(), MmapAdvise::MADV_WIPEONFORK) }.is_err() {
        // SAFETY: the page is ours, and nothing refers to it.
        let _ = unsafe { munmap(page, SIZE.get()) };
        return None;
    }
    Some(page.cast())
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
