//! Locks, events and counters that processes share, and that survive whatever holds them.

mod permits;
mod poison;
mod shared;
mod slots;

mod atomic;
mod event;
mod mutex;
mod semaphore;

pub use atomic::{Atomic, AtomicContents, SharedBool};
pub use event::Event;
pub use mutex::{Contents, Mutex, MutexGuard, SliceGuard};
pub use poison::{LockError, LockResult, Poisoned};
pub use semaphore::{Permit, Semaphore};
