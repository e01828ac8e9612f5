//! A mutex in shared memory that outlives its holder: a futex, as in Ulrich Drepper's "Futexes Are Tricky" (mutex 2),
//! whose word says which thread holds it.
//!
//! A thread that waits asks the kernel now and then whether the holder still lives, and takes the mutex over from one
//! that does not. [`Mutex::lock_noting`] tells the new holder; what the library itself guards by a mutex is whole at
//! every instruction.
//!
//! The word is all there is in shared memory, and it is a number. A process that writes anything into it can let two
//! threads hold the mutex at once, but it can make no process touch memory that is not there. (The robust mutexes of the C
//! library link into each other by pointers that lie in the shared memory.)

use std::hint;
use std::marker::PhantomData;
use std::time::{Duration, Instant};

use super::atomic::{Acquire, AtomicU64, Relaxed, Release};
use super::cpus::is_smp;
use super::failpoint::{self, Failpoint};
use super::futex;
use super::mapping::SharedMapping;
use super::poll::Deadline;
use super::thread_id::{ThreadId, namespace};
use crate::error::{Error, Result};

/// How often to try again before it is worth while to sleep.
const TRIES: u32 = 50;
/// How long to wait before the first check whether the holder lives. The time doubles with each check.
const FIRST_CHECK: Duration = Duration::from_millis(1);
/// The longest time between two checks. A release wakes one waiter; if that one is killed before it runs, the others try
/// again after this time.
const RECHECK: Duration = Duration::from_millis(500);

/// Beside the identity of the holder: a thread may be asleep.
const WAITERS: u64 = 1 << 31;

/// A mutex that lies in shared memory. Zeroed memory is a free one.
#[derive(Clone, Copy)]
pub(crate) struct Mutex<'a> {
    word: &'a AtomicU64,
    /// The [namespace] of the processes that share it. In another one, their threads have other
    /// numbers, so a process there cannot tell whether the holder lives, and takes it for alive.
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
        self.replace(0, own.bits()).then(|| self.guard(own))
    }

    /// Whether this thread holds the mutex.
    pub(crate) fn is_own(self) -> bool {
        self.word.load(Relaxed) & !WAITERS == ThreadId::current().bits()
    }

    /// Takes the mutex; blocks while another thread that lives holds it, until the deadline, then gives `None`.
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
        self.lock_noting(deadline, |_| {})
    }

    /// As [`lock`](Self::lock), and calls `on_death` with the thread from which the mutex is taken over, if it is. Sleeps
    /// at once: where threads hold the mutex most of the time, those that spin take it from each other's caches at each
    /// turn, which halves the throughput.
    #[cold]
    pub(crate) fn lock_noting(
        self,
        deadline: Deadline,
        on_death: impl FnOnce(ThreadId),
    ) -> Result<Option<MutexGuard<'a>>> {
        let own = ThreadId::current();
        let mut checks = Checks::begin();
        loop {
            let word = self.word.load(Relaxed);
            let holder = ThreadId::from_bits(word & !WAITERS);
            if holder == own {
                return Err(Error::internal("a thread takes a mutex in shared memory that it holds"));
            }
            let is_over = deadline.is_over();
            if word & !WAITERS == 0
                || ((is_over || checks.are_due()) && checks.has_ended(holder, self.namespace))
            {
                // Others may be asleep, of whom the word says nothing any more.
                if self.replace(word, own.bits() | WAITERS) {
                    let guard = self.guard(own);
                    if word & !WAITERS != 0 {
                        on_death(holder);
                    }
                    return Ok(Some(guard));
                }
            } else if is_over {
                return Ok(None);
            } else if word & WAITERS != 0 || self.replace(word, word | WAITERS) {
                let time = deadline.left().map_or(checks.next, |left| left.min(checks.next));
                futex::wait_low_half(self.word, word | WAITERS, Some(time));
            }
        }
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
    /// Calls `act` and releases the mutex; does neither in a copy of the process that was forked meanwhile, which does
    /// not hold it.
    #[inline]
    pub(crate) fn finish(&mut self, act: impl FnOnce()) {
        if self.holder == ThreadId::current() {
            act();
            self.release();
        }
        self.holder = ThreadId::from_bits(0); // for `drop`
    }

    #[inline]
    fn release(&self) {
        let mut word = self.holder.bits();
        while let Err(now) = self.word.compare_exchange(word, 0, Release, Relaxed) {
            if now & !WAITERS != word & !WAITERS {
                return; // a process has written over it
            }
            word = now;
        }
        if word & WAITERS != 0 {
            futex::wake_one_at_low_half(self.word);
        }
    }
}

impl Drop for MutexGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.holder.bits() != 0 && self.holder == ThreadId::current() {
            self.release();
        }
    }
}

/// When to check next whether the holder lives.
struct Checks {
    last: Instant,
    next: Duration,
}

impl Checks {
    fn begin() -> Self {
        Self { last: Instant::now(), next: FIRST_CHECK }
    }

    fn are_due(&self) -> bool {
        self.last.elapsed() >= self.next
    }

    fn has_ended(&mut self, holder: ThreadId, its_namespace: u64) -> bool {
        *self = Self { last: Instant::now(), next: (2 * self.next).min(RECHECK) };
        holder.has_ended() && namespace() == its_namespace
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use std::num::NonZeroUsize;
    use std::sync::mpsc;
    use std::thread;

    use super::*;
    use crate::sys::atomic::SeqCst;

    fn memory() -> SharedMapping {
        SharedMapping::create(NonZeroUsize::new(4096).unwrap()).unwrap().0
    }

    fn mutex(memory: &SharedMapping) -> Mutex<'_> {
        Mutex::at(memory, 64, namespace())
    }

    fn lock(memory: &SharedMapping, deadline: Deadline) -> Option<MutexGuard<'_>> {
        mutex(memory).lock(deadline).unwrap()
    }

    #[test]
    fn one_thread_holds_it_and_others_wait_until_their_time_is_over() {
        let memory = memory();
        let guard = mutex(&memory).try_lock().unwrap();
        thread::scope(|scope| {
            let other = scope.spawn(|| {
                let time = Duration::from_millis(20);
                let start = Instant::now();
                assert!(mutex(&memory).try_lock().is_none());
                assert!(lock(&memory, Deadline::after(time)).is_none());
                assert!(start.elapsed() >= time);
            });
            other.join().unwrap();
        });
        drop(guard);
        assert!(lock(&memory, Deadline::Never).is_some());
    }

    #[test]
    fn threads_exclude_each_other() {
        let memory = memory();
        let count = |_| {
            for _ in 0..20_000 {
                let _guard = lock(&memory, Deadline::Never).unwrap();
                let number = memory.word32(128).load(Relaxed);
                memory.word32(128).store(number + 1, Relaxed); // two steps
            }
        };
        thread::scope(|scope| {
            [0; 4].map(|number| scope.spawn(move || count(number))).map(|it| it.join().unwrap())
        });
        assert_eq!(memory.word32(128).load(Relaxed), 80_000);
    }

    #[test]
    fn a_thread_that_takes_it_twice_is_told() {
        let memory = memory();
        let _guard = mutex(&memory).try_lock().unwrap();
        assert!(mutex(&memory).lock(Deadline::Never).is_err());
    }

    /// As where a waiter was killed that had just been woken, and another thread had taken the mutex before it could.
    #[test]
    fn a_waiter_that_is_not_woken_looks_for_itself() {
        let memory = memory();
        let word = memory.word64(64);
        let guard = mutex(&memory).try_lock().unwrap();
        let seen = word.fetch_or(WAITERS, SeqCst) | WAITERS;
        thread::scope(|scope| {
            let (tell, told) = mpsc::channel();
            let next_sleeps = || {
                let stat = format!("/proc/self/task/{}/stat", told.recv().unwrap());
                while !std::fs::read_to_string(&stat).unwrap().contains(") S ") {
                    thread::yield_now();
                }
            };
            let first = tell.clone();
            scope.spawn(move || {
                first.send(nix::unistd::gettid()).unwrap();
                futex::wait_low_half(word, seen, None); // and does not take it
            });
            next_sleeps();
            let memory = &memory;
            scope.spawn(move || {
                tell.send(nix::unistd::gettid()).unwrap();
                assert!(lock(memory, Deadline::Never).is_some());
            });
            next_sleeps();
            drop(guard); // wakes the first
            drop(mutex(memory).try_lock());
        });
    }

    #[test]
    fn a_mutex_whose_holder_has_ended_goes_to_the_next() {
        let memory = memory();
        thread::scope(|scope| {
            let forget = || std::mem::forget(mutex(&memory).try_lock().unwrap());
            scope.spawn(forget).join().unwrap();
        });
        assert!(mutex(&memory).try_lock().is_none());
        for _ in 0..2 {
            assert!(lock(&memory, Deadline::Never).is_some());
        }
    }

    #[test]
    fn in_another_namespace_a_holder_counts_as_living() {
        let memory = memory();
        memory.word64(64).store(1 << 21, Relaxed);
        let elsewhere = Mutex::at(&memory, 64, namespace() + 1);
        assert!(elsewhere.lock(Deadline::after(Duration::from_millis(20))).unwrap().is_none());
        assert!(lock(&memory, Deadline::now()).is_some());
    }

    /// Whatever a process writes there, others take the mutex or are told within their time.
    #[test]
    fn any_word_is_a_mutex() {
        let memory = memory();
        let own = ThreadId::current().bits();
        let numbers = [0, 1, 2, 0xff, 0xffff, 0xffff_ffff, 1 << 31, u64::MAX, own ^ 1 << 33, own << 1];
        for word in numbers.into_iter().flat_map(|word| [word, word | WAITERS, word << 32]) {
            memory.word64(64).store(word, Relaxed);
            assert!(lock(&memory, Deadline::Never).is_some(), "{word:x}");
        }
        memory.word64(64).store(own | WAITERS, Relaxed);
        assert!(mutex(&memory).lock(Deadline::Never).is_err());
    }

    #[test]
    fn what_is_written_over_it_stays() {
        let memory = memory();
        for word in [0, 7, u64::MAX] {
            let guard = lock(&memory, Deadline::Never).unwrap();
            memory.word64(64).store(word, Relaxed);
            drop(guard);
            assert_eq!(memory.word64(64).load(Relaxed), word);
        }
    }
}
