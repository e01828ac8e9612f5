//! Locks, events and counters that processes share, and that survive whatever holds them.

mod permits;
mod poison;
mod shared;
mod slots;

mod atomic;
mod barrier;
mod condvar;
mod event;
mod mutex;
mod once;
mod rw_lock;
mod semaphore;

pub use atomic::{Atomic, AtomicContents, SharedBool};
pub use barrier::Barrier;
pub use condvar::Condvar;
pub use event::Event;
pub use mutex::{Contents, Mutex, MutexGuard, SliceGuard};
pub use once::{Once, OnceCell};
pub use poison::{LockError, LockResult, Poisoned};
pub use rw_lock::{ReadGuard, RwLock, WriteGuard};
pub use semaphore::{Permit, Semaphore};
