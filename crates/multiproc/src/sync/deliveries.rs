//! Items in shared memory until they are acknowledged: the state of a joinable queue.
//!
//! Each item has a slot, and its bytes a place of their own after the header. A slot says whether the item is
//! queued or which process has taken it. The item's bytes are written before its slot, and each change of state
//! is one store; so a process that is killed leaves an item queued, taken, or gone. An item that an ended
//! process has taken is found by the threads that wait.
//!
//! A process ends or gives up what it has taken without the lock, so neither can block, whatever another
//! process has written into the lock's word.

use serde_core::de::Error as _;
use serde_core::{Deserialize, Deserializer, Serialize, Serializer};

use super::shared::{Shared, Word};
use super::slots::Entry;
use crate::error::{Cause, Error, Origin, Result};
use crate::sys::atomic::{Relaxed, Release};
use crate::sys::failpoint::{self, Failpoint};
use crate::sys::memfd;
use crate::sys::poll::Deadline;
use crate::sys::socket::Sent;

/// Handles of the same items, in any processes.
#[derive(Clone, Debug)]
pub(crate) struct Deliveries {
    pub(super) shared: Shared,
    /// Whether an item that was taken and not acknowledged is queued again; otherwise it is counted as lost.
    pub(crate) redelivers: bool,
}

/// An item that this process has taken.
#[derive(Debug)]
pub(crate) struct Taken(Entry);

/// The outcome of receiving.
pub(crate) enum Next {
    Item(Taken, Vec<u8>),
    TimedOut,
    Disconnected,
}

/// The memory for all items, allocated as they come.
const MEMORY: usize = 1 << 31;
pub(crate) const MAX_CAPACITY: u32 = 65_536;
const PAGE: usize = 4096;
/// The bytes before an item: its length.
const LENGTH: usize = 8;
/// The memory of an item above this size (bytes) is given back once the item is acknowledged.
const KEPT: usize = 64 * 1024;

/// The kind of an entry: queued or taken, then also acknowledged; and above these bits how often the item was
/// taken.
const TAKEN: u32 = 1;
const ACKNOWLEDGED: u32 = 2;
const ATTEMPT: u32 = 4;

impl Serialize for Deliveries {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (&self.shared, self.redelivers).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Deliveries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (Places(shared), redelivers) = Deserialize::deserialize(deserializer)?;
        Ok(Self { shared, redelivers })
    }
}

/// The memory of the items, checked.
struct Places(Shared);

impl<'de> Deserialize<'de> for Places {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let shared = Shared::receive_sparse(deserializer, 1)?;
        let fits = shared.length.checked_rem(shared.slots) == Some(0)
            && shared.length / shared.slots > LENGTH
            && shared.slots <= MAX_CAPACITY as usize;
        fits.then_some(Self(shared)).ok_or_else(|| D::Error::custom("its memory has another layout"))
    }
}

impl Deliveries {
    /// For a `capacity` from 1 to [`MAX_CAPACITY`].
    pub(crate) fn create(capacity: u32, redelivers: bool) -> Result<Self> {
        let capacity = capacity.clamp(1, MAX_CAPACITY) as usize;
        let place = MEMORY / capacity / PAGE * PAGE;
        Ok(Self { shared: Shared::create_sparse::<u8>(capacity, capacity * place)?, redelivers })
    }

    pub(crate) fn capacity(&self) -> usize {
        self.shared.slots
    }

    /// How many items are queued or taken. An item that changes hands meanwhile counts.
    pub(crate) fn len(&self) -> usize {
        self.shared.used_count()
    }

    /// How many items are queued, and not taken.
    pub(crate) fn queued(&self) -> usize {
        self.shared.entries().filter(|entry| !entry.is_taken()).count()
    }

    /// Whether no item is queued or taken. Without the lock, one that comes while others are counted may have
    /// been missed. `false` if the lock cannot be had before the deadline.
    fn is_empty(&self, deadline: Deadline) -> Result<bool> {
        Ok(self.len() == 0 && self.shared.lock_slots(deadline)?.is_some_and(|_guard| self.len() == 0))
    }

    /// Wakes all threads that wait for a change.
    pub(crate) fn notify(&self) {
        self.shared.word(Word::Releases).fetch_add(1, Release);
        self.shared.events().notify_all();
    }

    /// Queues an item. Blocks while there are as many as the capacity. `receivers_are_gone` says whether all receivers
    /// are gone.
    pub(crate) fn send(
        &self,
        item: &[u8],
        deadline: Deadline,
        receivers_are_gone: impl Fn() -> bool,
    ) -> Result<Sent> {
        if item.len() > self.place() - LENGTH {
            let limit = self.place() - LENGTH;
            let why = format!("{} bytes, and a joinable queue of this capacity takes {limit}", item.len());
            return Err(Error::new(Cause::Encode { what: "an item".to_owned(), why }));
        }
        let sent = self.wait(deadline, |_| {
            if receivers_are_gone() {
                return Ok(Some(Sent::Disconnected));
            }
            let Some(_guard) = self.shared.lock_slots(deadline)? else { return Ok(None) };
            Ok(self.insert(item)?.then_some(Sent::Done))
        })?;
        if matches!(sent, Some(Sent::Done)) {
            failpoint::hit(Failpoint::DeliveryQueued);
            self.notify();
        }
        Ok(sent.unwrap_or(Sent::TimedOut))
    }

    /// Takes the oldest item that is queued. Blocks while none is, until all senders are gone and all items
    /// that may come back are acknowledged.
    pub(crate) fn receive(&self, deadline: Deadline, receivers_are_gone: impl Fn() -> bool) -> Result<Next> {
        let next = self.wait(deadline, |_| {
            // Under the lock, no sender adds an item and ends between the two questions.
            let Some(_guard) = self.shared.lock_slots(deadline)? else { return Ok(None) };
            let queued = self.shared.entries().filter(|entry| !entry.is_taken());
            if let Some(oldest) = queued.min_by_key(|entry| entry.sequence) {
                let (taken, bytes) = self.take(oldest)?;
                return Ok(Some(Next::Item(taken, bytes)));
            }
            let may_come_back = self.redelivers && self.len() > 0;
            Ok((!may_come_back && receivers_are_gone()).then_some(Next::Disconnected))
        })?;
        if matches!(next, Some(Next::Item(..))) {
            failpoint::hit(Failpoint::DeliveryTaken);
        }
        Ok(next.unwrap_or(Next::TimedOut))
    }

    /// Blocks until every item is acknowledged; returns whether that was before the deadline. `receivers_are_gone` says
    /// whether all receivers are gone.
    pub(crate) fn join(&self, deadline: Deadline, receivers_are_gone: impl Fn() -> bool) -> Result<bool> {
        let joined = self.wait(deadline, |_| {
            if self.is_empty(deadline)? {
                return Ok(Some(()));
            }
            if !receivers_are_gone() {
                return Ok(None);
            }
            self.recover(deadline)?;
            if self.is_empty(deadline)? {
                return Ok(Some(()));
            }
            Err(Error::disconnected("receiver of the queue"))
        })?;
        if joined.is_some() {
            self.take_loss()?;
        }
        Ok(joined.is_some())
    }

    /// Ends an item that is dealt with.
    pub(crate) fn acknowledge(&self, taken: &Taken) {
        let Taken(entry) = taken;
        if self.length(entry.index) > KEPT && self.shared.replace_kind(entry, entry.kind | ACKNOWLEDGED) {
            failpoint::hit(Failpoint::DeliveryAcknowledged);
            self.release_memory(entry.index);
        }
        self.shared.free(entry);
        failpoint::hit(Failpoint::DeliveryFreed);
        self.notify();
    }

    /// Gives up an item that was taken: it is queued again, or counted as lost.
    pub(crate) fn give_up(&self, taken: &Taken) {
        if self.requeue_or_lose(&taken.0) {
            failpoint::hit(Failpoint::DeliveryReturned);
            self.notify();
        }
    }

    fn place(&self) -> usize {
        self.shared.length / self.shared.slots
    }

    /// How many bytes the item of a slot has, whatever stands in the memory.
    fn length(&self, index: usize) -> usize {
        let mut length = [0; LENGTH];
        self.shared.load_slice(index * self.place(), &mut length);
        usize::try_from(u64::from_ne_bytes(length)).unwrap_or(usize::MAX).min(self.place() - LENGTH)
    }

    /// To be called while the slot is not free, or under the lock.
    fn release_memory(&self, index: usize) {
        let (memory, start) = self.shared.range(index * self.place(), self.place());
        memfd::release(memory, start, self.place());
    }

    /// To be called under the lock, as `take`.
    fn insert(&self, item: &[u8]) -> Result<bool> {
        let Some(index) = self.shared.free_slot(|_| false) else { return Ok(false) };
        let start = index * self.place();
        let (memory, offset) = self.shared.range(start, LENGTH + item.len());
        // So that a lack of it is an error and no signal.
        memfd::allocate_range(memory, offset, LENGTH + item.len())
            .inspect_err(|_| self.release_memory(index))?;
        self.shared.store_slice(start, &(item.len() as u64).to_ne_bytes());
        self.shared.store_slice(start + LENGTH, item);
        self.shared.insert_at(index, self.shared.own_process(), 0, self.shared.next_sequence());
        Ok(true)
    }

    fn take(&self, oldest: Entry) -> Result<(Taken, Vec<u8>)> {
        let length = self.length(oldest.index);
        if !memfd::has_memory(self.shared.memory(), length) {
            self.release_memory(oldest.index);
            self.shared.free(&oldest);
            self.notify();
            return Err(Error::decode("an item", "its length was overwritten"));
        }
        let mut bytes = memfd::try_with_capacity(length)?;
        bytes.resize(length, 0);
        self.shared.load_slice(oldest.index * self.place() + LENGTH, &mut bytes);
        let kind = oldest.kind.wrapping_add(ATTEMPT) | TAKEN;
        Ok((Taken(self.shared.hand_over(&oldest, kind)), bytes))
    }

    /// As [`Shared::wait`], and gives up the items of processes that have ended.
    fn wait<R>(
        &self,
        deadline: Deadline,
        mut attempt: impl FnMut(bool) -> Result<Option<R>>,
    ) -> Result<Option<R>> {
        let changes = self.shared.word(Word::Releases);
        let seen = changes.load(Relaxed);
        self.shared.wait(
            deadline,
            || changes.load(Relaxed) != seen,
            |check_holders| {
                if check_holders {
                    self.recover(deadline)?;
                }
                attempt(check_holders)
            },
        )
    }

    /// Gives up the items of processes that have ended.
    pub(super) fn recover(&self, deadline: Deadline) -> Result<()> {
        let mut has_ended = self.shared.ended_holders();
        for entry in self.shared.entries().filter(Entry::is_taken) {
            if has_ended(&entry) && !self.recover_entry(&entry, deadline)? {
                break; // the lock cannot be had
            }
        }
        Ok(())
    }

    /// Returns whether it had the lock before the deadline.
    fn recover_entry(&self, entry: &Entry, deadline: Deadline) -> Result<bool> {
        let Some(guard) = self.shared.lock_slots(deadline)? else { return Ok(false) };
        if self.shared.kind(entry) != Some(entry.kind) {
            return Ok(true); // another process was first
        }
        if entry.kind & ACKNOWLEDGED != 0 {
            self.release_memory(entry.index);
            self.shared.free(entry);
        } else {
            self.requeue_or_lose(entry);
        }
        drop(guard);
        failpoint::hit(Failpoint::DeliveryReturned);
        self.notify();
        Ok(true)
    }

    /// To be called by the process that has the item, or under the lock once that has ended; returns whether
    /// the item was there.
    fn requeue_or_lose(&self, entry: &Entry) -> bool {
        failpoint::hit(Failpoint::DeliveryGivenUp);
        if self.redelivers {
            return self.shared.replace_kind(entry, entry.kind & !TAKEN);
        }
        // A process that is killed between the two has the item counted once more.
        self.add_loss(entry.pid);
        failpoint::hit(Failpoint::LossCounted);
        if self.length(entry.index) > KEPT {
            self.release_memory(entry.index);
        }
        self.shared.free(entry);
        true
    }

    /// The word of losses: the first process that lost an item, and how many items all of them have lost.
    #[allow(clippy::cast_possible_truncation)] // its low half
    fn add_loss(&self, pid: u32) {
        let losses = self.shared.word(Word::Failure);
        let mut before = losses.load(Relaxed);
        loop {
            let first = if before == 0 { u64::from(pid) << 32 } else { before };
            let after = first + u64::from(before as u32 != u32::MAX);
            match losses.compare_exchange(before, after, Relaxed, Relaxed) {
                Ok(_) => return,
                Err(now) => before = now,
            }
        }
    }

    /// An error if items were lost that no call has reported yet.
    #[allow(clippy::cast_possible_truncation)] // its two halves
    fn take_loss(&self) -> Result<()> {
        let losses = self.shared.word(Word::Failure).swap(0, Relaxed);
        if losses == 0 {
            return Ok(());
        }
        let (pid, count) = ((losses >> 32) as u32, losses as u32);
        Err(Error::new(Cause::Unacknowledged(count)).with_origin(Origin::Pid(pid)))
    }
}

impl Taken {
    /// How often the item was taken, this time included.
    pub(crate) fn attempt(&self) -> u32 {
        self.0.kind / ATTEMPT
    }

    /// Whether this process has it: not a copy of the process that was forked since.
    pub(crate) fn is_own(&self) -> bool {
        self.0.holder.is_current_process()
    }
}

impl Entry {
    fn is_taken(&self) -> bool {
        self.kind & TAKEN != 0
    }
}
