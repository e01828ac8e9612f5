//! A table of holders and waiters in shared memory: the whole state of a semaphore, and the waiters of a
//! condition variable and a barrier.
//!
//! Each entry names its thread (or process), so that others can check whether it lives. Entries are written
//! under the lock of the [`Shared`] memory; the word that makes an entry valid is written last, and a change
//! of state is one store. So the table is whole at every instruction at which a process can be killed. A
//! thread frees its own entry without the lock.

use std::collections::BTreeMap;

use super::shared::{SLOT, Shared, Word};
use crate::sys::atomic::{AcqRel, Acquire, Relaxed, Release};
use crate::sys::failpoint::{self, Failpoint};
use crate::sys::thread_id::{self, ThreadId};

/// The words of a slot: the holder (0 if the slot is free), the kind of entry with the process, and the
/// sequence number.
const HOLDER: usize = 0;
const KIND: usize = 8;
const SEQUENCE: usize = 16;
const _: () = assert!(SEQUENCE + 8 == SLOT);

/// What an entry says. Every number in it may be anything that another process has written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) index: usize,
    pub(super) holder: ThreadId,
    pub(super) pid: u32,
    pub(super) kind: u32,
    pub(super) sequence: u64,
}

impl Shared {
    /// The calling thread, as its entries name it.
    pub(super) fn own_thread(&self) -> ThreadId {
        ThreadId::current_and_process_in(self.namespace).0
    }

    /// The calling process, as its entries name it.
    pub(super) fn own_process(&self) -> ThreadId {
        ThreadId::current_and_process_in(self.namespace).1
    }

    /// The entries in use, the free slots left out.
    pub(super) fn entries(&self) -> impl Iterator<Item = Entry> {
        (0..self.used_slots()).filter_map(|index| self.entry(index))
    }

    fn used_slots(&self) -> usize {
        let used = self.word(Word::UsedSlots).load(Relaxed);
        usize::try_from(used).map_or(self.slots, |used| used.min(self.slots))
    }

    #[inline]
    fn entry(&self, index: usize) -> Option<Entry> {
        let holder = self.slot_word(index, HOLDER).load(Acquire);
        if holder == 0 {
            return None;
        }
        let kind = self.slot_word(index, KIND).load(Acquire);
        let sequence = self.slot_word(index, SEQUENCE).load(Acquire);
        if self.slot_word(index, HOLDER).load(Acquire) != holder {
            return None; // its holder has freed it; the rest may be another entry's
        }
        #[allow(clippy::cast_possible_truncation)] // its two halves
        let (pid, kind) = ((kind >> 32) as u32, kind as u32);
        Some(Entry { index, holder: ThreadId::from_bits(holder), pid, kind, sequence })
    }

    /// The first slot that is free, or whose entry counts as such. To be called under the lock.
    pub(super) fn free_slot(&self, is_stale: impl Fn(&Entry) -> bool) -> Option<usize> {
        (0..self.slots).find(|index| self.entry(*index).is_none_or(|entry| is_stale(&entry)))
    }

    /// How many slots are not free. Unlike [`entries`](Self::entries), it counts one that changes hands while
    /// this thread reads it without the lock.
    pub(super) fn used_count(&self) -> usize {
        (0..self.used_slots()).filter(|&index| !self.is_free(index)).count()
    }

    pub(super) fn is_free(&self, index: usize) -> bool {
        self.slot_word(index, HOLDER).load(Acquire) == 0
    }

    /// Puts an entry of this process into the first slot that is free, or whose entry counts as such. Gives
    /// `None` if no slot is. To be called under the lock.
    pub(super) fn insert(
        &self,
        holder: ThreadId,
        kind: u32,
        sequence: u64,
        is_stale: impl Fn(&Entry) -> bool,
    ) -> Option<Entry> {
        Some(self.insert_at(self.free_slot(is_stale)?, holder, kind, sequence))
    }

    /// As [`insert`](Self::insert), into a [free slot](Self::free_slot).
    pub(super) fn insert_at(&self, index: usize, holder: ThreadId, kind: u32, sequence: u64) -> Entry {
        let pid = ThreadId::current_and_process().1.number();
        // With each of the two, a thread that reads without the lock sees that the former entry is gone.
        self.slot_word(index, HOLDER).store(0, Relaxed);
        self.slot_word(index, SEQUENCE).store(sequence, Release);
        self.slot_word(index, KIND).store(u64::from(pid) << 32 | u64::from(kind), Release);
        if index >= self.used_slots() {
            self.word(Word::UsedSlots).store(index as u64 + 1, Relaxed);
        }
        self.slot_word(index, HOLDER).store(holder.bits(), Release);
        Entry { index, holder, pid, kind, sequence }
    }

    /// Gives an entry this process as the holder, and another kind. A process that is killed between the two leaves the
    /// kind. To be called under the lock.
    pub(super) fn hand_over(&self, entry: &Entry, kind: u32) -> Entry {
        let (holder, pid) = (self.own_process(), ThreadId::current_and_process().1.number());
        let entry = Entry { holder, pid, kind, ..*entry };
        self.slot_word(entry.index, HOLDER).store(holder.bits(), Release);
        failpoint::hit(Failpoint::DeliveryHandedOver);
        self.set_kind(&entry, kind);
        entry
    }

    /// The kind of an entry by now; `None` if the slot has another entry or none.
    pub(super) fn kind(&self, of: &Entry) -> Option<u32> {
        let entry = self.entry(of.index)?;
        ((entry.holder, entry.sequence) == (of.holder, of.sequence)).then_some(entry.kind)
    }

    /// Changes the kind of an entry. To be called under the lock; or, where its permits are granted, by its holder:
    /// other threads change the kinds of those that wait alone.
    pub(super) fn set_kind(&self, of: &Entry, kind: u32) {
        self.slot_word(of.index, KIND).store(u64::from(of.pid) << 32 | u64::from(kind), Release);
    }

    /// Changes the kind of an entry, unless it has changed since the entry was read; returns whether it did.
    pub(super) fn replace_kind(&self, of: &Entry, kind: u32) -> bool {
        let word = |kind: u32| u64::from(of.pid) << 32 | u64::from(kind);
        let slot = self.slot_word(of.index, KIND);
        self.kind(of).is_some() && slot.compare_exchange(word(of.kind), word(kind), AcqRel, Relaxed).is_ok()
    }

    /// Frees the slot of an entry, if it has it still.
    pub(super) fn free(&self, entry: &Entry) {
        if self.kind(entry).is_some() {
            let holder = self.slot_word(entry.index, HOLDER);
            let _ = holder.compare_exchange(entry.holder.bits(), 0, AcqRel, Relaxed);
        }
    }

    /// The next sequence number. To be called under the lock.
    pub(super) fn next_sequence(&self) -> u64 {
        self.word(Word::Sequence).fetch_add(1, Relaxed).wrapping_add(1)
    }

    /// As [`has_ended`](Self::has_ended) for one entry after the other, but asks once for each holder.
    pub(super) fn ended_holders(&self) -> impl FnMut(&Entry) -> bool {
        let mut known = BTreeMap::new();
        move |entry| *known.entry(entry.holder.bits()).or_insert_with(|| self.has_ended(entry))
    }

    /// Whether the holder of an entry has ended. Takes some microseconds.
    pub(super) fn has_ended(&self, entry: &Entry) -> bool {
        // In another namespace, threads have other numbers.
        entry.holder.has_ended() && thread_id::namespace() == self.namespace
    }
}
