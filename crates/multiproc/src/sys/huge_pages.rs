//! Transparent huge pages: memory in pages of 2 MiB, by `MADV_COLLAPSE` (Linux 6.1).

use std::ffi::c_void;
use std::fs;
use std::ops::Range;

use nix::libc::{c_int, madvise, mincore};
use nix::unistd::{SysconfVar, sysconf};

/// Of the kernel's `asm-generic/mman-common.h`.
const MADV_COLLAPSE: c_int = 25;

const SETTINGS: &str = "/sys/kernel/mm/transparent_hugepage";

/// Moves the memory that this process has written into huge pages, where nearly all of such a page is in use, so
/// that the memory hardly grows. A fork copies an entry for each page, so it then takes a fraction of the time.
///
/// Blocks for as long as it takes to copy the memory. Where the kernel has no huge pages, or the system's settings
/// are against them, all stays as it is.
pub(crate) fn collapse_own_memory() {
    let is_allowed = setting("enabled").is_some_and(|enabled| !enabled.contains("[never]"));
    if let Some(sizes) = Sizes::get().filter(|_| is_allowed) {
        for memory in written_memory(&fs::read_to_string("/proc/self/maps").unwrap_or_default()) {
            sizes.collapse(memory);
        }
    }
}

fn setting(name: &str) -> Option<String> {
    fs::read_to_string(format!("{SETTINGS}/{name}")).ok()
}

/// The addresses of memory that only this process has, and that is no file's: the heap, and what allocators map.
fn written_memory(maps: &str) -> Vec<Range<usize>> {
    let parse = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let (range, permissions) = (fields.next()?, fields.next()?);
        let name = fields.nth(3);
        let (start, end) = range.split_once('-')?;
        let address = |text| usize::from_str_radix(text, 16).ok();
        let is_written =
            permissions == "rw-p" && name.is_none_or(|name| name == "[heap]" || name.starts_with("[anon:"));
        is_written.then_some(address(start)?..address(end)?)
    };
    maps.lines().filter_map(parse).collect()
}

/// The sizes of a page and of a huge page (bytes).
struct Sizes {
    page: usize,
    huge: usize,
}

impl Sizes {
    fn get() -> Option<Self> {
        let page = sysconf(SysconfVar::PAGE_SIZE).ok()??.try_into().ok()?;
        let huge = setting("hpage_pmd_size")?.trim().parse().ok()?;
        (page > 0 && huge > page && huge % page == 0).then_some(Self { page, huge })
    }

    /// Calls the kernel once for neighbours, since each call makes all CPUs finish what they have begun.
    fn collapse(&self, memory: Range<usize>) {
        let starts = (memory.start.next_multiple_of(self.huge)..memory.end).step_by(self.huge);
        let full: Vec<usize> =
            starts.filter(|start| memory.end - start >= self.huge && self.is_in_use(*start)).collect();
        for run in full.chunk_by(|one, next| one + self.huge == *next) {
            if let Some(&start) = run.first() {
                let length = run.len() * self.huge;
                // SAFETY: the call changes no content, and an address where nothing is mapped is an error.
                unsafe { madvise(start as *mut c_void, length, MADV_COLLAPSE) };
            }
        }
    }

    /// Whether there are seven of eight pages.
    fn is_in_use(&self, start: usize) -> bool {
        let mut pages = vec![0_u8; self.huge / self.page];
        // SAFETY: the vector has a byte for each page. The address need not be mapped.
        let refused = unsafe { mincore(start as *mut c_void, self.huge, pages.as_mut_ptr()) } != 0;
        let count = pages.iter().filter(|&&page| page & 1 == 1).count();
        !refused && count >= pages.len() / 8 * 7
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_written_memory_without_a_file_is_collapsed() {
        let maps = "\
            5000-6000 rw-p 00000000 00:00 0   [heap]\n\
            6000-7000 r--p 00000000 00:00 0 \n\
            7000-9000 rw-p 00000000 00:00 0 \n\
            9000-a000 rw-s 00000000 00:01 77  /memfd:multiproc (deleted)\n\
            a000-b000 rw-p 00001000 08:01 42  /usr/lib/libc.so.6\n\
            b000-c000 rw-p 00000000 00:00 0   [anon:arena]\n\
            c000-d000 rw-p 00000000 00:00 0   [stack]\n\
            what is this\n";
        assert_eq!(written_memory(maps), [0x5000..0x6000, 0x7000..0x9000, 0xb000..0xc000]);
    }

    #[test]
    fn what_is_in_memory_stays_there() {
        let numbers: Vec<u64> = (0..3 << 20).collect();
        let untouched = Vec::<u8>::with_capacity(64 << 20);
        let is_resident = |address: usize| Sizes::get().is_some_and(|sizes| sizes.is_in_use(address));
        let middle = |start: usize| Sizes::get().map_or(start, |sizes| start.next_multiple_of(sizes.huge));
        collapse_own_memory();
        assert!(numbers.iter().copied().eq(0..3 << 20));
        assert_eq!(is_resident(middle(numbers.as_ptr() as usize)), Sizes::get().is_some());
        assert!(!is_resident(middle(untouched.as_ptr() as usize)), "memory that was never used");
    }
}
