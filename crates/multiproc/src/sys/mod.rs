//! The kernel and the C library behind safe functions: the only folder with `unsafe` code.
//!
//! Each function is safe to call with any argument, whatever another process that runs the same code does,
//! and whenever that dies. Three expect more than their types say, and each says what:
//! [`mapping::SharedMapping::with_bytes`], [`entry::Entry::at`] and [`entry::zst_instance`].

#[cfg(feature = "trace")]
pub(crate) mod ancestors;
pub(crate) mod at_exit;
pub(crate) mod atomic;
pub(crate) mod clock;
pub(crate) mod coverage;
pub(crate) mod cpus;
pub(crate) mod crash_handler;
pub(crate) mod entry;
pub(crate) mod environment;
pub(crate) mod eventfd;
pub(crate) mod exec;
pub(crate) mod failpoint;
#[cfg(multiproc_faults)]
pub(crate) mod failpoint_control;
pub(crate) mod fork;
pub(crate) mod fork_detect;
pub(crate) mod futex;
pub(crate) mod huge_pages;
pub(crate) mod immutable;
pub(crate) mod inherited_state;
pub(crate) mod inline_exit_warning;
pub(crate) mod limit;
pub(crate) mod liveness_checks;
pub(crate) mod mapping;
pub(crate) mod membarrier;
pub(crate) mod memfd;
pub(crate) mod mutex;
pub(crate) mod output;
pub(crate) mod parent_death;
pub(crate) mod pidfd;
pub(crate) mod poll;
pub(crate) mod private_mutex;
pub(crate) mod privileges;
pub(crate) mod process;
pub(crate) mod process_local;
mod program;
pub(crate) mod recent_exits;
pub(crate) mod running_time;
pub(crate) mod shared_words;
pub(crate) mod signals;
pub(crate) mod socket;
pub(crate) mod start_socket;
pub(crate) mod stdio;
pub(crate) mod thread_id;
mod weak;
pub(crate) mod writable;
