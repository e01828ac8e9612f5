//! `RwLock`: a readers-writer lock between processes, fair in the order of requests.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::thread;
use std::time::Duration;

use bytemuck::Pod;
use nix::errno::Errno;

use super::permits::{GRANTED, Request};
use super::poison::{LockResult, check_poison, death_word, own_failure_word};
use super::shared::{Shared, Word, impl_serde_shared, not_free};
use super::slots::Entry;
use crate::error::{Error, Failure, Result};
use crate::sys::atomic::{Acquire, Relaxed};
use crate::sys::poll::Deadline;

/// A value that many threads may read at a time, or one may change, in whatever processes.
///
/// Threads get the lock in the order in which they asked for it, so neither readers nor writers starve, while no more
/// than 1255 have it or wait. Up to 1000 threads read at a time; more of them wait. Clones are handles of the same
/// lock; a clone travels as an argument of a process or task, and through a pipe.
///
/// A thread that waits notices within half a second that a reader or writer has died. A writer that died or
/// panicked poisons the lock; a reader does not. As of a [`Mutex`](super::Mutex), the guards are copies of
/// the value, so a writer that dies leaves the old one, unless it is killed while it writes back.
///
/// ```
/// use multiproc::{Process, sync::RwLock};
///
/// fn main() -> multiproc::Result<()> {
///     multiproc::init();
///     let limit = RwLock::new(10)?;
///     let reader = |limit: RwLock<u64>| -> multiproc::Result<u64> { Ok(*limit.read()?) };
///     *limit.write()? = 20;
///     assert_eq!(Process::spawn(reader, (limit.clone(),))?.join()??, 20);
///     Ok(())
/// }
/// ```
pub struct RwLock<T: Pod> {
    shared: Shared,
    value: PhantomData<fn(&T)>,
}

impl_serde_shared!(RwLock<T> where [T: Pod] { shared, value }: size_of::<T>(), Some(1));

/// A reader takes a permit, and a writer takes all.
const ALL: u32 = 1000;
/// How many threads can wait in their order.
const WAITERS: usize = 256;
const LOCK: &str = "lock";

impl<T: Pod> RwLock<T> {
    /// Makes a lock that guards a value.
    ///
    /// # Errors
    /// When the kernel refuses a descriptor or the memory.
    pub fn new(value: T) -> Result<Self> {
        let shared = Shared::create::<T>(ALL as usize + WAITERS, 1)?;
        shared.store(0, &value);
        Ok(Self { shared, value: PhantomData })
    }

    /// Takes the lock to read. Blocks while a writer that lives holds it, or one waits that asked before.
    ///
    /// A thread that reads already gets the lock at once.
    ///
    /// # Errors
    /// [`Poisoned`](super::LockError::Poisoned) when a writer died or panicked;
    /// [`Failed`](super::LockError::Failed) when this thread holds the lock to write, or reads already and there
    /// are 1256 readers and threads that wait.
    pub fn read(&self) -> LockResult<ReadGuard<'_, T>> {
        self.take_to_read(Deadline::Never)
    }

    /// As [`read`](Self::read), but blocks for `time` at most.
    ///
    /// # Errors
    /// Those of [`read`](Self::read); and [`Error::is_timeout`] when the lock was not available in time.
    pub fn read_timeout(&self, time: Duration) -> LockResult<ReadGuard<'_, T>> {
        self.take_to_read(Deadline::after(time))
    }

    /// As [`read`](Self::read), but does not block.
    ///
    /// # Errors
    /// Those of [`read_timeout`](Self::read_timeout).
    pub fn try_read(&self) -> LockResult<ReadGuard<'_, T>> {
        self.take_to_read(Deadline::now())
    }

    /// Takes the lock to read and change. Blocks while readers or a writer that live hold it, or wait and
    /// asked before.
    ///
    /// # Errors
    /// [`Poisoned`](super::LockError::Poisoned) when a writer died or panicked;
    /// [`Failed`](super::LockError::Failed) when this thread holds the lock.
    pub fn write(&self) -> LockResult<WriteGuard<'_, T>> {
        self.take_to_write(Deadline::Never)
    }

    /// As [`write`](Self::write), but blocks for `time` at most.
    ///
    /// # Errors
    /// Those of [`write`](Self::write); and [`Error::is_timeout`] when the lock was not available in time.
    pub fn write_timeout(&self, time: Duration) -> LockResult<WriteGuard<'_, T>> {
        self.take_to_write(Deadline::after(time))
    }

    /// As [`write`](Self::write), but does not block.
    ///
    /// # Errors
    /// Those of [`write_timeout`](Self::write_timeout).
    pub fn try_write(&self) -> LockResult<WriteGuard<'_, T>> {
        self.take_to_write(Deadline::now())
    }

    /// Whether a writer died or panicked, as far as is known; a death is noticed when another thread asks for
    /// the lock.
    pub fn is_poisoned(&self) -> bool {
        self.shared.word(Word::Failure).load(Acquire) != 0
    }

    /// Says that the value is sound again: later calls get the guard without an error.
    pub fn clear_poison(&self) {
        self.shared.word(Word::Failure).store(0, Relaxed);
    }

    fn take_to_read(&self, deadline: Deadline) -> LockResult<ReadGuard<'_, T>> {
        let held = self.hold(1, deadline)?;
        let failure_word = held.failure_word();
        check_poison(ReadGuard { value: self.shared.load(0), _held: held }, LOCK, failure_word)
    }

    fn take_to_write(&self, deadline: Deadline) -> LockResult<WriteGuard<'_, T>> {
        let held = self.hold(ALL, deadline)?;
        let failure_word = held.failure_word();
        let was_panicking = thread::panicking();
        let value = self.shared.load(0);
        check_poison(WriteGuard { value, is_changed: false, was_panicking, held }, LOCK, failure_word)
    }

    fn hold(&self, count: u32, deadline: Deadline) -> Result<Held<'_>> {
        let holder = self.shared.own_thread();
        let own = self.shared.entries().find(|entry| entry.holder == holder && entry.kind & GRANTED != 0);
        if own.is_some_and(|own| count == ALL || is_writer(&own)) {
            return Err(Error::os("take a lock that this thread holds", Errno::EDEADLK));
        }
        let request = Request { count, holder, is_reentrant: own.is_some() };
        let on_death = |entry: &Entry| {
            if is_writer(entry) {
                self.shared.word(Word::Failure).store(death_word(entry.holder, entry.pid), Relaxed);
            }
        };
        let entry = self.shared.acquire(ALL, request, deadline, on_death)?;
        let entry = entry.ok_or_else(|| not_free(deadline, "the lock is taken", "take a lock"))?;
        Ok(Held { shared: &self.shared, entry, of_this_thread: PhantomData })
    }
}

fn is_writer(entry: &Entry) -> bool {
    entry.count() == ALL
}

impl<T: Pod> Clone for RwLock<T> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), value: PhantomData }
    }
}

impl<T: Pod> fmt::Debug for RwLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RwLock").field("is_poisoned", &self.is_poisoned()).finish_non_exhaustive()
    }
}

/// Holds the lock until it is dropped, by the thread that took it.
struct Held<'a> {
    shared: &'a Shared,
    entry: Entry,
    of_this_thread: PhantomData<*const ()>,
}

impl Held<'_> {
    fn failure_word(&self) -> u64 {
        self.shared.word(Word::Failure).load(Relaxed)
    }

    /// Whether this is no copy in a forked process.
    fn is_holder_thread(&self) -> bool {
        self.entry.holder.is_current()
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if self.is_holder_thread() {
            self.shared.release(&self.entry);
        }
    }
}

/// Holds a [`RwLock`] to read until it is dropped, and is a copy of the value.
pub struct ReadGuard<'a, T> {
    value: T,
    _held: Held<'a>,
}

impl<T> Deref for ReadGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: fmt::Debug> fmt::Debug for ReadGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)
    }
}

/// Holds a [`RwLock`] to write until it is dropped, and is a copy of the value, which goes back then if it
/// was borrowed mutably.
pub struct WriteGuard<'a, T: Pod> {
    value: T,
    is_changed: bool,
    was_panicking: bool,
    /// Released last.
    held: Held<'a>,
}

impl<T: Pod> Deref for WriteGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: Pod> DerefMut for WriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.is_changed = true;
        &mut self.value
    }
}

impl<T: Pod> Drop for WriteGuard<'_, T> {
    fn drop(&mut self) {
        if !self.held.is_holder_thread() {
            return;
        }
        if thread::panicking() && !self.was_panicking {
            self.held.shared.word(Word::Failure).store(own_failure_word(Failure::Panicked), Relaxed);
        } else if self.is_changed {
            self.held.shared.store(0, &self.value);
        }
    }
}

impl<T: Pod + fmt::Debug> fmt::Debug for WriteGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)
    }
}
