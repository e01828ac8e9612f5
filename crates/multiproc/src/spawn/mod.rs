//! Starts children, by executing this program again or by forking a zygote, and learns of their exits. The
//! `README.md` beside this file explains the mechanisms.

// In the parent: choose a method, prepare the bootstrap message, execute or fork, watch.
pub(crate) mod fork_server;
pub(crate) mod inline;
pub(crate) mod options;
mod prefork;
pub(crate) mod preload_server;
pub(crate) mod process_or_thread;
mod recorded_task;
pub(crate) mod spawned_child;
pub(crate) mod supervisor;

// Between the two processes.
pub(crate) mod bootstrap;
mod outcome;

// In the child, and in the zygote on both sides.
pub(crate) mod child_main;
pub(crate) mod run_task;
mod zygote;
