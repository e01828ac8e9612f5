//! The memory that all handles of a lock share, and how a thread waits for a change in it.
//!
//! A header of words, then the data, then [slots](super::slots). Every layout is the same formula, so a
//! handle from another process is checked in one place: what the formula gives is the size of its memory.

use std::num::NonZeroUsize;
use std::time::Duration;

use bytemuck::Pod;
use nix::errno::Errno;
use serde_core::de::Error as _;
use serde_core::{Deserializer, Serialize, Serializer};

use crate::error::{Cause, Error, Result};
use crate::ipc::event_count::EventCount;
use crate::ipc::ring::just_before_overflow;
use crate::ipc::wire::SharedMemory;
use crate::ipc::wire::attachment::{self, Kind};
use crate::sys::atomic::{AtomicU32, AtomicU64, Relaxed};
use crate::sys::cpus::{YIELD_AFTER, is_smp, spin};
use crate::sys::failpoint::{self, Failpoint};
use crate::sys::liveness_checks::Checks;
use crate::sys::memfd;
use crate::sys::mutex::{Mutex, MutexGuard};
use crate::sys::poll::Deadline;
use crate::sys::shared_words::SharedAtomic;
use crate::sys::thread_id;

/// Handles of the same memory, in any processes.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    memory: SharedMemory,
    /// The [namespace](thread_id::namespace) of the process that made the memory.
    pub(super) namespace: u64,
    pub(super) slots: usize,
    /// The size of an element of the data (bytes), and their number.
    element: usize,
    pub(super) length: usize,
}

/// `Serialize` and `Deserialize` of an object that is its memory alone. It is checked as
/// [`receive`](Shared::receive) says: `impl_serde_shared!(Event { shared }: 0, Some(0))`.
macro_rules! impl_serde_shared {
    ($type:ty $(where [$($generics:tt)*])? { shared $(, $marker:ident)? }: $element:expr, $length:expr) => {
        impl<$($($generics)*)?> serde_core::Serialize for $type {
            fn serialize<S: serde_core::Serializer>(
                &self,
                serializer: S,
            ) -> std::result::Result<S::Ok, S::Error> {
                self.shared.serialize(serializer)
            }
        }

        impl<'de, $($($generics)*)?> serde_core::Deserialize<'de> for $type {
            fn deserialize<D: serde_core::Deserializer<'de>>(
                deserializer: D,
            ) -> std::result::Result<Self, D::Error> {
                let shared = Shared::receive(deserializer, $element, $length)?;
                Ok(Self { shared $(, $marker: std::marker::PhantomData)? })
            }
        }
    };
}

pub(super) use impl_serde_shared;

/// The words of the header, by their offset. Those of a mutex are in the cache line in which the data begins.
#[derive(Clone, Copy)]
pub(super) enum Word {
    State = 0,
    /// The number of releases, for waiters that spin.
    Releases = 8,
    /// The last sequence number given to an entry; of a barrier, the last round that was broken.
    Sequence = 16,
    /// Up to where slots have been used.
    UsedSlots = 24,
    /// Which thread holds the mutex: the user's, or the one that guards the slots.
    Lock = 64,
    /// The number of the thread that holds the mutex (low half), and of its process (high half) for the error
    /// when it dies.
    Owner = 72,
    /// What has left the data in an unknown state, or has broken the barrier.
    Failure = 80,
}
/// The event count's word.
const EVENTS: usize = 32;
const HEADER: usize = 88;
pub(super) const SLOT: usize = 24;

/// How long to spin before sleeping: about as long as a futex takes to wake a thread.
const SPIN: Duration = Duration::from_micros(20);
const SPINS_PER_CHECK: u32 = 64;
/// How long a call that must not block waits for a thread that changes the slots at that moment.
const TRY_LOCK_GRACE: Duration = Duration::from_millis(1);

/// The error of a call that could not take something before the deadline: without a wait, `state` says why.
pub(super) fn not_free(deadline: Deadline, state: &str, operation: &str) -> Error {
    match deadline {
        Deadline::Immediate => Error::new(Cause::NotFree(state.to_owned())),
        _ => Error::timeout(operation),
    }
}

impl Shared {
    /// Memory with `slots` slots, and data of `length` elements of type `T`. All of it is zero but some counters.
    pub(super) fn create<T>(slots: usize, length: usize) -> Result<Self> {
        let shared = Self::map_new::<T>(slots, length)?;
        shared.memory.allocate()?;
        shared.init();
        Ok(shared)
    }

    /// As [`create`](Self::create), for memory of which little will be used. Its user allocates the data; the slots lie
    /// behind it.
    pub(super) fn create_sparse<T>(slots: usize, length: usize) -> Result<Self> {
        let shared = Self::map_new::<T>(slots, length)?;
        memfd::allocate_range(&shared.memory, 0, HEADER)?;
        memfd::allocate_range(&shared.memory, shared.first_slot(), SLOT * slots)?;
        shared.init();
        Ok(shared)
    }

    fn map_new<T>(slots: usize, length: usize) -> Result<Self> {
        let element = size_of::<T>();
        let size = size(slots, element, length)
            .ok_or_else(|| Error::os("find memory for shared data", Errno::ENOMEM))?;
        let memory = SharedMemory::create(size)?.nameable()?;
        Ok(Self { memory, namespace: thread_id::namespace(), slots, element, length })
    }

    /// Sets the counters.
    fn init(&self) {
        self.event_word().store(just_before_overflow(16), Relaxed);
        for counter in [Word::Releases, Word::Sequence] {
            self.word(counter).store(just_before_overflow(16).into(), Relaxed);
        }
    }

    /// Decodes and checks it: elements of that size, and their number if it is given.
    pub(super) fn receive<'de, D: Deserializer<'de>>(
        deserializer: D,
        element: usize,
        length: Option<usize>,
    ) -> Result<Self, D::Error> {
        let shared = Self::receive_any(deserializer, element, length)?;
        let has_memory = memfd::has_memory(&shared.memory, shared.memory.size().get());
        has_memory.then_some(shared).ok_or_else(|| D::Error::custom("its memory is not there"))
    }

    /// As [`receive`](Self::receive), for what [`create_sparse`](Self::create_sparse) has made.
    pub(super) fn receive_sparse<'de, D: Deserializer<'de>>(
        deserializer: D,
        element: usize,
    ) -> Result<Self, D::Error> {
        let shared = Self::receive_any(deserializer, element, None)?;
        let has_memory = memfd::has_memory(&shared.memory, SLOT * shared.slots);
        has_memory.then_some(shared).ok_or_else(|| D::Error::custom("its memory is not there"))
    }

    fn receive_any<'de, D: Deserializer<'de>>(
        deserializer: D,
        element: usize,
        length: Option<usize>,
    ) -> Result<Self, D::Error> {
        let (memory, namespace, slots, element_sent, length_sent): (SharedMemory, _, _, _, _) =
            attachment::deserialize(Kind::Sync, deserializer)?;
        let memory = memory.nameable().map_err(D::Error::custom)?;
        let shared = Self { memory, namespace, slots, element: element_sent, length: length_sent };
        let fits = size(shared.slots, shared.element, shared.length) == Some(shared.memory.size())
            && shared.element == element
            && length.is_none_or(|length| length == shared.length);
        fits.then_some(shared).ok_or_else(|| D::Error::custom("its memory has another layout"))
    }

    #[inline]
    pub(super) fn word(&self, word: Word) -> &AtomicU64 {
        self.memory.word64(word as usize)
    }

    #[inline]
    pub(super) fn slot_word(&self, index: usize, offset: usize) -> &AtomicU64 {
        self.memory.word64(self.first_slot() + SLOT * index + offset)
    }

    pub(super) fn events(&self) -> EventCount<'_> {
        EventCount(self.event_word())
    }

    fn event_word(&self) -> &AtomicU32 {
        self.memory.word32(EVENTS)
    }

    #[inline]
    pub(super) fn mutex(&self) -> Mutex<'_> {
        Mutex::at(&self.memory, Word::Lock as usize, self.namespace)
    }

    /// An error if this thread holds the mutex: it would wait for itself.
    pub(super) fn check_not_held(&self, lock: &str) -> Result<()> {
        if !self.mutex().is_own() {
            return Ok(());
        }
        Err(Error::os(&format!("take a {lock} that this thread holds"), Errno::EDEADLK))
    }

    /// Takes the lock that guards the slots; gives `None` when that takes longer than the deadline.
    pub(super) fn lock_slots(&self, deadline: Deadline) -> Result<Option<MutexGuard<'_>>> {
        match self.mutex().try_lock() {
            Some(guard) => Ok(Some(guard)),
            None if deadline.is_over() => self.mutex().lock(Deadline::after(TRY_LOCK_GRACE)),
            None => self.mutex().lock(deadline),
        }
    }

    /// The element at an index. To be called with the type for which the memory was made; an index after the
    /// end, or another type, is a panic.
    #[inline]
    pub(super) fn load<T: Pod>(&self, index: usize) -> T {
        self.memory.load(self.offset::<T>(index, 1))
    }

    #[inline]
    pub(super) fn store<T: Pod>(&self, index: usize, value: &T) {
        self.memory.store(self.offset::<T>(index, 1), value);
    }

    pub(super) fn load_slice<T: Pod>(&self, index: usize, to: &mut [T]) {
        let offset = self.offset::<T>(index, to.len());
        self.memory.load_bytes(offset, bytemuck::cast_slice_mut(to));
    }

    pub(super) fn store_slice<T: Pod>(&self, index: usize, from: &[T]) {
        self.memory.store_bytes(self.offset::<T>(index, from.len()), bytemuck::cast_slice(from));
    }

    /// The first elements, of a type with the size for which the memory was made.
    #[inline]
    pub(super) fn atomics<A: SharedAtomic>(&self, count: usize) -> &[A] {
        self.memory.atomics(self.offset::<A>(0, count), count)
    }

    pub(super) fn memory(&self) -> &SharedMemory {
        &self.memory
    }

    /// The memory, and where a range of bytes of the data begins in it.
    pub(super) fn range(&self, start: usize, length: usize) -> (&SharedMemory, usize) {
        (&self.memory, self.offset::<u8>(start, length))
    }

    #[inline]
    fn offset<T>(&self, index: usize, count: usize) -> usize {
        let end = index.checked_add(count);
        assert!(end.is_some_and(|end| end <= self.length), "no such element");
        HEADER + index * size_of::<T>()
    }

    #[inline]
    fn first_slot(&self) -> usize {
        HEADER + (self.element * self.length).next_multiple_of(8)
    }

    /// Blocks until `attempt` gives something; gives `None` when the deadline comes first.
    ///
    /// `attempt` gets whether to check that holders live, which takes some microseconds for each holder. It
    /// is called when `is_ready`, which a short spin asks; after each notification; and at bounded intervals,
    /// since a process that dies notifies no thread.
    pub(super) fn wait<R>(
        &self,
        deadline: Deadline,
        is_ready: impl Fn() -> bool,
        mut attempt: impl FnMut(bool) -> Result<Option<R>>,
    ) -> Result<Option<R>> {
        if let Some(done) = attempt(false)? {
            return Ok(Some(done));
        }
        if is_smp()
            && !deadline.is_over()
            && spin(SPIN, SPINS_PER_CHECK, YIELD_AFTER, is_ready)
            && let Some(done) = attempt(false)?
        {
            return Ok(Some(done));
        }
        let mut intervals = Checks::begin();
        loop {
            let ticket = self.events().prepare_wait();
            let is_over = deadline.is_over();
            let check_holders = is_over || intervals.are_due();
            if let Some(done) = attempt(check_holders)? {
                return Ok(Some(done));
            }
            if is_over {
                return Ok(None);
            }
            if check_holders {
                intervals.done();
            }
            failpoint::hit(Failpoint::SyncSleeps);
            self.events().wait(ticket, Some(intervals.time(deadline)));
        }
    }
}

impl Serialize for Shared {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let parts = (&self.memory, self.namespace, self.slots, self.element, self.length);
        attachment::serialize(Kind::Sync, &parts, serializer)
    }
}

fn size(slots: usize, element: usize, length: usize) -> Option<NonZeroUsize> {
    let data = element.checked_mul(length)?.checked_next_multiple_of(8)?;
    let size = slots.checked_mul(SLOT)?.checked_add(data)?.checked_add(HEADER)?;
    NonZeroUsize::new(size).filter(|size| isize::try_from(size.get()).is_ok())
}
