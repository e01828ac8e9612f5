//! A robust mutex in shared memory: a futex, as in Ulrich Drepper's "Futexes Are Tricky" (mutex 2), whose
//! word is the identity of the thread that holds it.
//!
//! A waiting thread asks the kernel from time to time whether the holder still lives, and takes the mutex
//! over from a dead one. [`Mutex::lock_reporting_death`] tells the new holder; data that the library itself
//! guards is consistent at any time.
//!
//! The shared memory holds only that one number. A process that overwrites it can let two threads hold the
//! mutex at once, but it cannot make any process touch memory that is not there. (The C library's robust
//! mutexes are linked by pointers in the shared memory.)

use super::atomic::{Acquire, AtomicU64, Relaxed, Release};
use super::cpus::is_smp;
use super::failpoint::{self, Failpoint};
use super::futex;
use super::liveness_checks::Checks;
use super::mapping::SharedMapping;
use super::poll::Deadline;
use super::thread_id::{ThreadId, namespace};
use crate::error::{Error, Result};
use std::hint;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;

/// How often to try before sleeping.
const TRIES: u32 = 50;

/// The bit beside the holder's identity that says that threads may be asleep.
const WAITERS: u64 = 1 << 31;

/// A mutex in shared memory. Zeroed memory is a free one.
///
/// A release wakes one waiter. If that is killed before it runs, the others try again when they check.
#[derive(Clone, Copy)]
pub(crate) struct Mutex<'a> {
    word: &'a AtomicU64,
    /// The [namespace] of the processes that share it. A process in another one sees other thread numbers, so
    /// it takes every holder for alive; and all others take it for alive.
    namespace: u64,
}

/// Holds a mutex until it is dropped, by the thread that took it.
pub(crate) struct MutexGuard<'a> {
    word: &'a AtomicU64,
    holder: ThreadId,
    of_this_thread: PhantomData<*const ()>,
}

impl<'a> Mutex<'a> {
    #[inline]
    pub(crate) fn at(memory: &'a SharedMapping, offset: usize, namespace: u64) -> Self {
        Self { word: memory.word64(offset), namespace }
    }

    /// Takes the mutex if it is free.
    #[inline]
    pub(crate) fn try_lock(self) -> Option<MutexGuard<'a>> {
        self.try_lock_as(ThreadId::current())
    }

    /// As [`try_lock`](Self::try_lock), by a thread that knows its identity.
    #[inline]
    pub(crate) fn try_lock_as(self, own: ThreadId) -> Option<MutexGuard<'a>> {
        let is_taken = if ThreadId::is_of(self.namespace) {
            self.replace(0, own.bits())
        } else {
            self.try_lock_as_foreign(own)
        };
        is_taken.then(|| self.guard(own))
    }

    #[cold]
    fn try_lock_as_foreign(self, own: ThreadId) -> bool {
        self.replace(0, own.foreign().bits())
    }

    /// Releases the mutex for the thread that holds it and has forgotten its guard.
    #[inline]
    pub(crate) fn release(self, own: ThreadId) {
        release(self.word, own);
    }

    /// Frees the mutex, for the only thread that takes it, while it does not hold it: a process has overwritten the
    /// word, or has died as the holder.
    pub(crate) fn reset(self) {
        self.word.store(0, Relaxed);
    }

    /// Whether this thread holds the mutex.
    pub(crate) fn is_own(self) -> bool {
        self.word.load(Relaxed) & !WAITERS == self.own().bits()
    }

    /// Takes the mutex; blocks while another living thread holds it. Returns `None` at the deadline.
    ///
    /// # Errors
    /// When this thread holds it already.
    #[cold]
    pub(crate) fn lock(self, deadline: Deadline) -> Result<Option<MutexGuard<'a>>> {
        for _ in 0..if is_smp() { TRIES } else { 0 } {
            hint::spin_loop();
            if let Some(guard) = self.try_lock() {
                return Ok(Some(guard));
            }
        }
        self.lock_reporting_death(deadline, |_| {})
    }

    /// As [`lock`](Self::lock), and calls `on_death` with the thread from which the mutex is taken over, if
    /// it is. Sleeps at once: where threads hold the mutex most of the time, those that spin take it from
    /// each other's caches at each turn, which halves the throughput.
    #[cold]
    pub(crate) fn lock_reporting_death(
        self,
        deadline: Deadline,
        on_death: impl FnOnce(ThreadId),
    ) -> Result<Option<MutexGuard<'a>>> {
        let own = self.own();
        let mut checks = Checks::begin();
        let mut has_slept = false;
        loop {
            let word = self.word.load(Relaxed);
            let holder = ThreadId::from_bits(word & !WAITERS);
            if holder == own {
                return Err(Error::internal("a thread takes a mutex in shared memory that it holds"));
            }
            let is_over = deadline.is_over();
            if word & !WAITERS == 0 || ((is_over || checks.are_due()) && self.check(holder, &mut checks)) {
                // Other threads may sleep though the bit is not set: an unlock clears it and wakes one of them, which
                // may be this one, or may have died as the holder.
                let waiters = if has_slept || word != 0 { WAITERS } else { 0 };
                if self.replace(word, own.bits() | waiters) {
                    let guard = self.guard(ThreadId::current());
                    if word & !WAITERS != 0 {
                        on_death(holder);
                    }
                    return Ok(Some(guard));
                }
            } else if is_over {
                // This thread may have been woken in place of another, which the holder is to wake now.
                if !has_slept || word & WAITERS != 0 || self.replace(word, word | WAITERS) {
                    return Ok(None);
                }
            } else if word & WAITERS != 0 || self.replace(word, word | WAITERS) {
                failpoint::hit(Failpoint::LockSleeps);
                futex::wait_low_half(self.word, word | WAITERS, Some(checks.time(deadline)));
                has_slept = true;
            }
        }
    }

    /// Whether the holder has ended.
    fn check(self, holder: ThreadId, checks: &mut Checks) -> bool {
        checks.done();
        holder.has_ended() && namespace() == self.namespace
    }

    /// The calling thread, as the word names it.
    fn own(self) -> ThreadId {
        ThreadId::current_and_process_in(self.namespace).0
    }

    #[inline]
    fn replace(self, word: u64, with: u64) -> bool {
        self.word.compare_exchange(word, with, Acquire, Relaxed).is_ok()
    }

    #[inline]
    fn guard(self, holder: ThreadId) -> MutexGuard<'a> {
        failpoint::hit(Failpoint::LockTaken);
        MutexGuard { word: self.word, holder, of_this_thread: PhantomData }
    }
}

impl MutexGuard<'_> {
    /// The thread that holds the mutex, which goes on holding it without a guard.
    #[inline]
    pub(crate) fn forget(self) -> ThreadId {
        ManuallyDrop::new(self).holder
    }
}

impl Drop for MutexGuard<'_> {
    /// Does nothing in a copy of the process that was forked meanwhile, which does not hold the mutex.
    #[inline]
    fn drop(&mut self) {
        if self.holder == ThreadId::current() {
            release(self.word, self.holder);
        }
    }
}

#[inline]
fn release(word: &AtomicU64, own: ThreadId) {
    if word.compare_exchange(own.bits(), 0, Release, Relaxed).is_err() {
        release_and_wake(word, own);
    }
}

/// Leaves the word alone if a process has overwritten it.
#[cold]
fn release_and_wake(word: &AtomicU64, own: ThreadId) {
    let release = |from| word.compare_exchange(from, 0, Release, Relaxed).is_ok();
    let foreign = own.foreign().bits();
    if release(own.bits() | WAITERS) || (!release(foreign) && release(foreign | WAITERS)) {
        failpoint::hit(Failpoint::LockReleased);
        futex::wake_one_at_low_half(word);
    }
}

#[cfg(test)]
#[cfg(not(loom))]
#[path = "mutex/tests.rs"] // relative to this file, which the package `models` includes by its path, too
mod tests;
