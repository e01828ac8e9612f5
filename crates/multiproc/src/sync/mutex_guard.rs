//! The guards of a mutex: a copy of its value, or access to the elements of its slice.

#![allow(clippy::inline_always, reason = "a call, and a result in memory, cost as much as a free mutex")]

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::thread;

use bytemuck::Pod;

use super::poison::{LockResult, check_poison, death_word, own_failure_word};
use super::shared::{Shared, Word, not_free};
use crate::error::{Failure, Result};
use crate::sys::atomic::Relaxed;
use crate::sys::failpoint::{self, Failpoint};
use crate::sys::poll::Deadline;
use crate::sys::thread_id::ThreadId;

const MUTEX: &str = "mutex";

/// Holds a [`Mutex`](super::Mutex) until dropped, and dereferences to a private copy of the value. If the
/// copy was borrowed mutably, it is written back on drop.
pub struct MutexGuard<'a, T: Pod> {
    held: Held<'a>,
    value: T,
    is_changed: usize,
}

impl<'a, T: Pod> MutexGuard<'a, T> {
    #[inline(always)]
    pub(super) fn take(shared: &'a Shared, deadline: Deadline) -> LockResult<Self> {
        let held = Held::take(shared, deadline)?;
        let (value, failure_word) = (shared.load(0), held.failure_word());
        check_poison(Self { held, value, is_changed: 0 }, MUTEX, failure_word)
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
        self.held.release(|shared| changed.into_iter().for_each(|value| shared.store(0, value)));
    }
}

impl<T: Pod + fmt::Debug> fmt::Debug for MutexGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)
    }
}

/// Holds a [`Mutex`](super::Mutex) of a slice until it is dropped, and gives access to the elements. What is set is
/// there at once, also when the holder dies.
pub struct SliceGuard<'a, T> {
    held: Held<'a>,
    element: PhantomData<T>,
}

impl<'a, T> SliceGuard<'a, T> {
    pub(super) fn take(shared: &'a Shared, deadline: Deadline) -> LockResult<Self> {
        let held = Held::take(shared, deadline)?;
        let failure_word = held.failure_word();
        check_poison(Self { held, element: PhantomData }, MUTEX, failure_word)
    }
}

impl<T> Drop for SliceGuard<'_, T> {
    fn drop(&mut self) {
        self.held.release(|_| {});
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

    /// The element at an index, or `None` past the end.
    pub fn get(&self, index: usize) -> Option<T> {
        (index < self.len()).then(|| self.held.shared.load(index))
    }

    /// Overwrites an element. Does nothing in a forked copy of the process, which does not hold the mutex.
    ///
    /// # Panics
    /// When the index is past the end.
    pub fn set(&mut self, index: usize, value: T) {
        if self.held.holder == ThreadId::current() {
            self.held.shared.store(index, &value);
        }
    }

    /// Copies the elements from an index on.
    ///
    /// # Panics
    /// When `to` is longer than what is there.
    pub fn copy_to_slice(&self, from: usize, to: &mut [T]) {
        self.held.shared.load_slice(from, to);
    }

    /// Overwrites the elements from an index on. Does nothing in a forked copy of the process, as [`set`](Self::set).
    ///
    /// # Panics
    /// When `elements` are more than are there.
    pub fn copy_from_slice(&mut self, to: usize, elements: &[T]) {
        if self.held.holder == ThreadId::current() {
            self.held.shared.store_slice(to, elements);
        }
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

/// Holds the mutex until [`release`](Self::release). It has no `drop` of its own, whose code the compiler would not
/// always put in line: the fields of a guard then go through memory, which takes as long as the mutex.
struct Held<'a> {
    shared: &'a Shared,
    holder: ThreadId,
    /// 0 or 1; a `bool` would make the guard slower to move, see [`Poisoned`](super::Poisoned).
    was_panicking: usize,
    of_this_thread: PhantomData<*const ()>,
}

impl<'a> Held<'a> {
    #[inline(always)]
    fn take(shared: &'a Shared, deadline: Deadline) -> Result<Self> {
        let (holder, process) = ThreadId::current_and_process();
        match shared.mutex().try_lock_as(holder) {
            Some(guard) => _ = guard.forget(),
            None => Self::wait(shared, deadline)?,
        }
        let owner = u64::from(holder.number()) | u64::from(process.number()) << 32;
        shared.word(Word::Owner).store(owner, Relaxed);
        Ok(Self { shared, holder, was_panicking: thread::panicking().into(), of_this_thread: PhantomData })
    }

    #[cold]
    fn wait(shared: &Shared, deadline: Deadline) -> Result<()> {
        let on_death = |dead: ThreadId| {
            let owner = shared.word(Word::Owner).load(Relaxed);
            // A thread killed before it could write its process there most likely was the only one of it.
            #[allow(clippy::cast_possible_truncation)] // its two halves
            let pid = if owner as u32 == dead.number() { (owner >> 32) as u32 } else { dead.number() };
            shared.word(Word::Failure).store(death_word(dead, pid), Relaxed);
        };
        shared.check_not_held(MUTEX)?;
        let guard = shared.mutex().lock_reporting_death(deadline, on_death)?;
        guard.ok_or_else(|| not_free(deadline, "the mutex is taken", "take a mutex"))?.forget();
        Ok(())
    }

    #[inline]
    fn failure_word(&self) -> u64 {
        self.shared.word(Word::Failure).load(Relaxed)
    }

    /// Releases the mutex, after `write`, or poisoned where the thread panics. Does neither in a copy of the process
    /// that was forked meanwhile, which does not hold the mutex.
    #[inline]
    fn release(&mut self, write: impl FnOnce(&Shared)) {
        if self.holder != ThreadId::current() {
            return;
        }
        if thread::panicking() && self.was_panicking == 0 {
            Self::poison(self.shared);
        } else {
            write(self.shared);
            failpoint::hit(Failpoint::WrittenBack);
        }
        self.shared.mutex().release(self.holder);
    }

    #[cold]
    fn poison(shared: &Shared) {
        shared.word(Word::Failure).store(own_failure_word(Failure::Panicked), Relaxed);
    }
}
