//! The operating system: descriptors, shared memory, child processes, and calling a function by its place.
//!
//! This is the only floor with `unsafe` code. What it exports is safe to call with any argument, whatever another process
//! that keeps to the same code does, and whenever that dies. Three functions expect more than their types say, and each
//! says what: [`mapping::SharedMapping::with_bytes`], [`entry::Entry::at`] and [`entry::zst_instance`].

pub(crate) mod atomic;
pub(crate) mod clock;
pub(crate) mod coverage;
pub(crate) mod cpus;
pub(crate) mod entry;
pub(crate) mod eventfd;
pub(crate) mod exec;
pub(crate) mod exits;
pub(crate) mod failpoint;
#[cfg(multiproc_faults)]
pub(crate) mod failpoint_control;
pub(crate) mod fork;
pub(crate) mod fork_detect;
pub(crate) mod futex;
pub(crate) mod inherited;
pub(crate) mod limit;
pub(crate) mod mapping;
pub(crate) mod mutex;
pub(crate) mod output;
pub(crate) mod poll;
pub(crate) mod process;
pub(crate) mod sealed;
pub(crate) mod shared_words;
pub(crate) mod socket;
pub(crate) mod thread_id;
mod weak;
pub(crate) mod writable;
