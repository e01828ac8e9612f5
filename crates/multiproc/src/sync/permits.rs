//! Permits that are granted in the order of the requests: a semaphore, and a read-write lock, of which a reader takes
//! one permit and a writer takes all.
//!
//! There is no count of free permits: it follows from the entries of those that hold some. So the permits of
//! a process come back as soon as its entry is removed, by whatever thread notices that the process has
//! ended.

use std::cell::Cell;

use super::shared::{Shared, Word};
use super::slots::Entry;
use crate::error::{Error, Result};
use crate::sys::atomic::{Relaxed, Release};
use crate::sys::failpoint::{self, Failpoint};
use crate::sys::poll::Deadline;
use crate::sys::thread_id::ThreadId;

/// In the kind of an entry: its permits are granted; else it waits for them.
pub(super) const GRANTED: u32 = 1 << 31;
/// In the kind of an entry: its thread has acknowledged them.
const ACKNOWLEDGED: u32 = 1 << 30;
/// The other bits of the kind: the number of permits.
const COUNT: u32 = ACKNOWLEDGED - 1;
/// After this many checks, a waiter that is not the first one checks all holders. (A quarter of a second, since
/// they come ever more rarely.)
const CHECKS: u32 = 8;

impl Entry {
    fn waits(&self) -> bool {
        self.kind & GRANTED == 0
    }

    pub(super) fn count(&self) -> u32 {
        self.kind & COUNT
    }
}

/// A request for permits.
#[derive(Clone, Copy)]
pub(super) struct Request {
    pub(super) count: u32,
    pub(super) holder: ThreadId,
    /// The thread holds permits already, so it gets these ahead of those that wait.
    pub(super) is_reentrant: bool,
}

impl Shared {
    /// Takes permits, of which there are `total`. Blocks until earlier requests are granted and enough are
    /// free; gives `None` when the deadline comes first. `on_death` is called, under the lock, for each
    /// holder that has ended, if it had acknowledged its permits.
    pub(super) fn acquire(
        &self,
        total: u32,
        request: Request,
        deadline: Deadline,
        on_death: impl Fn(&Entry),
    ) -> Result<Option<Entry>> {
        let (entry, checks) = (Cell::new(None), Cell::new(0_u32));
        let kind = || entry.get().and_then(|entry| self.kind(&entry));
        let holds = || kind().is_some_and(|kind| kind & GRANTED != 0);
        let releases = self.word(Word::Releases).load(Relaxed);
        let may_hold = || holds() || self.word(Word::Releases).load(Relaxed) != releases;
        let acquired = self.wait(deadline, may_hold, |check_holders| {
            if holds() {
                return Ok(entry.get());
            }
            if check_holders {
                checks.set(checks.get() + 1);
                let checks_all = checks.get() >= CHECKS || deadline.is_over();
                self.remove_dead(entry.get(), checks_all, deadline, &on_death)?;
            }
            let Some(guard) = self.lock_slots(deadline)? else { return Ok(None) };
            if kind().is_none() {
                let kind = request.count | if request.is_reentrant { GRANTED } else { 0 };
                entry.set(self.insert(request.holder, kind, self.next_sequence(), |_| false));
                if request.is_reentrant && entry.get().is_none() {
                    // All entries may be its own: it would wait for itself.
                    return Err(Error::invalid("too many threads hold this lock, or wait for it"));
                }
            }
            let granted = self.grant(total);
            drop(guard);
            if granted {
                self.events().notify_all();
            }
            Ok(entry.get().filter(|_| holds()))
        });
        match entry.get() {
            Some(taken) if matches!(acquired, Ok(Some(_))) => {
                self.set_kind(&taken, request.count | GRANTED | ACKNOWLEDGED);
                failpoint::hit(Failpoint::PermitsTaken);
            }
            Some(unused) => self.release(&unused), // it may have been granted permits just now
            None => {}
        }
        acquired
    }

    /// Gives back what an entry holds, or waits for.
    pub(super) fn release(&self, entry: &Entry) {
        self.free(entry);
        failpoint::hit(Failpoint::PermitsReleased);
        self.word(Word::Releases).fetch_add(1, Release);
        self.events().notify_all();
    }

    /// How many permits are free, as far as is known.
    pub(super) fn free_permits(&self, total: u32) -> u32 {
        let holders = self.entries().filter(|entry| !entry.waits());
        holders.fold(total, |free, entry| free.saturating_sub(entry.count()))
    }

    /// Grants permits to those that wait, in their order; returns whether any were granted. To be called under
    /// the lock.
    fn grant(&self, total: u32) -> bool {
        let mut free = self.free_permits(total);
        let mut is_any = false;
        for next in self.waiters() {
            if next.count() > free {
                break;
            }
            free -= next.count();
            self.set_kind(&next, next.kind | GRANTED);
            failpoint::hit(Failpoint::PermitsGranted);
            is_any = true;
        }
        is_any
    }

    /// Those that wait, in their order. They are read once: a process that overwrites entries cannot keep this
    /// thread here.
    fn waiters(&self) -> Vec<Entry> {
        let mut waiters: Vec<_> = self.entries().filter(Entry::waits).collect();
        waiters.sort_unstable_by_key(|entry| entry.sequence);
        waiters
    }

    /// Removes entries of dead threads. Only the first waiter checks the holders; the other waiters check
    /// the first waiter. So each holder is checked by one thread. A thread that has waited for long `checks_all`:
    /// the first waiter may be stopped. Where a holder is dead, all waiters are checked.
    pub(super) fn remove_dead(
        &self,
        own: Option<Entry>,
        checks_all: bool,
        deadline: Deadline,
        on_death: &impl Fn(&Entry),
    ) -> Result<()> {
        for first in self.waiters() {
            if own.is_some_and(|own| own.sequence == first.sequence) {
                break;
            }
            if !self.has_ended(&first) {
                if checks_all {
                    break;
                }
                return Ok(());
            }
            if !self.remove(&first, deadline, on_death)? {
                return Ok(());
            }
        }
        let (mut has_ended, mut has_dead_holder) = (self.ended_holders(), false);
        for entry in self.entries().filter(|entry| !entry.waits()) {
            let ended = has_ended(&entry);
            if ended && !self.remove(&entry, deadline, on_death)? {
                return Ok(());
            }
            has_dead_holder |= ended;
        }
        if !has_dead_holder {
            return Ok(());
        }
        // Waiters that were killed with it are removed together: otherwise one after the other would be granted
        // permits, and then found dead.
        for waiter in self.waiters().iter().filter(|waiter| has_ended(waiter)) {
            if !self.remove(waiter, deadline, on_death)? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Returns whether the table could be locked before the deadline.
    fn remove(&self, entry: &Entry, deadline: Deadline, on_death: &impl Fn(&Entry)) -> Result<bool> {
        let Some(_guard) = self.lock_slots(deadline)? else { return Ok(false) };
        if let Some(kind) = self.kind(entry) {
            if kind & ACKNOWLEDGED != 0 {
                on_death(&Entry { kind, ..*entry });
            }
            self.free(entry);
        }
        Ok(true)
    }
}
