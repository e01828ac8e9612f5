//! Stand-ins for `multiproc::sys`: atomics, futexes, eventfds and memory under loom's control.

use std::cell::Cell;

/// A mutation of the code under test, which the models must detect.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Mutation {
    /// Release stores are relaxed: they publish the word alone, and not what was written before it.
    ReleaseToRelaxed,
    /// Acquire loads are relaxed: they see the word alone, and not what was written before it.
    AcquireToRelaxed,
    /// Fences are left out: the notifier's, between its update and its check for waiters, and the waiter's,
    /// between announcing itself and its last check of the condition.
    NoFence,
    /// Wake-ups are left out.
    NoWake,
    /// Threads that were killed count as living.
    NoDeath,
    /// A compare-and-exchange changes nothing, and says that it did.
    NoExchange,
}

thread_local! {
    /// Loom runs all threads of a model on one thread of the test.
    static MUTATION: Cell<Option<Mutation>> = const { Cell::new(None) };
}

/// Sets the mutation for the models of this test.
pub(crate) fn set_mutation(mutation: Option<Mutation>) {
    MUTATION.set(mutation);
}

impl Mutation {
    fn is_active(self) -> bool {
        MUTATION.get() == Some(self)
    }
}

#[allow(dead_code)]
#[path = "../../../multiproc/src/sys/failpoint.rs"]
mod points;

pub(crate) mod failpoint;

pub(crate) mod atomic;

pub(crate) mod futex;

#[allow(dead_code)]
#[path = "../../../multiproc/src/sys/mutex.rs"]
pub(crate) mod mutex;

pub(crate) mod thread_id;

pub(crate) mod liveness_checks;

pub(crate) mod cpus {
    pub(crate) const YIELD_AFTER: std::time::Duration = std::time::Duration::ZERO;

    /// A model does not spin: loom already lets each load return every value that it may return.
    pub(crate) fn is_smp() -> bool {
        false
    }

    pub(crate) fn should_spin(_in_vain: u32) -> bool {
        false
    }

    pub(crate) fn spin(
        _: std::time::Duration,
        _: u32,
        _: std::time::Duration,
        _: impl FnMut() -> bool,
    ) -> bool {
        false
    }
}

/// An eventfd: `poll` waits until it is readable, and it stays readable until it is cleared.
#[derive(Debug)]
pub(crate) struct EventFd {
    readable: loom::sync::Mutex<bool>,
    change: loom::sync::Condvar,
}

impl EventFd {
    pub(crate) fn new() -> Self {
        Self { readable: loom::sync::Mutex::new(false), change: loom::sync::Condvar::new() }
    }

    pub(crate) fn notify(&self) {
        if !Mutation::NoWake.is_active() {
            *self.readable.lock().unwrap() = true;
            self.change.notify_all();
        }
    }

    pub(crate) fn poll(&self) {
        let mut readable = self.readable.lock().unwrap();
        while !*readable {
            readable = self.change.wait(readable).unwrap();
        }
    }

    pub(crate) fn clear(&self) {
        *self.readable.lock().unwrap() = false;
    }

    pub(crate) fn poll_and_clear(&self) {
        self.poll();
        self.clear();
    }
}

pub(crate) mod eventfd {
    use super::EventFd;

    pub(crate) fn notify(event: &EventFd) {
        event.notify();
    }

    pub(crate) fn clear(event: &EventFd) {
        event.clear();
    }
}

pub(crate) mod poll;

/// Frames in a model have no ancillary packets.
pub(crate) mod socket {
    use super::EventFd;

    /// The outcome of sending.
    #[derive(Clone, Copy, Debug, PartialEq)]
    pub(crate) enum Sent {
        Done,
        TimedOut,
        Disconnected,
    }

    pub(crate) fn is_surely_connected(_socket: &EventFd) -> bool {
        true
    }

    pub(crate) fn waiting_packet(_socket: &EventFd) -> Option<Vec<u8>> {
        None
    }

    pub(crate) fn discard(_socket: &EventFd) {}
}

/// Memory of a model needs no pages.
pub(crate) mod memfd {
    use super::mapping::SharedMapping;
    use crate::error::Result;

    #[allow(clippy::unnecessary_wraps)] // as the library has it
    pub(crate) fn allocate_range(_memory: &SharedMapping, _offset: usize, _length: usize) -> Result<()> {
        Ok(())
    }

    #[allow(clippy::unnecessary_wraps)]
    pub(crate) fn try_with_capacity(length: usize) -> Result<Vec<u8>> {
        Ok(Vec::with_capacity(length))
    }

    pub(crate) fn release(_memory: &SharedMapping, _offset: usize, _length: usize) {}
}

/// No thread of a model is a child, of which the exit would be known.
pub(crate) mod recent_exits {
    use super::pidfd::Exit;

    pub(crate) fn find(_pid: u32) -> Option<(String, Exit)> {
        None
    }
}

pub(crate) mod pidfd {
    #[allow(dead_code)]
    #[derive(Clone, Copy)]
    pub(crate) enum Exit {
        Code(i32),
        Signal(i32),
        Lost,
    }
}

pub(crate) mod shared_words {
    /// No model has any.
    pub(crate) trait SharedAtomic {}
}

pub(crate) mod mapping;
