//! `Atomic`: lock-free numbers in shared memory.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::atomic;

use super::shared::{Shared, impl_serde_shared};
use crate::error::Result;
use crate::sys::shared_words::SharedAtomic;

pub use crate::sys::shared_words::SharedBool;

/// A number, a `bool`, or a slice of either, that processes share without a lock.
///
/// `Atomic<u64>` dereferences to the standard library's [`AtomicU64`](atomic::AtomicU64), `Atomic<[u64]>` to
/// a slice of them, and so for all integers of up to 64 bits; `Atomic<bool>` to a [`SharedBool`]. No
/// operation blocks. A process that is killed has done an operation or has not. Clones are handles of the
/// same memory; a clone travels as an argument of a process or task, and through a pipe.
///
/// ```
/// use std::sync::atomic::Ordering::Relaxed;
///
/// use multiproc::{Pool, sync::Atomic};
///
/// fn count(hits: Atomic<[u64]>, index: usize) {
///     hits[index].fetch_add(1, Relaxed);
/// }
///
/// fn main() -> multiproc::Result<()> {
///     multiproc::init();
///     let hits = Atomic::from_slice(&[0_u64; 3])?;
///     let pool = Pool::new(2)?;
///     pool.starmap(count, (0..30).map(|number| (hits.clone(), number % 3)))?;
///     assert!(hits.iter().all(|count| count.load(Relaxed) == 10));
///     Ok(())
/// }
/// ```
pub struct Atomic<T: AtomicContents + ?Sized> {
    shared: Shared,
    value: PhantomData<fn(&T)>,
}

impl_serde_shared!(
    Atomic<T> where [T: AtomicContents + ?Sized] { shared, value }: size_of::<T::Element>(), T::LENGTH
);

/// What can be [`Atomic`]: an integer of up to 64 bits, a `bool`, or a slice of either.
pub trait AtomicContents: sealed::AtomicContents {}

mod sealed {
    use crate::sys::shared_words::SharedAtomic;

    #[allow(unreachable_pub, reason = "named by a public trait")]
    pub trait AtomicContents {
        /// What an element is in shared memory.
        type Element: SharedAtomic;
        const LENGTH: Option<usize>;
    }
}

macro_rules! values {
    ($($value:ty: $atomic:ty),* $(,)?) => {$(
        impl AtomicContents for $value {}
        impl AtomicContents for [$value] {}

        impl sealed::AtomicContents for $value {
            type Element = $atomic;
            const LENGTH: Option<usize> = Some(1);
        }

        impl sealed::AtomicContents for [$value] {
            type Element = $atomic;
            const LENGTH: Option<usize> = None;
        }
    )*};
}
values!(
    u8: atomic::AtomicU8, u16: atomic::AtomicU16, u32: atomic::AtomicU32, u64: atomic::AtomicU64,
    i8: atomic::AtomicI8, i16: atomic::AtomicI16, i32: atomic::AtomicI32, i64: atomic::AtomicI64,
    usize: atomic::AtomicUsize, isize: atomic::AtomicIsize, bool: SharedBool,
);

impl<T: AtomicContents> Atomic<T>
where
    T::Element: SharedAtomic<Value = T>,
{
    /// Makes an atomic number.
    ///
    /// # Errors
    /// When the kernel refuses a descriptor or the memory.
    pub fn new(value: T) -> Result<Self> {
        let atomic = Self::of(1)?;
        atomic.set(value);
        Ok(atomic)
    }
}

impl<T> Atomic<[T]>
where
    [T]: AtomicContents,
    T: Copy,
    <[T] as sealed::AtomicContents>::Element: SharedAtomic<Value = T>,
{
    /// Makes a slice of atomic numbers with these values.
    ///
    /// # Errors
    /// When the kernel refuses a descriptor or the memory.
    pub fn from_slice(values: &[T]) -> Result<Self> {
        let atomics = Self::of(values.len())?;
        for (atomic, value) in atomics.iter().zip(values) {
            atomic.set(*value);
        }
        Ok(atomics)
    }
}

impl<T: AtomicContents + ?Sized> Atomic<T> {
    fn of(length: usize) -> Result<Self> {
        Ok(Self { shared: Shared::create::<T::Element>(0, length)?, value: PhantomData })
    }
}

impl<T: AtomicContents> Deref for Atomic<T> {
    type Target = T::Element;

    #[inline]
    fn deref(&self) -> &T::Element {
        &self.shared.atomics(1)[0]
    }
}

impl<T> Deref for Atomic<[T]>
where
    [T]: AtomicContents,
{
    type Target = [<[T] as sealed::AtomicContents>::Element];

    #[inline]
    fn deref(&self) -> &Self::Target {
        self.shared.atomics(self.shared.length)
    }
}

impl<T: AtomicContents + ?Sized> Clone for Atomic<T> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), value: PhantomData }
    }
}

impl<T: AtomicContents + ?Sized> fmt::Debug for Atomic<T>
where
    Self: Deref<Target: fmt::Debug>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}
