//! Locks, events and counters that processes share, and that survive whatever holds them.
//!
//! | type | for |
//! |---|---|
//! | [`Mutex`] | a value, or a slice of them, that one thread at a time may change |
//! | [`RwLock`] | a value that many threads may read, or one may change |
//! | [`Condvar`] | waiting until what a mutex guards has changed |
//! | [`Semaphore`] | as many threads at a time as there are permits |
//! | [`Event`] | a flag to set, clear and wait for |
//! | [`Barrier`] | a number of threads that wait for each other |
//! | [`Atomic`] | a number, or a slice of them, without a lock |
//! | [`Once`], [`OnceCell`] | what one process does for all |
//!
//! # When a holder dies
//!
//! A process that ends while it holds one of these, in whatever way and at whatever instruction, keeps no
//! other process waiting. Each lock says in shared memory which thread holds it. A thread that waits asks the
//! kernel at intervals whether that thread lives: first after 1 ms, and at most half a second after the last
//! time. Between two checks it sleeps in a futex. It takes the lock over from a holder that has ended. For a
//! mutex, and for a `RwLock` whose writer has ended, it gets [`LockError::Poisoned`]. Permits, and the places of
//! readers, come back without an error. Barriers, events and condition variables have no holder: a thread that waits
//! for a process that dies first, waits on.
//!
//! Threads of another PID namespace cannot be checked, so they count as living. So does a holder that executes
//! another program (`CommandExt::exec`), until that program ends. A holder that is *stopped* (SIGSTOP) keeps what
//! it has until it continues; timed calls of others end on time.
//!
//! # Handles
//!
//! Each value here is a handle of memory without a name. It can be cloned, is `Send` and `Sync`, and travels
//! as an argument and as the result of a process or task, and through a pipe and any queue but a joinable one.
//! It costs a process a descriptor and a page or more of memory. The kernel frees the memory with the last
//! handle; but a worker of a pool keeps what several items have held, as it does with
//! [slices](crate::SharedSlice#cost).
//!
//! # Bytes of other processes
//!
//! The memory can be written by all processes that have a handle, also by one that goes wrong. Whatever it
//! writes, these functions give values or errors, and a timed call ends on time. For that, all state is
//! numbers that are checked before use, and no reference to the memory is ever given out but to atomics:
//! guards are copies of the value.

pub(crate) mod deliveries;
mod permits;
mod poison;
mod shared;
mod slots;

mod atomic;
mod barrier;
mod condvar;
mod event;
mod mutex;
mod mutex_guard;
mod once;
mod rw_lock;
mod semaphore;

pub use atomic::{Atomic, AtomicContents, SharedBool};
pub use barrier::Barrier;
pub use condvar::Condvar;
pub use event::Event;
pub use mutex::{Contents, Mutex};
pub use mutex_guard::{MutexGuard, SliceGuard};
pub use once::{Once, OnceCell};
pub use poison::{LockError, LockResult, Poisoned};
pub use rw_lock::{ReadGuard, RwLock, WriteGuard};
pub use semaphore::{Permit, Semaphore};

#[cfg(test)]
mod tests;
