//! `Condvar`: a condition variable between processes.

use std::fmt;
use std::time::Duration;

use bytemuck::Pod;

use super::mutex_guard::MutexGuard;
use super::poison::LockResult;
use super::shared::{Shared, Word, impl_serde_shared};
use super::slots::Entry;
use crate::error::{Error, Result};
use crate::sys::atomic::{Acquire, Relaxed, Release};
use crate::sys::failpoint::{self, Failpoint};
use crate::sys::poll::Deadline;

/// Lets threads of any processes wait until the value of a [`Mutex`](super::Mutex) has changed: Python's
/// `Condition`.
///
/// If a notified waiter is killed, the next one is notified. If a notifier is killed, each waiter has been
/// notified or not. Both are noticed within half a second. As in the
/// standard library, a wait may end without a notification, so it stands in a loop, which
/// [`wait_while`](Self::wait_while) is. Up to 1024 threads can wait at a time. Clones are handles of the same
/// condition variable; a clone travels as an argument of a process or task, and through a pipe.
///
/// ```
/// use multiproc::{Process, sync::{Condvar, Mutex}};
///
/// fn finish(steps: Mutex<u32>, changed: Condvar) -> multiproc::Result<()> {
///     *steps.lock()? += 1;
///     changed.notify_one();
///     Ok(())
/// }
///
/// fn main() -> multiproc::Result<()> {
///     multiproc::init();
///     let (steps, changed) = (Mutex::new(0)?, Condvar::new()?);
///     let child = Process::spawn(finish, (steps.clone(), changed.clone()))?;
///     let steps = changed.wait_while(steps.lock()?, |steps| *steps < 1)?;
///     assert_eq!(*steps, 1);
///     child.join()?
/// }
/// ```
#[derive(Clone)]
pub struct Condvar {
    pub(super) shared: Shared,
}

impl_serde_shared!(Condvar { shared }: 0, Some(0));

const WAITERS: usize = 1024;
/// The kinds of entries.
const WAITS: u32 = 0;
pub(super) const NOTIFIED: u32 = 1;
/// Its thread waits no longer, and was not notified.
const LEAVES: u32 = 2;

impl Condvar {
    /// Makes a condition variable.
    ///
    /// # Errors
    /// When the kernel refuses a descriptor or the memory.
    pub fn new() -> Result<Self> {
        Ok(Self { shared: Shared::create::<()>(WAITERS, 0)? })
    }

    /// Releases the mutex, blocks until a notification, and takes the mutex again. The mutex is one of a value:
    /// for the state of a slice, keep a mutex of what is waited for beside it.
    ///
    /// # Errors
    /// Those of [`Mutex::lock`](super::Mutex::lock); and when 1024 threads wait already.
    pub fn wait<'a, T: Pod>(&self, guard: MutexGuard<'a, T>) -> LockResult<MutexGuard<'a, T>> {
        self.wait_until(guard, Deadline::Never, &mut false)
    }

    /// Blocks as [`wait`](Self::wait) while `condition` holds of the value; returns at once if it does not.
    ///
    /// # Errors
    /// Those of [`wait`](Self::wait).
    pub fn wait_while<'a, T: Pod>(
        &self,
        mut guard: MutexGuard<'a, T>,
        mut condition: impl FnMut(&mut T) -> bool,
    ) -> LockResult<MutexGuard<'a, T>> {
        while condition(&mut guard) {
            guard = self.wait(guard)?;
        }
        Ok(guard)
    }

    /// As [`wait`](Self::wait), but waits for a notification for `time` at most. Returns also whether that
    /// was over first. To take the mutex again blocks for as long as another thread holds it and lives, as with
    /// the standard library's.
    ///
    /// # Errors
    /// Those of [`wait`](Self::wait).
    pub fn wait_timeout<'a, T: Pod>(
        &self,
        guard: MutexGuard<'a, T>,
        time: Duration,
    ) -> LockResult<(MutexGuard<'a, T>, bool)> {
        let mut has_timed_out = false;
        let guard = self.wait_until(guard, Deadline::after(time), &mut has_timed_out);
        with_flag(guard, has_timed_out)
    }

    /// As [`wait_while`](Self::wait_while), but waits for notifications for `time` at most. Returns also
    /// whether `condition` still holds. As with [`wait_timeout`](Self::wait_timeout), `time` does not cover
    /// taking the mutex again.
    ///
    /// # Errors
    /// Those of [`wait`](Self::wait).
    pub fn wait_timeout_while<'a, T: Pod>(
        &self,
        mut guard: MutexGuard<'a, T>,
        time: Duration,
        mut condition: impl FnMut(&mut T) -> bool,
    ) -> LockResult<(MutexGuard<'a, T>, bool)> {
        let deadline = Deadline::after(time);
        while condition(&mut guard) {
            if deadline.is_over() {
                return Ok((guard, true));
            }
            guard = match self.wait_until(guard, deadline, &mut false) {
                Ok(guard) => guard,
                poisoned => return with_flag(poisoned, false),
            };
        }
        Ok((guard, false))
    }

    /// Notifies a thread that waits, if any does.
    pub fn notify_one(&self) {
        self.notify(1);
    }

    /// Notifies `count` threads that wait, or all if they are fewer.
    pub fn notify(&self, count: usize) {
        let Ok(guard) = self.shared.lock_slots(Deadline::Never) else {
            return self.notify_all(); // another process has written over the memory
        };
        let mut left = count;
        for _ in 0..WAITERS {
            let Some(next) = self.next_waiter().filter(|_| left > 0) else { break };
            left -= usize::from(self.shared.replace_kind(&next, NOTIFIED)); // unless it leaves at this moment
            failpoint::hit(Failpoint::WaiterNotified);
        }
        drop(guard);
        self.shared.events().notify_all();
    }

    /// Notifies all threads that wait.
    pub fn notify_all(&self) {
        let last = self.shared.word(Word::Sequence).load(Acquire);
        self.shared.word(Word::State).fetch_max(last, Release);
        failpoint::hit(Failpoint::WaiterNotified);
        self.shared.events().notify_all();
    }

    fn wait_until<'a, T: Pod>(
        &self,
        guard: MutexGuard<'a, T>,
        deadline: Deadline,
        has_timed_out: &mut bool,
    ) -> LockResult<MutexGuard<'a, T>> {
        let Some(entry) = self.add_waiter(deadline)? else {
            *has_timed_out = true;
            return Ok(guard);
        };
        let mutex = guard.shared();
        failpoint::hit(Failpoint::WaiterAdded);
        drop(guard);
        let is_notified = || self.is_notified(&entry);
        let waited = self.shared.wait(deadline, is_notified, |check_holders| {
            if check_holders && !is_notified() {
                self.reassign_notifications(deadline)?;
            }
            Ok(is_notified().then_some(()))
        });
        failpoint::hit(Failpoint::WaiterWoken);
        // Its entry stays until then: the notification of a thread that is killed before goes to the next
        // one.
        let guard = MutexGuard::take(mutex, Deadline::Never);
        *has_timed_out = !self.remove_waiter(&entry);
        waited?;
        guard
    }

    /// `None` at the deadline.
    fn add_waiter(&self, deadline: Deadline) -> Result<Option<Entry>> {
        let mut is_full = false;
        loop {
            let Some(guard) = self.shared.lock_slots(deadline)? else { return Ok(None) };
            let sequence = self.shared.next_sequence();
            let is_lost = |entry: &Entry| entry.kind != NOTIFIED && self.shared.has_ended(entry);
            let is_stale = |entry: &Entry| is_full && is_lost(entry);
            match self.shared.insert(self.shared.own_thread(), WAITS, sequence, is_stale) {
                Some(entry) => return Ok(Some(entry)),
                None if is_full => return Err(Error::invalid("too many threads wait for this condition")),
                None => is_full = true,
            }
            drop(guard);
            self.reassign_notifications(deadline)?;
        }
    }

    /// Removes the entry of this thread, without the lock; returns whether it was notified. Either the exchange
    /// here takes place, or that of the thread that notifies it.
    fn remove_waiter(&self, entry: &Entry) -> bool {
        let is_notified = self.is_notified(entry) || !self.shared.replace_kind(entry, LEAVES);
        self.shared.free(entry);
        is_notified
    }

    fn is_notified(&self, entry: &Entry) -> bool {
        let all = self.shared.word(Word::State).load(Acquire);
        entry.sequence <= all || self.shared.kind(entry) != Some(WAITS)
    }

    /// The thread that waits longest and is not notified.
    fn next_waiter(&self) -> Option<Entry> {
        let all = self.shared.word(Word::State).load(Relaxed);
        let waiting = self.shared.entries().filter(|entry| entry.kind == WAITS && entry.sequence > all);
        waiting.min_by_key(|entry| entry.sequence)
    }

    /// Notifies other threads instead of those that were killed before they could wake up.
    fn reassign_notifications(&self, deadline: Deadline) -> Result<()> {
        let is_notified = |entry: &Entry| entry.kind == NOTIFIED;
        let notified = self.shared.entries().filter(is_notified);
        let dead: Vec<_> = notified.filter(|entry| self.shared.has_ended(entry)).collect();
        if dead.is_empty() {
            return Ok(());
        }
        let Some(guard) = self.shared.lock_slots(deadline)? else { return Ok(()) };
        // A process that overwrites entries cannot keep this thread here.
        let mut tries = 0..2 * WAITERS;
        for entry in dead.iter().filter(|entry| self.shared.kind(entry) == Some(NOTIFIED)) {
            while tries.next().is_some()
                && let Some(next) = self.next_waiter()
            {
                if self.shared.has_ended(&next) {
                    self.shared.free(&next);
                } else if self.shared.replace_kind(&next, NOTIFIED) {
                    break;
                }
            }
            self.shared.free(entry); // last: a notification may be repeated, and is not lost
        }
        drop(guard);
        self.shared.events().notify_all();
        Ok(())
    }
}

fn with_flag<G>(guard: LockResult<G>, flag: bool) -> LockResult<(G, bool)> {
    guard.map(|guard| (guard, flag)).map_err(|error| error.map(|guard| (guard, flag)))
}

impl fmt::Debug for Condvar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Condvar").finish_non_exhaustive()
    }
}
