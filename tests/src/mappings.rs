//! Mappings run out: a process may have only as many as `vm.max_map_count` says.

#![allow(unsafe_code)]

use std::ffi::c_void;
use std::fs;
use std::num::NonZeroUsize;
use std::ptr::NonNull;

use nix::libc;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, mprotect, munmap};

const PAGE: usize = 4096;

/// Pages of which every second one is protected otherwise, so that each is a mapping of its own.
pub struct ManyMappings {
    start: NonNull<c_void>,
    pages: usize,
    /// How many of the odd pages are protected otherwise. Each makes two more mappings.
    split: usize,
}

impl ManyMappings {
    pub fn new() -> Self {
        // Otherwise a new thread has a heap of its own, which is a mapping, and without it no memory at all.
        // SAFETY: no other thread is in the allocator's settings.
        assert_eq!(unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) }, 1);
        let most = fs::read_to_string("/proc/sys/vm/max_map_count").unwrap();
        let pages = most.trim().parse::<usize>().unwrap() + 16;
        let length = NonZeroUsize::new(pages * PAGE).unwrap();
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
        // SAFETY: the kernel chooses a place where nothing is.
        let start = unsafe { mmap_anonymous(None, length, ProtFlags::PROT_NONE, flags) }.unwrap();
        Self { start, pages, split: 0 }
    }

    /// Uses up all mappings but these (an even number).
    pub fn leave(&mut self, left: usize) {
        while self.protect(self.split, ProtFlags::PROT_READ).is_ok() {
            self.split += 1;
        }
        for _ in 0..(left / 2).min(self.split) {
            self.split -= 1;
            self.protect(self.split, ProtFlags::PROT_NONE).unwrap();
        }
    }

    fn protect(&self, number: usize, protection: ProtFlags) -> nix::Result<()> {
        let page = 2 * number + 1;
        assert!(page + 1 < self.pages, "there is a limit of mappings");
        // SAFETY: the page is one of these.
        let page = unsafe { self.start.byte_add(page * PAGE) };
        // SAFETY: nothing refers to what is in these pages.
        unsafe { mprotect(page, PAGE, protection) }
    }
}

impl Default for ManyMappings {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for ManyMappings {
    fn drop(&mut self) {
        // SAFETY: nothing refers to these pages.
        unsafe { munmap(self.start, self.pages * PAGE) }.unwrap();
    }
}
