//! Permits that are given out in the order in which they were asked for: a semaphore, and a lock of which a reader
//! takes one permit and a writer takes all.
//!
//! There is no count of free permits: it follows from the entries of those that hold some. So the permits of a process
//! come back as soon as its entry is removed, by whatever thread notices that the process has ended.

use std::cell::Cell;

use super::shared::{Shared, Word};
use super::slots::Entry;
use crate::error::Result;
use crate::sys::atomic::{Relaxed, Release};
use crate::sys::failpoint::{self, Failpoint};
use crate::sys::poll::Deadline;
use crate::sys::thread_id::ThreadId;

/// In the kind of an entry: it holds its permits; else it waits for them. The rest is their number.
pub(super) const HOLDS: u32 = 1 << 31;

/// What a user of permits asks for.
#[derive(Clone, Copy)]
pub(super) struct Request {
    pub(super) count: u32,
    pub(super) holder: ThreadId,
    /// Is given permits ahead of those that wait.
    pub(super) is_urgent: bool,
}

impl Shared {
    /// Takes permits, of which there are `total`. Blocks until those before have had theirs and enough are free; gives
    /// `None` when the deadline comes first. `on_death` is told of each entry whose process has ended, under the lock.
    pub(super) fn acquire(
        &self,
        total: u32,
        request: Request,
        deadline: Deadline,
        on_death: impl Fn(&Entry),
    ) -> Result<Option<Entry>> {
        let entry = Cell::new(None);
        let kind = || entry.get().and_then(|entry| self.kind(&entry));
        let holds = || kind().is_some_and(|kind| kind & HOLDS != 0);
        let releases = self.word(Word::Releases).load(Relaxed);
        let may_hold = || holds() || self.word(Word::Releases).load(Relaxed) != releases;
        let acquired = self.wait(deadline, may_hold, |checks| {
            if holds() {
                return Ok(entry.get());
            }
            if checks {
                self.remove_dead(deadline, &on_death)?;
            }
            let Some(guard) = self.lock_slots(deadline)? else { return Ok(None) };
            if kind().is_none() {
                let kind = request.count | if request.is_urgent { HOLDS } else { 0 };
                entry.set(self.insert(request.holder, kind, self.next_ticket(), |_| false));
            }
            let has_given = self.give_out(total);
            drop(guard);
            if has_given {
                self.events().notify_all();
            }
            Ok(entry.get().filter(|_| holds()))
        });
        match entry.get() {
            Some(_) if matches!(acquired, Ok(Some(_))) => failpoint::hit(Failpoint::PermitsTaken),
            Some(unused) => self.release(&unused), // it may have been given permits just now
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
        let held = self.entries().filter(|entry| entry.kind & HOLDS != 0);
        held.fold(total, |free, entry| free.saturating_sub(entry.kind & !HOLDS))
    }

    /// Gives permits to those that wait, in their order; says whether there were any. To be called under the lock.
    fn give_out(&self, total: u32) -> bool {
        let mut free = self.free_permits(total);
        let mut given = 0;
        while given < self.slots {
            // a process that overwrites entries cannot keep this busy
            let waiting = self.entries().filter(|entry| entry.kind & HOLDS == 0);
            let next = waiting.min_by_key(|entry| entry.ticket).filter(|next| next.kind <= free);
            let Some(next) = next else { break };
            free -= next.kind;
            self.set_kind(&next, next.kind | HOLDS);
            failpoint::hit(Failpoint::PermitsGiven);
            given += 1;
        }
        given > 0
    }

    /// Removes the entries of processes that have ended.
    fn remove_dead(&self, deadline: Deadline, on_death: &impl Fn(&Entry)) -> Result<()> {
        let dead = self.dead(self.entries());
        if dead.is_empty() {
            return Ok(());
        }
        let Some(_guard) = self.lock_slots(deadline)? else { return Ok(()) };
        for entry in dead {
            if let Some(kind) = self.kind(&entry) {
                on_death(&Entry { kind, ..entry });
                self.free(&entry);
            }
        }
        Ok(())
    }
}
