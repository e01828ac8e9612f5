//! Stand-ins for `multiproc::sys`: atomics, futexes, eventfds and memory under loom's control.

use std::cell::Cell;

/// A mutation of the code under test, which the models must detect.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Mutation {
    /// Release stores are relaxed: they publish the word alone, and not what was written before it.
    ReleaseToRelaxed,
    /// Acquire loads are relaxed: they see the word alone, and not what was written before it.
    AcquireToRelaxed,
    /// As the two, for words of 32 bits alone.
    Release32ToRelaxed,
    Acquire32ToRelaxed,
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

/// No model is forked.
pub(crate) mod fork_detect {
    #[derive(Clone, Copy)]
    pub(crate) struct OriginalProcess;

    impl OriginalProcess {
        pub(crate) fn current() -> Self {
            Self
        }

        #[allow(clippy::unused_self)] // as the library's
        pub(crate) fn is_current(self) -> bool {
            true
        }
    }
}

/// No model is stopped.
pub(crate) mod running_time {
    pub(crate) use std::time::Instant as RunningTime;
}

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

pub(crate) mod descriptors;

pub(crate) use descriptors::{eventfd, socket};

pub(crate) mod poll;

/// Only the memory of an unbounded channel is allocated and released.
pub(crate) mod memfd {
    use std::os::fd::OwnedFd;

    use super::mapping::SharedMapping;
    use crate::error::Result;

    #[allow(clippy::unnecessary_wraps)] // as the library has it
    pub(crate) fn allocate_range(memory: &SharedMapping, offset: usize, length: usize) -> Result<()> {
        memory.allocate_bytes(offset, length);
        Ok(())
    }

    #[allow(clippy::unnecessary_wraps)]
    pub(crate) fn try_with_capacity(length: usize) -> Result<Vec<u8>> {
        Ok(Vec::with_capacity(length))
    }

    pub(crate) fn release(memory: &SharedMapping, offset: usize, length: usize) {
        memory.release_bytes(offset, length);
    }

    /// No message is that long.
    pub(crate) const WORTH_CHECKING: usize = 1 << 20;

    pub(crate) fn has_memory(_memory: &SharedMapping, _length: usize) -> bool {
        true
    }

    pub(crate) fn read(_memfd: &OwnedFd, _length: usize, _before: &[u8]) -> Result<Vec<u8>> {
        unreachable!("a model spills no message")
    }
}

/// No time passes in a model.
pub(crate) mod clock {
    pub(crate) fn coarse_nanos() -> u64 {
        1
    }

    pub(crate) fn nanos() -> u64 {
        1
    }
}

/// No thread of a model is a child, of which the exit would be known.
pub(crate) mod recent_exits {
    use super::pidfd::Exit;

    pub(crate) fn find(_pid: u32) -> Option<(String, Exit)> {
        None
    }
}

pub(crate) mod pidfd {
    pub(crate) fn observed_exits() -> u32 {
        0
    }

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
