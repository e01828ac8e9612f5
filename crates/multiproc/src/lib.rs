//! Several processes, as Python's `multiprocessing` has them, without its hangs.
//!
//! # The tour
//!
//! Every program begins with [`init`]: a child process is the same program, executed again (or a copy of one that was,
//! see [`StartMethod`]), and there it runs its task.
//!
//! - [`Process`] starts a child that calls one function, and joins it: what the function returned, or how it died.
//! - [`Pool`] keeps workers that run many tasks: [`map`](Pool::map), [`imap`](Pool::imap), [`apply`](Pool::apply),
//!   [`submit`](Pool::submit). A [call](Pool::options) may have a time limit and be tried again; a task can be
//!   [cancelled](pool::TaskHandle::cancel); a worker's memory can be [limited](pool::PoolBuilder::memory_limit).
//! - [`queue::bounded`] carries items from any processes to any processes.
//! - [`pipe()`] connects two ends, each of which sends and receives.
//! - [`SharedSlice`] is large data that many processes read and nobody copies.
//! - [`sync`] has locks, events, barriers and counters that survive the process which holds them.
//! - [`Error`] says what failed, who died, and at what; [`TaskError`] carries a task's own error.
//!
//! ```
//! use multiproc::{Pool, Process};
//!
//! fn cube(number: u64) -> u64 {
//!     number.pow(3)
//! }
//!
//! fn main() -> multiproc::Result<()> {
//!     multiproc::init(); // the first line
//!
//!     let child = Process::spawn(cube, (4,))?;
//!     assert_eq!(child.join()?, 64);
//!
//!     let pool = Pool::new(3)?;
//!     assert_eq!(pool.map(cube, 1..=9)?, [1, 8, 27, 64, 125, 216, 343, 512, 729]);
//!     Ok(())
//! }
//! ```
//!
//! # What holds
//!
//! - **A function crosses by name, not by value**: it is a `fn` item or a closure that captures nothing ([`RemoteFn`]).
//!   Its arguments and its result are [serde](https://serde.rs) values and are copied.
//! - **Ownership is the protocol.** Moving an end of a queue or pipe into a child closes the parent's copy. The last
//!   sender gone, in whatever way, is the end for the receivers. There is no sentinel to forget.
//! - **No handle waits for the dead.** Whichever process is killed at whichever instruction, every handle that others
//!   hold comes to a value or to an error.
//! - **One death, one error.** A worker's death fails the one task that it was running; the pool replaces it and goes
//!   on.
//! - **A task runs at most once**, unless the caller asks for [retries](pool::CallOptions::retries).
//! - **A child never outlives its parent**, however the parent ends.
//! - **Ctrl-C is for the program's first process**, which dies of it and takes its children along, or handles it and
//!   can still use them ([`init`]).
//! - **What the system refuses is an error** that names the operation, nothing is left half made, and the library,
//!   pools included, recovers when resources return.
//! - **Nothing is left behind**: no file, no name in shared memory, no zombie, no mark in the environment.
//!
//! # Limits
//!
//! Linux 5.4 or newer, on x86-64 and aarch64. A program must be an executable of its own: code in a shared library
//! cannot be named across processes.
//!
//! A value whose type's attributes make it read what it does not write (`tag`, `untagged`, `flatten`,
//! `skip_serializing` and others), and one that looks at the data (`serde_json::Value`), travels in an
//! encoding with names, which is slower and larger. Before such a value is sent, the sender decodes it once:
//! one that would not arrive as it is, is an error that names the attribute. Such are a 128-bit number inside
//! of `tag`, `untagged` or `flatten`, a variant of an `untagged` enum that an earlier one fits, and a field
//! left out that has no `default`. To find out which types these are, a process reads and writes made-up
//! values of each type that it sends, once; `Deserialize` should have no effects beyond its value. A
//! `Serialize` and a `Deserialize` written by hand must have the same parts in the same order. A value may be
//! 128 levels deep (structs, tuples, sequences, maps, options and variants inside one another), so that it
//! cannot overflow a stack. Numbers, text and vectors of numbers, alone or as the only argument, are copied
//! as they are.
//!
//! The arguments of a child or task, or a message of a pipe, may hold 42 ends of pipes at most, or 63 ends of queues, or 252
//! [`SharedSlice`]s: the system takes no more than 253 descriptors at once. More are an error.
//!
//! A closure that captures only values without any size counts as capturing nothing. Do not capture one that
//! proves something done in the parent ("the device is open"): it is not true in the child. [`RemoteFn`] says
//! more of this, the one exception to soundness.
//!
//! A program holds one copy of this library in one version; cargo refuses two.
//!
//! A program that ignores SIGCHLD, or waits for children that it has not started, takes their statuses away; then an
//! error can say only that a child ended, not of what.
//!
//! A program that adopts orphans (the first process of a container, or a subreaper) gets those of its children's children
//! that end after their parent, and the fork server of a child that was killed or has called `exit`; it has to wait for them
//! itself, as for any other orphan.
//!
//! There is no start by forking the running program; [`StartMethod`] says why.

#![warn(missing_docs)]

#[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))))]
compile_error!(
    "multiproc runs on Linux, on x86-64 and aarch64: it is built on pidfds, memfds and parent-death signals"
);

// Highest first: a module uses only those below it.
mod pipe;
mod process;
pub mod queue;
mod shared_array;

mod shared_slice;

mod mapping_cache;

pub mod pool;

pub mod sync;

mod channel;

mod spawn;
mod start_method;

mod task;

mod ipc;

mod codec;

#[allow(unsafe_code)] // the only folder that may
mod sys;

mod error;

#[cfg(test)]
mod testing;

/// What is to go wrong on purpose, for the suite that tries it.
#[cfg(multiproc_faults)]
pub mod failpoints {
    pub use crate::sys::failpoint::Failpoint;
    pub use crate::sys::failpoint_control::{Action, Controller, ENV_VAR, Hit, Target, now};
}

pub use error::{Error, ErrorKind, Result, TaskError};
pub use pipe::{Connection, pipe};
pub use pool::Pool;
pub use process::{Process, ProcessBuilder, ProcessInfo, active_children, current, parent};
pub use shared_array::{ArrayChunk, SharedArray};
pub use shared_slice::{Pod, SharedSlice};
pub use spawn::child_main::{at_start, init};
pub use spawn::fork_server::stop_fork_server;
pub use start_method::StartMethod;
pub use task::RemoteFn;
