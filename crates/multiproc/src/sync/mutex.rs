//! Mutual exclusion between processes, and the value that it guards.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::thread;
use std::time::Duration;

use bytemuck::Pod;
use serde::{Deserialize, Deserializer, Serialize};

use super::poison::{LockResult, failure_word, judge, own_failure_word};
use super::shared::{Shared, Word};
use crate::error::{Error, Failure, Result};
use crate::sys::atomic::{Acquire, Relaxed};
use crate::sys::mutex::MutexGuard as WordGuard;
use crate::sys::poll::Deadline;
use crate::sys::thread_id::ThreadId;

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
/// [`LockError::Poisoned`](super::LockError::Poisoned), which says who died and holds the guard. A holder
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
#[derive(Serialize, Deserialize)]
#[serde(bound = "")]
pub struct Mutex<T: Contents + ?Sized> {
    #[serde(deserialize_with = "receive::<T, _>")]
    shared: Shared,
    value: PhantomData<fn(&T)>,
}

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

pub(super) fn receive<'de, T: Contents + ?Sized, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Shared, D::Error> {
    Shared::receive(deserializer, T::ELEMENT, T::LENGTH)
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
    /// Those of [`lock`](Self::lock); and [`Error::is_timeout`] when another thread held the mutex all that
    /// time.
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
    /// Those of [`lock`](Self::lock); and [`Error::is_timeout`] when another thread held the mutex all that
    /// time.
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
        let held = Held::take(&self.shared, deadline)?;
        let failure_word = held.failure_word();
        judge(SliceGuard { held, element: PhantomData }, MUTEX, failure_word)
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

const MUTEX: &str = "mutex";

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

/// Holds the mutex until it is dropped.
struct Held<'a> {
    guard: WordGuard<'a>,
    shared: &'a Shared,
    /// 0 or 1; a `bool` would make the guard slower to move, see [`Poisoned`](super::Poisoned).
    was_panicking: usize,
}

impl<'a> Held<'a> {
    #[inline]
    fn take(shared: &'a Shared, deadline: Deadline) -> Result<Self> {
        let (thread, process) = ThreadId::current_and_process();
        let guard = match shared.mutex().try_lock_as(thread) {
            Some(guard) => guard,
            None => Self::wait(shared, deadline)?,
        };
        let owner = u64::from(thread.number()) | u64::from(process.number()) << 32;
        shared.word(Word::Owner).store(owner, Relaxed);
        Ok(Self { guard, shared, was_panicking: thread::panicking().into() })
    }

    #[cold]
    fn wait(shared: &'a Shared, deadline: Deadline) -> Result<WordGuard<'a>> {
        let on_death = |dead: ThreadId| {
            let owner = shared.word(Word::Owner).load(Relaxed);
            // A thread killed before it could write its process there most likely was the only one of it.
            #[allow(clippy::cast_possible_truncation)] // its two halves
            let pid = if owner as u32 == dead.number() { (owner >> 32) as u32 } else { dead.number() };
            shared.word(Word::Failure).store(failure_word(pid, Failure::Died), Relaxed);
        };
        shared.check_not_held(MUTEX)?;
        shared.mutex().lock_noting(deadline, on_death)?.ok_or_else(|| Error::timeout("take a mutex"))
    }

    #[inline]
    fn failure_word(&self) -> u64 {
        self.shared.word(Word::Failure).load(Relaxed)
    }

    /// Releases the mutex, after `write`, or poisoned where the thread panics.
    #[inline]
    fn finish(&mut self, write: impl FnOnce(&Shared)) {
        let (shared, is_panicking) = (self.shared, thread::panicking() && self.was_panicking == 0);
        self.guard.finish(|| {
            if is_panicking {
                shared.word(Word::Failure).store(own_failure_word(Failure::Panicked), Relaxed);
            } else {
                write(shared);
            }
        });
    }
}

/// Holds a [`Mutex`] until it is dropped, and is the value: a copy, which goes back then if it was borrowed
/// mutably.
pub struct MutexGuard<'a, T: Pod> {
    held: Held<'a>,
    value: T,
    is_changed: usize,
}

impl<'a, T: Pod> MutexGuard<'a, T> {
    #[inline]
    pub(super) fn take(shared: &'a Shared, deadline: Deadline) -> LockResult<Self> {
        let held = Held::take(shared, deadline)?;
        let (value, failure_word) = (shared.load(0), held.failure_word());
        judge(Self { held, value, is_changed: 0 }, MUTEX, failure_word)
    }

    pub(super) fn shared(&self) -> &'a Shared {
        self.held.shared
    }
}

impl<T: Pod> Deref for MutexGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: Pod> DerefMut for MutexGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        self.is_changed = 1;
        &mut self.value
    }
}

impl<T: Pod> Drop for MutexGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        let changed = (self.is_changed != 0).then_some(&self.value);
        self.held.finish(|shared| changed.into_iter().for_each(|value| shared.store(0, value)));
    }
}

impl<T: Pod + fmt::Debug> fmt::Debug for MutexGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)
    }
}

/// Holds a [`Mutex`] of a slice until it is dropped, and gives access to the elements. What is set is there
/// at once, also when the holder dies.
pub struct SliceGuard<'a, T> {
    held: Held<'a>,
    element: PhantomData<T>,
}

impl<T> Drop for SliceGuard<'_, T> {
    fn drop(&mut self) {
        self.held.finish(|_| {});
    }
}

impl<T: Pod> SliceGuard<'_, T> {
    /// The number of elements.
    pub fn len(&self) -> usize {
        self.held.shared.length
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The element at an index, or `None` behind the end.
    pub fn get(&self, index: usize) -> Option<T> {
        (index < self.len()).then(|| self.held.shared.load(index))
    }

    /// Overwrites an element.
    ///
    /// # Panics
    /// When the index is behind the end.
    pub fn set(&mut self, index: usize, value: T) {
        self.held.shared.store(index, &value);
    }

    /// Copies the elements from an index on.
    ///
    /// # Panics
    /// When `to` is longer than what is there.
    pub fn copy_to_slice(&self, from: usize, to: &mut [T]) {
        self.held.shared.load_slice(from, to);
    }

    /// Overwrites the elements from an index on.
    ///
    /// # Panics
    /// When `elements` are more than are there.
    pub fn copy_from_slice(&mut self, to: usize, elements: &[T]) {
        self.held.shared.store_slice(to, elements);
    }

    /// All elements.
    pub fn to_vec(&self) -> Vec<T> {
        let mut elements = vec![T::zeroed(); self.len()];
        self.copy_to_slice(0, &mut elements);
        elements
    }

    /// The elements, one after another.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = T> {
        (0..self.len()).map(|index| self.held.shared.load(index))
    }
}

impl<T: Pod + fmt::Debug> fmt::Debug for SliceGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}
