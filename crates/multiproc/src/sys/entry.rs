//! Calls a function by its offset in the executable.
//!
//! In all processes that run the same executable, a function has the same distance from the start of the
//! image (as with any position-independent code). So a function crosses as the offset of its [`Entry`], a
//! constant in read-only data. The receiver checks build, range, alignment, magic number and type first.

use std::any::TypeId;
use std::ffi::{c_int, c_void};
use std::hash::{DefaultHasher, Hasher};
use std::ops::Range;
use std::ptr::NonNull;
use std::slice;
use std::sync::LazyLock;

use nix::libc::{self, dl_phdr_info};

use crate::error::{Error, Result};

/// The constant in the image for a function that may cross. `R` holds the ways to run it.
#[repr(C)]
pub(crate) struct Entry<R: 'static> {
    head: Head,
    runner: R,
}

/// The beginning of every entry, whatever its `R`.
#[repr(C)]
struct Head {
    magic: u64,
    signature: fn() -> &'static str,
    /// The type of `runner`.
    kind: fn() -> TypeId,
}

/// Followed by an address of code, it occurs only in entries. It differs between versions of this library,
/// whose entries may have other layouts.
const MAGIC: u64 = magic(concat!("multiproc ", env!("CARGO_PKG_VERSION")).as_bytes());

/// The FNV-1a hash of the bytes.
const fn magic(text: &[u8]) -> u64 {
    let (mut number, mut at) = (0xcbf2_9ce4_8422_2325, 0);
    while at < text.len() {
        number = (number ^ text[at] as u64).wrapping_mul(0x100_0000_01b3);
        at += 1;
    }
    number
}

impl<R> Entry<R> {
    pub(crate) const fn new(signature: fn() -> &'static str, runner: R) -> Self {
        Self { head: Head { magic: MAGIC, signature, kind: TypeId::of::<R> }, runner }
    }

    pub(crate) fn runner(&self) -> &R {
        &self.runner
    }

    /// The function's parameter and result types, as text.
    pub(crate) fn signature(&self) -> &'static str {
        (self.head.signature)()
    }

    /// This entry's distance from the start of the image.
    pub(crate) fn offset(&'static self) -> Result<u64> {
        let address = std::ptr::from_ref(self).expose_provenance(); // for `at`, in this process or another
        if IMAGE.contains(address, size_of::<Self>()) {
            Ok((address - IMAGE.base) as u64)
        } else {
            Err(Error::invalid(
                "a function outside of the program's own executable cannot run in another process",
            ))
        }
    }

    /// The entry at an offset, if there is one of this type.
    pub(crate) fn at(offset: u64) -> Option<&'static Self> {
        let address = IMAGE.base.checked_add(usize::try_from(offset).ok()?)?;
        if !IMAGE.contains(address, size_of::<Head>()) {
            return None;
        }
        let address = std::ptr::with_exposed_provenance::<Self>(address);
        // SAFETY: sixteen aligned bytes inside a mapped part of the image with constants (checked above).
        let [magic, signature] = unsafe { address.cast::<[u64; 2]>().read() };
        // The magic number is also in the instructions that compare with it, but with no function behind it.
        let is_entry =
            magic == MAGIC && IMAGE.code.iter().any(|code| code.contains(&self::address(signature)));
        if !is_entry {
            return None;
        }
        // SAFETY: the magic number before the address of a function is only at the head of an entry; entries
        // live as long as the image, and the sender, checked to run the same build, sent this very offset.
        let head = unsafe { &*address.cast::<Head>() };
        // SAFETY: as above, and its head says that it is an `Entry<R>`.
        ((head.kind)() == TypeId::of::<R>()).then(|| unsafe { &*address })
    }
}

/// The value of a function item, or of a closure that captures nothing.
pub(crate) fn zst_instance<F: Copy + 'static>() -> F {
    const {
        assert!(
            size_of::<F>() == 0,
            "a function that runs in another process must be a `fn` item, or a closure that captures nothing \
             (`move` does not help), and no function pointer: pass what it needs as arguments"
        );
    }
    // SAFETY: `F` has no bytes, so there is nothing to read and any non-null aligned pointer will do. Its one
    // value exists already, since a caller in the same program passed it by copy; this is one copy more.
    unsafe { NonNull::<F>::dangling().read() }
}

/// A number that differs between builds of a program: a hash of its program headers and notes, which hold the
/// build id if the linker writes one.
pub(crate) fn build() -> u64 {
    IMAGE.build
}

/// Whether the linker has written a build id, so that [`build`] differs for any other build.
pub(crate) fn has_build_id() -> bool {
    IMAGE.has_build_id
}

/// Where the executable begins in memory.
pub(crate) fn start_of_image() -> usize {
    IMAGE.start
}

struct Image {
    base: usize,
    start: usize,
    constants: Vec<Range<usize>>,
    code: Vec<Range<usize>>,
    build: u64,
    has_build_id: bool,
}

static IMAGE: LazyLock<Image> = LazyLock::new(|| {
    let mut image =
        Image { base: 0, start: 0, constants: Vec::new(), code: Vec::new(), build: 0, has_build_id: false };
    // SAFETY: the callback has the type asked for, and gets the pointer to `image` unchanged.
    unsafe { libc::dl_iterate_phdr(Some(read_image), (&raw mut image).cast()) };
    image
});

impl Image {
    fn contains(&self, address: usize, size: usize) -> bool {
        let fits = |part: &Range<usize>| part.contains(&address) && part.end - address >= size;
        address.is_multiple_of(align_of::<u64>()) && self.constants.iter().any(fits)
    }
}

/// Called for each loaded object. The first is the executable; returning 1 stops there.
extern "C" fn read_image(info: *mut dl_phdr_info, _size: usize, image: *mut c_void) -> c_int {
    // SAFETY: the loader gives a whole record that lives during the call.
    let info = unsafe { &*info };
    // SAFETY: the pointer that was given to `dl_iterate_phdr` above; nothing else uses it meanwhile.
    let image = unsafe { &mut *image.cast::<Image>() };
    // SAFETY: the loader says how many headers there are.
    let headers = unsafe { slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()) };
    let mut hasher = DefaultHasher::new();
    image.base = address(info.dlpi_addr);
    for header in headers {
        for number in
            [header.p_type.into(), header.p_flags.into(), header.p_vaddr, header.p_filesz, header.p_memsz]
        {
            hasher.write_u64(number);
        }
        let start = image.base + address(header.p_vaddr);
        if header.p_type == libc::PT_NOTE {
            // SAFETY: notes lie in a loaded, readable part of the image.
            let notes = unsafe { slice::from_raw_parts(start as *const u8, address(header.p_memsz)) };
            hasher.write(notes);
            image.has_build_id |= is_build_id(notes);
        }
    }
    image.build = hasher.finish();
    let loaded = headers.iter().filter(|header| header.p_type == libc::PT_LOAD);
    image.start = image.base + loaded.map(|header| address(header.p_vaddr)).min().unwrap_or(0);
    image.constants = constants(image.base, headers);
    image.code = code(image.base, headers);
    1
}

/// The type of a note that holds a build id.
const NT_GNU_BUILD_ID: u32 = 3;

/// Whether a build id is among the notes: each has the lengths of its name and content, and its type.
fn is_build_id(mut notes: &[u8]) -> bool {
    while let Some((words, rest)) = notes.split_first_chunk::<12>() {
        let word = |at: usize| words[at..].first_chunk().map_or(0, |word| u32::from_ne_bytes(*word));
        let padded = |length: u32| (length as usize).next_multiple_of(4);
        let is_name = rest.starts_with(b"GNU\0") && word(0) == 4;
        if is_name && word(8) == NT_GNU_BUILD_ID && word(4) > 0 {
            return true;
        }
        let length = padded(word(0)).saturating_add(padded(word(4)));
        notes = rest.get(length..).unwrap_or_default();
    }
    false
}

/// The parts of an image that can hold entries: read-only ones, and those that become so when the loader has
/// filled in addresses (RELRO). In a program linked without RELRO, constants that hold addresses lie among
/// writable data, and only their content tells them apart.
fn constants(base: usize, headers: &[Header]) -> Vec<Range<usize>> {
    let is_relro = |header: &Header| header.p_type == libc::PT_GNU_RELRO;
    let with_writable = !headers.iter().any(is_relro);
    let can_hold = |header: &&Header| {
        let is_readable = header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_R != 0;
        is_relro(header) || is_readable && (with_writable || header.p_flags & libc::PF_W == 0)
    };
    // The bytes of the file only: what follows them in memory (.bss) holds no constant.
    let part = |header: &Header| part(base, header.p_vaddr, header.p_filesz);
    headers.iter().filter(can_hold).map(part).collect()
}

fn code(base: usize, headers: &[Header]) -> Vec<Range<usize>> {
    let is_code = |header: &&Header| header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_X != 0;
    headers.iter().filter(is_code).map(|header| part(base, header.p_vaddr, header.p_memsz)).collect()
}

fn part(base: usize, start: u64, size: u64) -> Range<usize> {
    let start = base + address(start);
    start..start + address(size)
}

type Header = libc::Elf64_Phdr;

#[allow(clippy::cast_possible_truncation)] // addresses of 64-bit machines, and those are all we build for
fn address(number: u64) -> usize {
    number as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The magic number with no function behind it.
    static DECOY: [u64; 2] = [MAGIC, 7];

    /// The magic number occurs elsewhere, too: in the instructions that compare with it.
    #[test]
    fn only_entries_are_found() {
        let entry = const { &Entry::new(|| "an entry of a test", ()) };
        let decoy = std::hint::black_box(&DECOY).as_ptr().addr();
        assert!(IMAGE.contains(decoy, size_of_val(&DECOY)));
        assert!(Entry::<()>::at((decoy - IMAGE.base) as u64).is_none());
        assert!(Entry::<u8>::at(entry.offset().unwrap()).is_none(), "of another type");
        let addresses =
            IMAGE.constants.iter().flat_map(|part| (part.start.next_multiple_of(8)..part.end).step_by(8));
        let found: Vec<&Entry<()>> =
            addresses.filter_map(|address| Entry::at((address - IMAGE.base) as u64)).collect();
        assert!(found.iter().all(|entry| !entry.signature().is_empty()));
        assert!(found.iter().any(|found| std::ptr::eq(*found, entry)));
    }

    #[test]
    fn a_build_id_is_found_among_notes() {
        let note = |name: &[u8; 4], kind: u32, content: &[u8]| {
            let words = [4, u32::try_from(content.len()).unwrap(), kind].map(u32::to_ne_bytes);
            [words.as_flattened(), name, content].concat()
        };
        let (other, id) = (note(b"GNU\0", 1, &[0; 16]), note(b"GNU\0", 3, &[7; 20]));
        assert!(is_build_id(&id) && is_build_id(&[&other[..], &id].concat()));
        assert!(!is_build_id(&[]) && !is_build_id(&other) && !is_build_id(&note(b"XYZ\0", 3, &[7; 20])));
        assert!(!is_build_id(&[0xff; 40]));
    }

    fn header(p_type: u32, p_flags: u32, p_vaddr: u64) -> Header {
        Header {
            p_type,
            p_flags,
            p_offset: 0,
            p_vaddr,
            p_paddr: 0,
            p_filesz: 0x800,
            p_memsz: 0x1000,
            p_align: 0x1000,
        }
    }

    #[test]
    fn entries_are_in_read_only_parts_if_the_program_has_relro() {
        let (load, r, w, x) = (libc::PT_LOAD, libc::PF_R, libc::PF_W, libc::PF_X);
        let mut headers = vec![
            header(load, r, 0x1000),
            header(load, x, 0x2000), // cannot be read
            header(load, r | x, 0x3000),
            header(load, r | w, 0x4000),
            header(libc::PT_GNU_RELRO, r, 0x4000),
            header(libc::PT_NOTE, r, 0x1100),
        ];
        let starts = |headers: &[Header]| -> Vec<usize> {
            constants(0x10_0000, headers).iter().map(|part| part.start - 0x10_0000).collect()
        };
        assert_eq!(starts(&headers), [0x1000, 0x3000, 0x4000]);
        assert_eq!(code(0, &headers), [0x2000..0x3000, 0x3000..0x4000]);
        assert_eq!(constants(0, &headers)[0], 0x1000..0x1800);
        headers.remove(4);
        assert_eq!(starts(&headers), [0x1000, 0x3000, 0x4000], "without RELRO");
        headers.push(header(libc::PT_GNU_RELRO, r, 0x4800));
        assert_eq!(starts(&headers), [0x1000, 0x3000, 0x4800]);
    }
}
