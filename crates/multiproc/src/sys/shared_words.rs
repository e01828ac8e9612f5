//! Values in memory that other processes write: reached only through atomics, so that a load gives some value
//! whatever is written there meanwhile.

use std::fmt;
use std::sync::atomic::{
    AtomicI8, AtomicI16, AtomicI32, AtomicI64, AtomicIsize, AtomicU8, AtomicU16, AtomicU32, AtomicU64,
    AtomicUsize, Ordering,
};

use bytemuck::Pod;

use super::mapping::SharedMapping;

/// An atomic that may lie in memory which other processes write.
///
/// # Safety
/// Every bit pattern is a valid value, and the alignment is not above 8.
#[allow(unreachable_pub, reason = "named by a sealed trait of `sync`")]
pub unsafe trait SharedAtomic: Sync {
    type Value: Copy;

    fn set(&self, value: Self::Value);
}

macro_rules! integers {
    ($($atomic:ty: $value:ty),* $(,)?) => {$(
        // SAFETY: an integer of the standard library, as large as it is aligned, of at most 8 bytes.
        unsafe impl SharedAtomic for $atomic {
            type Value = $value;

            #[inline]
            fn set(&self, value: $value) {
                self.store(value, Ordering::Relaxed);
            }
        }
    )*};
}
integers!(
    AtomicU8: u8, AtomicU16: u16, AtomicU32: u32, AtomicU64: u64, AtomicUsize: usize,
    AtomicI8: i8, AtomicI16: i16, AtomicI32: i32, AtomicI64: i64, AtomicIsize: isize,
);

/// A `bool` that processes share, with the operations of the standard library's
/// [`AtomicBool`](std::sync::atomic::AtomicBool).
///
/// It is a byte, of which every value but 0 is `true`: a byte that another process has written is a `bool`,
/// whatever it is.
#[repr(transparent)]
#[allow(unreachable_pub, reason = "`sync` exports it")]
pub struct SharedBool(AtomicU8);

// SAFETY: a transparent wrapper of a type that is one.
unsafe impl SharedAtomic for SharedBool {
    type Value = bool;

    #[inline]
    fn set(&self, value: bool) {
        self.store(value, Ordering::Relaxed);
    }
}

impl SharedBool {
    /// The value.
    #[inline]
    pub fn load(&self, order: Ordering) -> bool {
        self.0.load(order) != 0
    }

    /// Overwrites the value.
    #[inline]
    pub fn store(&self, value: bool, order: Ordering) {
        self.0.store(value.into(), order);
    }

    /// Overwrites the value; returns the earlier one.
    #[inline]
    pub fn swap(&self, value: bool, order: Ordering) -> bool {
        self.0.swap(value.into(), order) != 0
    }

    /// Becomes `false` if `value` is; returns the earlier value.
    #[inline]
    pub fn fetch_and(&self, value: bool, order: Ordering) -> bool {
        self.0.fetch_and(if value { u8::MAX } else { 0 }, order) != 0
    }

    /// Becomes `true` if `value` is; returns the earlier value.
    #[inline]
    pub fn fetch_or(&self, value: bool, order: Ordering) -> bool {
        self.0.fetch_or(value.into(), order) != 0
    }

    /// Becomes `new` if it is `current`, and returns `Ok(current)`; else returns `Err` with the other value.
    ///
    /// # Errors
    /// The value, if it is not `current`.
    #[inline]
    pub fn compare_exchange(
        &self,
        current: bool,
        new: bool,
        success: Ordering,
        failure: Ordering,
    ) -> Result<bool, bool> {
        let mut byte = current.into();
        loop {
            match self.0.compare_exchange(byte, new.into(), success, failure) {
                Ok(_) => return Ok(current),
                // Another byte that is `true`, which no function here writes.
                Err(found) if (found != 0) == current => byte = found,
                Err(_) => return Err(!current),
            }
        }
    }
}

impl fmt::Debug for SharedBool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.load(Ordering::Relaxed).fmt(f)
    }
}

impl SharedMapping {
    /// `count` atomics from a byte offset on, a multiple of 8; they must be inside the mapping.
    #[inline]
    pub(crate) fn atomics<A: SharedAtomic>(&self, offset: usize, count: usize) -> &[A] {
        assert!(offset.is_multiple_of(8), "unaligned atomics");
        let address = self.address(offset, count.saturating_mul(size_of::<A>()));
        // SAFETY: inside the mapping and aligned (both asserted). Atomics of any bits are valid, and all that
        // refers to this memory in this process are atomics and copies by means of them.
        unsafe { std::slice::from_raw_parts(address.cast().as_ptr(), count) }
    }

    /// The value at an offset, which must be inside the mapping. A value that is written meanwhile is torn.
    #[inline]
    pub(crate) fn load<T: Pod>(&self, offset: usize) -> T {
        let mut value = T::zeroed();
        self.load_bytes(offset, bytemuck::bytes_of_mut(&mut value));
        value
    }

    /// Writes a value at an offset; it must fit into the mapping.
    #[inline]
    pub(crate) fn store<T: Pod>(&self, offset: usize, value: &T) {
        self.store_bytes(offset, bytemuck::bytes_of(value));
    }

    /// Copies bytes out from an offset on; they must be inside the mapping.
    #[inline]
    pub(crate) fn load_bytes(&self, offset: usize, to: &mut [u8]) {
        let [head, words, tail] = parts(offset, to.len());
        let (first, rest) = to.split_at_mut(head);
        let (middle, last) = rest.split_at_mut(8 * words);
        copy_out(self.bytes(offset, head), first);
        let source = self.atomics::<AtomicU64>(if words == 0 { 0 } else { offset + head }, words);
        for (word, to) in source.iter().zip(middle.chunks_exact_mut(8)) {
            to.copy_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
        }
        copy_out(self.bytes(offset + head + 8 * words, tail), last);
    }

    /// Copies bytes in from an offset on; they must fit into the mapping.
    #[inline]
    pub(crate) fn store_bytes(&self, offset: usize, from: &[u8]) {
        let [head, words, tail] = parts(offset, from.len());
        let (first, rest) = from.split_at(head);
        let (middle, last) = rest.as_chunks::<8>();
        copy_in(first, self.bytes(offset, head));
        let target = self.atomics::<AtomicU64>(if words == 0 { 0 } else { offset + head }, words);
        for (word, from) in target.iter().zip(middle) {
            word.store(u64::from_ne_bytes(*from), Ordering::Relaxed);
        }
        copy_in(last, self.bytes(offset + head + 8 * words, tail));
    }

    #[inline]
    fn bytes(&self, offset: usize, count: usize) -> &[AtomicU8] {
        let address = self.address(offset, count);
        // SAFETY: as in `atomics`; a byte is aligned everywhere.
        unsafe { std::slice::from_raw_parts(address.cast().as_ptr(), count) }
    }
}

/// How many bytes lie before the first whole word, how many whole words, and how many bytes after the last.
#[inline]
fn parts(offset: usize, length: usize) -> [usize; 3] {
    let head = (offset.next_multiple_of(8) - offset).min(length);
    let rest = length - head;
    [head, rest / 8, rest % 8]
}

#[inline]
fn copy_out(from: &[AtomicU8], to: &mut [u8]) {
    for (from, to) in from.iter().zip(to) {
        *to = from.load(Ordering::Relaxed);
    }
}

#[inline]
fn copy_in(from: &[u8], to: &[AtomicU8]) {
    for (from, to) in from.iter().zip(to) {
        to.store(*from, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;
    use std::sync::atomic::Ordering::{AcqRel, Acquire};

    use super::*;

    #[test]
    fn bytes_come_out_as_they_went_in_wherever_they_lie() {
        let (memory, _) = SharedMapping::create(NonZeroUsize::new(4096).unwrap()).unwrap();
        for offset in 0..20 {
            for length in 0..40_u8 {
                let before: Vec<u8> = vec![0xee; 100];
                memory.store_bytes(0, &before);
                let bytes: Vec<u8> = (1..=length).collect();
                memory.store_bytes(offset, &bytes);
                let mut all = vec![0; 100];
                memory.load_bytes(0, &mut all);
                let mut expected = before.clone();
                expected[offset..][..bytes.len()].copy_from_slice(&bytes);
                assert_eq!(all, expected);
                let mut back = vec![0; bytes.len()];
                memory.load_bytes(offset, &mut back);
                assert_eq!(back, bytes);
            }
        }
        memory.store(4091, &[1_u8, 2, 3, 4, 5]);
        assert_eq!(memory.load::<[u8; 5]>(4091), [1, 2, 3, 4, 5]);
    }

    /// Another process may have written any byte there.
    #[test]
    fn every_byte_but_0_is_exchanged_as_true() {
        for byte in [1, 2, 255] {
            for new in [false, true] {
                let word = SharedBool(AtomicU8::new(byte));
                assert_eq!(word.compare_exchange(false, new, AcqRel, Acquire), Err(true));
                assert_eq!(word.compare_exchange(true, new, AcqRel, Acquire), Ok(true), "{byte}");
                assert_eq!(word.load(Acquire), new);
            }
        }
        let word = SharedBool(AtomicU8::new(0));
        assert_eq!(word.compare_exchange(true, true, AcqRel, Acquire), Err(false));
        assert_eq!(word.compare_exchange(false, true, AcqRel, Acquire), Ok(false));
    }

    #[test]
    #[should_panic(expected = "outside of shared memory")]
    fn a_value_beyond_the_end_is_refused() {
        let (memory, _) = SharedMapping::create(NonZeroUsize::new(64).unwrap()).unwrap();
        memory.store(60, &0_u64);
    }
}
