//! `Event`: a manual-reset event between processes.

use std::fmt;
use std::time::Duration;

use super::shared::{Shared, Word, impl_serde_shared};
use crate::error::Result;
use crate::ipc::ring::just_before_overflow;
use crate::sys::atomic::{AcqRel, Acquire, Relaxed, Release};
use crate::sys::failpoint::{self, Failpoint};
use crate::sys::poll::Deadline;

/// A flag that threads of any processes set, clear and wait for, as Python's `Event`.
///
/// Clones are handles of the same event; a clone travels as an argument of a process or task, and through a
/// pipe.
///
/// ```
/// use multiproc::{Process, sync::Event};
///
/// fn main() -> multiproc::Result<()> {
///     multiproc::init();
///     let start = Event::new()?;
///     let child = Process::spawn(|start: Event| start.wait(), (start.clone(),))?;
///     start.set();
///     child.join()?;
///     assert!(start.is_set());
///     Ok(())
/// }
/// ```
#[derive(Clone)]
pub struct Event {
    shared: Shared,
}

impl_serde_shared!(Event { shared }: 0, Some(0));

/// In the state, beside the number of times that the event was set.
const SET: u64 = 1;
const ONE: u64 = 2;

impl Event {
    /// Makes an event that is not set.
    ///
    /// # Errors
    /// When the kernel refuses a descriptor or the memory.
    pub fn new() -> Result<Self> {
        let event = Self { shared: Shared::create::<()>(0, 0)? };
        event.shared.word(Word::State).store(just_before_overflow(16).into(), Relaxed); // not set
        Ok(event)
    }

    /// Sets the event, and wakes all threads that wait for it: they return also if it is cleared at once.
    ///
    /// If this process is killed in the middle, they notice within half a second that the event is set, or it
    /// is not set.
    pub fn set(&self) {
        // One that is set is written all the same: a thread that clears it sees what was done before this call.
        let set = |state: u64| Some(if state & SET == 0 { state.wrapping_add(ONE) | SET } else { state });
        let _ = self.shared.word(Word::State).fetch_update(Release, Relaxed, set);
        failpoint::hit(Failpoint::EventSet);
        self.shared.events().notify_all();
    }

    /// Clears the event: later calls of [`wait`](Self::wait) block.
    ///
    /// This thread sees what was done before the calls of [`set`](Self::set) that it has cleared. So a loop that
    /// waits, clears and then looks for what is new misses nothing.
    pub fn clear(&self) {
        self.shared.word(Word::State).fetch_and(!SET, AcqRel);
    }

    /// Whether the event is set.
    pub fn is_set(&self) -> bool {
        self.state() & SET != 0
    }

    /// Blocks until the event is set; returns at once if it is.
    pub fn wait(&self) {
        self.wait_until(Deadline::Never);
    }

    /// As [`wait`](Self::wait), but blocks for `time` at most. Returns whether the event was set.
    pub fn wait_timeout(&self, time: Duration) -> bool {
        self.wait_until(Deadline::after(time))
    }

    fn wait_until(&self, deadline: Deadline) -> bool {
        let before = self.state();
        let was_set = || before & SET != 0 || self.state() != before;
        let set = self.shared.wait(deadline, was_set, |_| Ok(was_set().then_some(())));
        matches!(set, Ok(Some(())))
    }

    fn state(&self) -> u64 {
        self.shared.word(Word::State).load(Acquire)
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event").field("is_set", &self.is_set()).finish_non_exhaustive()
    }
}
