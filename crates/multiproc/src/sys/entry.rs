//! Calling a function by its place in the executable.
//!
//! Two processes that run the same executable hold the same functions at the same distance from where the
//! image was loaded, wherever that is. So a function crosses as the place of an [`Entry`], a constant that
//! the compiler makes for it in read-only data; the receiver looks at all it can before it believes such a
//! number.

use std::any::TypeId;
use std::ffi::{c_int, c_void};
use std::hash::{DefaultHasher, Hasher};
use std::ops::Range;
use std::ptr::NonNull;
use std::slice;
use std::sync::LazyLock;

use nix::libc::{self, dl_phdr_info};

use crate::error::{Error, Result};

/// What the compiler leaves in the image for every function that may cross; `R` are the ways to run it.
#[repr(C)]
pub(crate) struct Entry<R: 'static> {
    head: Head,
    runs: R,
}

/// What entries of all kinds begin with.
#[repr(C)]
struct Head {
    magic: u64,
    signature: fn() -> &'static str,
    /// Gives the type of `runs`.
    kind: fn() -> TypeId,
}

/// With an address of code behind it, it stands nowhere else by chance. Another version of this library,
/// whose entries may look otherwise, has another one.
const MAGIC: u64 = magic(concat!("multiproc ", env!("CARGO_PKG_VERSION")).as_bytes());

/// A number made of all the bytes (FNV-1a).
const fn magic(text: &[u8]) -> u64 {
    let (mut number, mut at) = (0xcbf2_9ce4_8422_2325, 0);
    while at < text.len() {
        number = (number ^ text[at] as u64).wrapping_mul(0x100_0000_01b3);
        at += 1;
    }
    number
}

impl<R> Entry<R> {
    pub(crate) const fn new(signature: fn() -> &'static str, runs: R) -> Self {
        Self { head: Head { magic: MAGIC, signature, kind: TypeId::of::<R> }, runs }
    }

    pub(crate) fn runs(&self) -> &R {
        &self.runs
    }

    /// The types that the function takes and gives, as text.
    pub(crate) fn signature(&self) -> &'static str {
        (self.head.signature)()
    }

    /// The distance of this entry from the start of the image.
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

    /// The entry at that distance, if there is one of this kind.
    pub(crate) fn at(place: u64) -> Option<&'static Self> {
        let address = IMAGE.base.checked_add(usize::try_from(place).ok()?)?;
        if !IMAGE.contains(address, size_of::<Head>()) {
            return None;
        }
        let address = std::ptr::with_exposed_provenance::<Self>(address);
        // SAFETY: sixteen aligned bytes inside a mapped part of the image with constants (looked at above).
        let [magic, signature] = unsafe { address.cast::<[u64; 2]>().read() };
        // The number also stands in the instructions that compare with it, but with no function behind it.
        let is_entry =
            magic == MAGIC && IMAGE.code.iter().any(|code| code.contains(&self::address(signature)));
        if !is_entry {
            return None;
        }
        // SAFETY: the magic number before the address of a function stands only at the head of an entry;
        // entries live as long as the image, and the sender, checked to run the same build, gave this very
        // place.
        let head = unsafe { &*address.cast::<Head>() };
        // SAFETY: as above, and its head says that it is an `Entry<R>`.
        ((head.kind)() == TypeId::of::<R>()).then(|| unsafe { &*address })
    }
}

/// Conjures a function item or a closure that captures nothing.
pub(crate) fn zst_instance<F: Copy + 'static>() -> F {
    const {
        assert!(
            size_of::<F>() == 0,
            "a function that runs in another process must be a `fn` item, or a closure that captures nothing \
             (`move` does not help), and no function pointer: pass what it needs as arguments"
        );
    }
    // SAFETY: `F` has no bytes, so there is nothing to read and any non-null aligned pointer will do. Its one
    // value exists already, since a caller of the same program gave it away by copy; this is one copy more.
    unsafe { NonNull::<F>::dangling().read() }
}

/// A number that differs between builds of a program, made from its program headers and its notes (where a
/// linker leaves the build's id).
pub(crate) fn build() -> u64 {
    IMAGE.build
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
}

static IMAGE: LazyLock<Image> = LazyLock::new(|| {
    let mut image = Image { base: 0, start: 0, constants: Vec::new(), code: Vec::new(), build: 0 };
    // SAFETY: the callback has the type asked for, and gets our image back as it was given.
    unsafe { libc::dl_iterate_phdr(Some(read_image), (&raw mut image).cast()) };
    image
});

impl Image {
    fn contains(&self, address: usize, size: usize) -> bool {
        let fits = |part: &Range<usize>| part.contains(&address) && part.end - address >= size;
        address.is_multiple_of(align_of::<u64>()) && self.constants.iter().any(fits)
    }
}

/// Called for each loaded object; the first is the executable, and there it stops.
extern "C" fn read_image(info: *mut dl_phdr_info, _size: usize, image: *mut c_void) -> c_int {
    // SAFETY: the loader gives a whole record that lives during the call.
    let info = unsafe { &*info };
    // SAFETY: this is the pointer that was handed to `dl_iterate_phdr` above, used by nobody else meanwhile.
    let image = unsafe { &mut *image.cast::<Image>() };
    // SAFETY: the loader says how many headers stand there.
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
            hasher.write(unsafe { slice::from_raw_parts(start as *const u8, address(header.p_memsz)) });
        }
    }
    image.build = hasher.finish();
    let loaded = headers.iter().filter(|header| header.p_type == libc::PT_LOAD);
    image.start = image.base + loaded.map(|header| address(header.p_vaddr)).min().unwrap_or(0);
    image.constants = constants(image.base, headers);
    image.code = code(image.base, headers);
    1
}

/// The parts of an image in which entries can lie: those that can be read and not written, from the beginning
/// or after the loader has filled in addresses (RELRO). Where a program was linked without the latter,
/// constants that hold addresses lie among what can be written, and only their content tells them from other
/// data.
fn constants(base: usize, headers: &[Header]) -> Vec<Range<usize>> {
    let is_relro = |header: &Header| header.p_type == libc::PT_GNU_RELRO;
    let with_writable = !headers.iter().any(is_relro);
    let can_hold = |header: &&Header| {
        let is_readable = header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_R != 0;
        is_relro(header) || is_readable && (with_writable || header.p_flags & libc::PF_W == 0)
    };
    // Not all that is in memory: what comes behind the bytes of the file begins as zeros, and is no constant.
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

    /// The magic number, and no function behind it.
    static DECOY: [u64; 2] = [MAGIC, 7];

    /// The magic number stands elsewhere, too: in the instructions that compare with it.
    #[test]
    fn what_looks_like_an_entry_is_one() {
        let entry = const { &Entry::new(|| "an entry of a test", ()) };
        let decoy = std::hint::black_box(&DECOY).as_ptr().addr();
        assert!(IMAGE.contains(decoy, size_of_val(&DECOY)));
        assert!(Entry::<()>::at((decoy - IMAGE.base) as u64).is_none());
        assert!(Entry::<u8>::at(entry.offset().unwrap()).is_none(), "of another kind");
        let places =
            IMAGE.constants.iter().flat_map(|part| (part.start.next_multiple_of(8)..part.end).step_by(8));
        let found: Vec<&Entry<()>> =
            places.filter_map(|place| Entry::at((place - IMAGE.base) as u64)).collect();
        assert!(found.iter().all(|entry| !entry.signature().is_empty()));
        assert!(found.iter().any(|found| std::ptr::eq(*found, entry)));
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
    fn entries_lie_where_nothing_is_written_if_there_is_such_a_place() {
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
