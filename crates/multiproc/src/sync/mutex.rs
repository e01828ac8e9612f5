//! `Mutex`: a robust mutex between processes, which owns the value that it guards.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use bytemuck::Pod;

use super::mutex_guard::{MutexGuard, SliceGuard};
use super::poison::LockResult;
use super::shared::{Shared, Word, impl_serde_shared};
use crate::error::Result;
use crate::sys::atomic::{Acquire, Relaxed};
use crate::sys::poll::Deadline;

/// A value, or a slice of values, that one thread at a time may change, in whatever process: Python's `Lock`,
/// `Value` and `Array`.
///
/// Without a value it is `Mutex<()>`. Clones are handles of the same mutex; a clone travels as an argument of
/// a process or task, and through a pipe.
///
/// ```
/// use multiproc::{Process, sync::Mutex};
///
/// fn deposit(account: Mutex<u64>) -> multiproc::Result<()> {
///     for _ in 0..1_000 {
///         *account.lock()? += 1;
///     }
///     Ok(())
/// }
///
/// fn main() -> multiproc::Result<()> {
///     multiproc::init();
///     let account = Mutex::new(0)?;
///     let children = [(); 2].map(|()| Process::spawn(deposit, (account.clone(),)));
///     for child in children {
///         child?.join()??;
///     }
///     assert_eq!(*account.lock()?, 2_000);
///     Ok(())
/// }
/// ```
///
/// # When the holder dies
///
/// Within half a second another thread gets the mutex, as
/// [`LockError::Poisoned`](super::LockError::Poisoned), which says which process died, and holds the guard. A holder
/// that panics poisons the mutex, too. The mutex stays poisoned until [`clear_poison`](Self::clear_poison).
///
/// # The guard has a copy
///
/// A [`MutexGuard`] is a private copy of the value, read when the mutex is taken and written back when the
/// guard is dropped. So a process that writes over shared memory can change a value, but cannot change one
/// under a reference to it, which would be undefined behaviour here. And a holder that dies or panics leaves
/// the old value, unless it is killed while it writes back. Large values cost their copying: `Mutex<[T]>`
/// gives access to each element in place.
///
/// A thread that takes a mutex which it holds gets an error. There is no mutex that a thread may take twice:
/// its two guards could both change the value, each by its own `&mut`, which Rust has no place for.
pub struct Mutex<T: Contents + ?Sized> {
    shared: Shared,
    value: PhantomData<fn(&T)>,
}

impl_serde_shared!(Mutex<T> where [T: Contents + ?Sized] { shared, value }: T::ELEMENT, T::LENGTH);

/// What a lock can guard: a [`Pod`] value, or a slice of them.
pub trait Contents: sealed::Contents {}

impl<T: Pod> Contents for T {}
impl<T: Pod> Contents for [T] {}

pub(super) mod sealed {
    /// The size of an element (bytes), and the number of elements if all values have it.
    #[allow(unreachable_pub, reason = "named by a public trait")]
    pub trait Contents {
        const ELEMENT: usize;
        const LENGTH: Option<usize>;
    }

    impl<T: super::Pod> Contents for T {
        const ELEMENT: usize = size_of::<T>();
        const LENGTH: Option<usize> = Some(1);
    }

    impl<T: super::Pod> Contents for [T] {
        const ELEMENT: usize = size_of::<T>();
        const LENGTH: Option<usize> = None;
    }
}

impl<T: Pod> Mutex<T> {
    /// Makes a mutex that guards a value.
    ///
    /// # Errors
    /// When the kernel refuses a descriptor or the memory.
    pub fn new(value: T) -> Result<Self> {
        let shared = Shared::create::<T>(0, 1)?;
        shared.store(0, &value);
        Ok(Self { shared, value: PhantomData })
    }

    /// Takes the mutex. Blocks while another thread holds it that lives.
    ///
    /// # Errors
    /// [`Poisoned`](super::LockError::Poisoned) when a holder died or panicked;
    /// [`Failed`](super::LockError::Failed) when this thread holds the mutex.
    #[inline]
    pub fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
        self.take(Deadline::Never)
    }

    /// As [`lock`](Self::lock), but blocks for `time` at most.
    ///
    /// # Errors
    /// Those of [`lock`](Self::lock); and [`Error::is_timeout`](crate::Error::is_timeout) when another thread held
    /// the mutex all that time.
    pub fn lock_timeout(&self, time: Duration) -> LockResult<MutexGuard<'_, T>> {
        self.take(Deadline::after(time))
    }

    /// As [`lock`](Self::lock), but does not block.
    ///
    /// # Errors
    /// Those of [`lock_timeout`](Self::lock_timeout).
    ///
    /// ```
    /// # fn main() -> multiproc::Result<()> {
    /// let mutex = multiproc::sync::Mutex::new(7)?;
    /// let guard = mutex.try_lock()?;
    /// let other = mutex.clone();
    /// let error = std::thread::spawn(move || other.try_lock().unwrap_err().error().clone()).join().unwrap();
    /// assert!(error.is_timeout());
    /// assert_eq!(*guard, 7);
    /// # Ok(())
    /// # }
    /// ```
    pub fn try_lock(&self) -> LockResult<MutexGuard<'_, T>> {
        self.take(Deadline::now())
    }

    #[inline]
    fn take(&self, deadline: Deadline) -> LockResult<MutexGuard<'_, T>> {
        MutexGuard::take(&self.shared, deadline)
    }
}

impl<T: Pod> Mutex<[T]> {
    /// Makes a mutex that guards a copy of a slice.
    ///
    /// ```
    /// # fn main() -> multiproc::Result<()> {
    /// let mutex = multiproc::sync::Mutex::from_slice(&[1_u32, 2, 3])?;
    /// let mut numbers = mutex.lock()?;
    /// numbers.set(1, 20);
    /// assert_eq!(numbers.to_vec(), [1, 20, 3]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When the kernel refuses a descriptor or the memory.
    pub fn from_slice(elements: &[T]) -> Result<Self> {
        let mutex = Self::zeroed(elements.len())?;
        mutex.shared.store_slice(0, elements);
        Ok(mutex)
    }

    /// Makes a mutex that guards `length` elements, which are zero.
    ///
    /// # Errors
    /// When the kernel refuses a descriptor or the memory.
    pub fn zeroed(length: usize) -> Result<Self> {
        Ok(Self { shared: Shared::create::<T>(0, length)?, value: PhantomData })
    }

    /// Takes the mutex. Blocks while another thread holds it that lives.
    ///
    /// # Errors
    /// [`Poisoned`](super::LockError::Poisoned) when a holder died or panicked;
    /// [`Failed`](super::LockError::Failed) when this thread holds the mutex.
    pub fn lock(&self) -> LockResult<SliceGuard<'_, T>> {
        self.take(Deadline::Never)
    }

    /// As [`lock`](Self::lock), but blocks for `time` at most.
    ///
    /// # Errors
    /// Those of [`lock`](Self::lock); and [`Error::is_timeout`](crate::Error::is_timeout) when another thread held
    /// the mutex all that time.
    pub fn lock_timeout(&self, time: Duration) -> LockResult<SliceGuard<'_, T>> {
        self.take(Deadline::after(time))
    }

    /// As [`lock`](Self::lock), but does not block.
    ///
    /// # Errors
    /// Those of [`lock_timeout`](Self::lock_timeout).
    pub fn try_lock(&self) -> LockResult<SliceGuard<'_, T>> {
        self.take(Deadline::now())
    }

    fn take(&self, deadline: Deadline) -> LockResult<SliceGuard<'_, T>> {
        SliceGuard::take(&self.shared, deadline)
    }
}

impl<T: Contents + ?Sized> Mutex<T> {
    /// Whether a holder died or panicked, as far as is known; a death is noticed when another thread takes
    /// the mutex.
    pub fn is_poisoned(&self) -> bool {
        self.shared.word(Word::Failure).load(Acquire) != 0
    }

    /// Says that the value is sound again: later calls get the guard without an error.
    pub fn clear_poison(&self) {
        self.shared.word(Word::Failure).store(0, Relaxed);
    }
}

impl<T: Contents + ?Sized> Clone for Mutex<T> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), value: PhantomData }
    }
}

impl<T: Contents + ?Sized> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mutex").field("is_poisoned", &self.is_poisoned()).finish_non_exhaustive()
    }
}
