//! The operating system: descriptors, shared memory, child processes, and calling a function by its place.
//!
//! This is the only floor with `unsafe` code. What it exports is safe to call with any argument, whatever another process
//! that keeps to the same code does, and whenever that dies. Four functions expect more than their types say, and each
//! says what: [`memory::Shared::look`], [`lock::Lock::at`], [`entry::Entry::at`] and [`entry::conjure`].

pub(crate) mod atomic;
pub(crate) mod clock;
pub(crate) mod entry;
pub(crate) mod eventfd;
pub(crate) mod fault;
#[cfg(multiproc_faults)]
pub(crate) mod fault_control;
pub(crate) mod fork;
pub(crate) mod futex;
pub(crate) mod limit;
pub(crate) mod lock;
pub(crate) mod memory;
pub(crate) mod original;
pub(crate) mod poll;
pub(crate) mod process;
pub(crate) mod processors;
pub(crate) mod program;
pub(crate) mod sealed;
pub(crate) mod socket;
pub(crate) mod surroundings;
