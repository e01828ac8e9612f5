//! Calling a function by its place in the executable.
//!
//! Two processes that run the same executable hold the same functions at the same distance from where the image was
//! loaded, wherever that is. So a function crosses as the place of an [`Entry`], a constant that the compiler makes
//! for it in read-only data; the receiver looks at all it can before it believes such a number.

use std::ffi::{c_int, c_void};
use std::hash::{DefaultHasher, Hasher};
use std::ops::Range;
use std::ptr::NonNull;
use std::slice;
use std::sync::LazyLock;

use nix::libc::{self, dl_phdr_info};

use crate::error::{Error, Result};

/// What the compiler leaves in the image for every function that may cross; `R` are the ways to run it. All entries
/// that a program ever asks for by their places must have the same `R`.
#[repr(C)]
pub(crate) struct Entry<R: 'static> {
    magic: u64,
    signature: fn() -> &'static str,
    runs: R,
}

/// The bytes `multipro`: with an address of code behind it, it stands nowhere else by chance.
const MAGIC: u64 = 0x6d75_6c74_6970_726f;

impl<R> Entry<R> {
    pub(crate) const fn new(signature: fn() -> &'static str, runs: R) -> Self {
        Self { magic: MAGIC, signature, runs }
    }

    pub(crate) fn runs(&self) -> &R {
        &self.runs
    }

    /// The types that the function takes and gives, as text.
    pub(crate) fn signature(&self) -> &'static str {
        (self.signature)()
    }

    /// The distance of this entry from the start of the image.
    pub(crate) fn place(&'static self) -> Result<u64> {
        let address = std::ptr::from_ref(self).addr();
        if IMAGE.holds(address, size_of::<Self>()) {
            Ok((address - IMAGE.base) as u64)
        } else {
            Err(Error::invalid(
                "a function outside of the program's own executable cannot run in another process",
            ))
        }
    }

    /// The entry at that distance, if there is one.
    pub(crate) fn at(place: u64) -> Option<&'static Self> {
        let address = IMAGE.base.checked_add(usize::try_from(place).ok()?)?;
        if !IMAGE.holds(address, size_of::<Self>()) {
            return None;
        }
        let address = std::ptr::with_exposed_provenance::<Self>(address);
        // SAFETY: sixteen aligned bytes inside a mapped, read-only part of the image (looked at above).
        let [magic, signature] = unsafe { address.cast::<[u64; 2]>().read() };
        // The number also stands in the instructions that compare with it, but with no function behind it.
        let is_entry =
            magic == MAGIC && IMAGE.code.iter().any(|code| code.contains(&self::address(signature)));
        // SAFETY: the magic number before the address of a function stands only at the head of an entry; entries live as
        // long as the image, all have this `R`, and the sender, checked to run the same build, gave this very place.
        is_entry.then(|| unsafe { &*address })
    }
}

/// Conjures a function item or a closure that captures nothing.
pub(crate) fn conjure<F: Copy + 'static>() -> F {
    const { assert!(size_of::<F>() == 0, "a function that captures something cannot be conjured") }
    // SAFETY: `F` has no bytes, so there is nothing to read and any non-null aligned pointer will do. Its one value
    // exists already, since a caller of the same program gave it away by copy; this is one copy more.
    unsafe { NonNull::<F>::dangling().read() }
}

/// A number that differs between builds of a program, made from its program headers and its notes (where a linker
/// leaves the build's id).
pub(crate) fn build() -> u64 {
    IMAGE.build
}

struct Image {
    base: usize,
    read_only: Vec<Range<usize>>,
    code: Vec<Range<usize>>,
    build: u64,
}

static IMAGE: LazyLock<Image> = LazyLock::new(|| {
    let mut image = Image { base: 0, read_only: Vec::new(), code: Vec::new(), build: 0 };
    // SAFETY: the callback has the type asked for, and gets our image back as it was given.
    unsafe { libc::dl_iterate_phdr(Some(look_at_image), (&raw mut image).cast()) };
    image
});

impl Image {
    fn holds(&self, address: usize, size: usize) -> bool {
        let fits = |part: &Range<usize>| part.contains(&address) && part.end - address >= size;
        address.is_multiple_of(align_of::<u64>()) && self.read_only.iter().any(fits)
    }
}

/// Called for each loaded object; the first is the executable, and there it stops.
extern "C" fn look_at_image(info: *mut dl_phdr_info, _size: usize, image: *mut c_void) -> c_int {
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
        let part = start..start + address(header.p_memsz);
        if header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_X != 0 {
            image.code.push(part.clone());
        }
        match header.p_type {
            libc::PT_LOAD if header.p_flags & libc::PF_W == 0 => image.read_only.push(part),
            // What is read-only after the loader has filled in addresses: constants that hold functions lie here.
            libc::PT_GNU_RELRO => image.read_only.push(part),
            libc::PT_NOTE => {
                // SAFETY: notes lie in a loaded, readable part of the image.
                hasher.write(unsafe { slice::from_raw_parts(start as *const u8, part.len()) });
            }
            _ => {}
        }
    }
    image.build = hasher.finish();
    1
}

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
        let decoy = std::hint::black_box(&DECOY).as_ptr().addr();
        assert!(IMAGE.holds(decoy, size_of_val(&DECOY)));
        assert!(Entry::<()>::at((decoy - IMAGE.base) as u64).is_none());
        let entry = const { &Entry::new(|| "an entry of a test", ()) };
        let places =
            IMAGE.read_only.iter().flat_map(|part| (part.start.next_multiple_of(8)..part.end).step_by(8));
        let found: Vec<&Entry<()>> =
            places.filter_map(|place| Entry::at((place - IMAGE.base) as u64)).collect();
        assert!(found.iter().all(|entry| !entry.signature().is_empty()));
        assert!(found.iter().any(|found| std::ptr::eq(*found, entry)));
    }
}
