//! Process-based parallelism, after Python's `multiprocessing`, in which no call hangs when a process dies.
//!
//! # The tour
//!
//! `main` begins with [`init()`]. A child process is the same program, executed again (or forked from a
//! process that was, see [`StartMethod`]); in it, `init` runs the task and does not return.
//!
//! - [`Process`] starts a child that calls one function. Joining it gives the function's result, or the error
//!   of which the child died.
//! - [`Pool`] keeps workers that run many tasks: [`map`](Pool::map), [`imap`](Pool::imap),
//!   [`apply`](Pool::apply), [`submit`](Pool::submit). A [call](Pool::options) may have a time limit and be
//!   tried again; a task can be [cancelled](pool::TaskHandle::cancel); a worker's memory can be
//!   [limited](pool::PoolBuilder::memory_limit).
//! - [`Server`] is a process that owns a state, on which any process calls methods.
//! - [`queue::bounded`] carries items from any processes to any processes.
//! - [`pipe()`] connects two ends, each of which sends and receives.
//! - [`SharedSlice`] is large read-only data that many processes read without a copy; [`SharedArray`] is data
//!   that they write in exclusive chunks.
//! - [`sync`] has locks, events, barriers and counters that survive the process that holds them.
//! - [`Error`] says what failed, which process died, and while doing what; [`TaskError`] carries a task's own
//!   error.
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
//! # Guarantees
//!
//! - **A function crosses by name, not by value**: it is a `fn` item or a closure that captures nothing
//!   ([`RemoteFn`]). Its arguments and its result are [serde](https://serde.rs) values and are copied.
//! - **Ownership is the protocol.** Moving an end of a queue or pipe into a child closes the parent's copy.
//!   When the last sender is dropped or killed, the receivers meet the end of the stream. No sentinel is
//!   needed.
//! - **No call waits for a dead process.** Whichever process is killed, at whichever instruction, the calls
//!   of all others return a value or an error. (A barrier, an event or a condition variable cannot know which
//!   process was to arrive, set or notify. If that one may die first, use `wait_timeout`.)
//! - **One death, one error.** A worker's death fails the one task that it was running (in a `map_reduce`, the
//!   group of items that it was merging); the pool replaces it and goes on.
//! - **A task runs at most once**, unless the caller asks for [retries](pool::CallOptions::retries).
//! - **A child never outlives its parent**, however the parent ends.
//! - **Ctrl-C is for the program's first process**, which dies with its children, or handles the signal and
//!   can still use them ([`init()`]).
//! - **A refused system call is an error** that names the operation. Nothing is left half made, and the
//!   library recovers when resources return, pools included.
//! - **Nothing is left behind**: no file, no name in shared memory, no zombie, no environment variable.
//!
//! # Names of calls that may wait
//!
//! A plain name (`send`, `recv`, `lock`, `join`) blocks until it is done. `try_…` does not wait for an item, for
//! room or for a lock: if there is none, it returns an error. While another thread is in the middle of the same
//! operation, it blocks for about 2 ms at most. `…_timeout` blocks for the given time at most. At its limit
//!
//! | call | gives |
//! |---|---|
//! | `join_timeout` of a process, `get_timeout` of a task or of a call of a server | `Ok(None)`; a later call has the result |
//! | `next_timeout` of the results of a pool | `None`, as at their end; [`len`](ExactSizeIterator::len) or `size_hint` tells which |
//! | `join_timeout` of a pool or a [`SharedArray`], `wait_timeout` of an event | `false` |
//! | `wait_timeout` of a condition variable | its guard, and `true` |
//! | [`wait_any_timeout`] | no index |
//! | `recv_timeout`, `send_timeout`, `iter_timeout`, `call_timeout`, `lock_timeout` and others of locks and permits, `wait_timeout` of a barrier, `join_timeout` of a joinable queue | an error for which [`Error::is_timeout`] is true |
//! | `submit_timeout` of a pool or a server; `send_timeout` of an unbounded queue, which does not wait | an error for which [`Error::is_full`] is true |
//! | `try_recv` | an error for which [`Error::is_empty`] is true |
//! | `try_send`, `try_submit` | an error for which [`Error::is_full`] is true |
//! | `try_lock`, `try_read`, `try_write`, `try_acquire` | an error for which [`Error::is_timeout`] is true |
//!
//! `recv` meets the end of a stream as an error for which [`Error::is_disconnected`] is true, and an iterator
//! ends there. `try_spawn`, `try_state`, `try_preload` and `try_initializer` wait as their namesakes do:
//! there it is the function that may fail.
//!
//! # Timeline
//!
//! With the environment variable `MULTIPROC_TRACE=FILE.json`, or `start_trace`, a program writes a timeline of
//! its processes for Perfetto and Chrome (default feature `trace`).
//!
//! # Log records
//!
//! With the feature `log` (`multiproc = { …, features = ["log"] }`), what children log with the
//! [`log`](https://docs.rs/log) crate arrives in the logger of the program's first process: records of
//! processes, of workers, of their threads and of their own children; also events of `tracing` with its
//! feature `log`. Set the logger after [`init()`] and before the first child is started:
//!
#![cfg_attr(feature = "log", doc = "```")]
#![cfg_attr(not(feature = "log"), doc = "```text")]
//! use multiproc::Pool;
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     multiproc::init();
//!     env_logger::init(); // only in the first process
//!     let pool = Pool::new(2)?;
//!     pool.map(|n: u32| log::info!("{n} is odd"), [1, 3])?;
//!     drop(pool); // returns when the logger has all: [INFO app] pool-worker[4242] item 0: 1 is odd
#![cfg_attr(feature = "log", doc = "    # env_logger::check();")]
//!     Ok(())
//! }
#![cfg_attr(feature = "log", doc = include_str!("logs/doc_example_logger.md"))]
//! ```
//!
//! - The text begins with the process's name and pid, and in a worker with the index of the item in its call
//!   (with [`map_reduce`](Pool::map_reduce), of the group of items), so every logger shows them. Loggers of
//!   key-values find them as `process`, `pid` and `item`.
//! - A record is in shared memory when the macro returns, so it arrives also if its process is killed then.
//!   Records of one process keep their order.
//! - A thread of the first process (`mp-log`), and no other, calls the logger. [`Process::join`] and
//!   [`Pool::join`], and dropping or terminating a pool, return when the logger has got all that the ended
//!   processes had logged; so they take as long as the logger. But they return 1 to 2 s after the last record
//!   that the logger has taken, if it blocks, for example on a lock that the joining thread holds; and
//!   [`Process::join_timeout`] and [`Pool::join_timeout`] return when their time is over. The logger still
//!   gets these records later. Records of children that are not joined may be lost at the end of the program.
//! - A child has the [`max_level`](https://docs.rs/log/latest/log/fn.max_level.html) that the first process
//!   has when it starts the child; if that is `Off`, the child's records go nowhere. If the logger does what
//!   `RUST_LOG` says, as `env_logger` does, so does the child: what is not wanted is not sent. A logger that has
//!   other rules for some targets beside `RUST_LOG` misses what they want of a child's records, unless they raise
//!   the maximum above all levels of `RUST_LOG`.
//! - A record takes less than a microsecond in the child and never blocks on the logger. If the logger is too
//!   slow, up to 1 MiB waits for it; the number of lost records is a warning with the target `multiproc`. A
//!   text is cut at 64 KiB.
//! - A logger that the program sets before [`init()`], or by [`at_start`], is the child's own, and stays. One
//!   that an [initializer](pool::PoolBuilder::initializer) sets is refused: there is one already.
//! - The arguments of a child may hold one descriptor less than without the feature (see below).
//!
//! # Limits
//!
//! Linux 5.4 or newer, on x86-64 and aarch64. A program must be an executable of its own: code in a shared
//! library cannot be named across processes.
//!
//! Values are encoded compactly, without names. A type that reads other parts than it writes, because of
//! serde's attributes (`tag`, `untagged`, `flatten`, `skip_serializing` and others), or that inspects the
//! data (`serde_json::Value`), travels in a larger and slower encoding with names. The sender decodes such a
//! value once before sending it, and a value that would not arrive unchanged is an error that names the
//! attribute: a 128-bit number inside `tag`, `untagged` or `flatten`, a variant of an `untagged` enum that an
//! earlier one matches, or a left-out field without `default`. A field with `#[serde(skip)]` arrives as its default.
//! To detect such types, a process once decodes and encodes made-up values of each type that it sends, so
//! `Deserialize` should have no side effects, and should give an error for a value that it refuses: a panic there is
//! caught, but its message is printed, and with `panic = "abort"` it ends the program. A hand-written `Serialize` and
//! `Deserialize` must have the same parts in the same order. A value may be 128 levels deep (structs, tuples,
//! sequences, maps, options and variants inside one another), which does not overflow a stack. Numbers, text and
//! vectors of numbers, alone or as the only argument, are copied as they are.
//!
//! The arguments of a child or task, or a message of a pipe, may hold at most 42 ends of pipes, or 63 ends of
//! queues, or 252 [`SharedSlice`]s: the kernel passes at most 253 descriptors at once. More are an error.
//!
//! A closure that captures only zero-sized values counts as capturing nothing. Do not capture a token that
//! proves something done in the parent ("the device is open"), which is not true in the child. This is the
//! one exception to soundness; [`RemoteFn`] says more.
//!
//! A program holds one copy of this library in one version; cargo refuses two.
//!
//! If a program ignores SIGCHLD, or waits for children that it has not started, errors can say only that a
//! child ended, not how.
//!
//! A program that adopts orphans (the first process of a container, or a subreaper) also gets the fork server
//! of a child that was killed or has called `exit`, and grandchildren that end after their parent. It has to
//! wait for them itself, as for any other orphan.
//!
//! The library does not fork the running program; [`StartMethod`] says why.

#![warn(missing_docs)]

#[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))))]
compile_error!(
    "multiproc runs on Linux, on x86-64 and aarch64: it is built on pidfds, memfds and parent-death signals"
);

// Highest first: a module uses only those below it.
#[cfg(feature = "async")]
mod receiver_stream;

mod process_future;
mod wait;

mod fd;
mod init;
mod pipe;
mod process;
mod process_info;
pub mod queue;
mod shared_array;

mod shared_slice;

mod mapping_cache;

mod replay;

pub mod pool;

pub mod server;

pub mod sync;

mod channel;

mod spawn;
mod start_method;

mod callback_thread;
mod record;

mod task;

#[cfg_attr(not(feature = "log"), path = "logs/off.rs")]
mod logs;

#[cfg_attr(not(feature = "trace"), path = "trace/off.rs")]
mod trace;

mod ipc;

mod codec;

#[allow(unsafe_code)] // the only folder that may
mod sys;

mod error;

mod impl_serde;

#[cfg(test)]
mod handle_fuzz;
#[cfg(test)]
mod testing;

/// Failpoints, which the fault suite controls.
#[cfg(multiproc_faults)]
pub mod failpoints {
    pub use crate::sys::failpoint::Failpoint;
    pub use crate::sys::failpoint_control::{Action, Controller, ENV_VAR, Hit, Target, now};
}

pub use error::{Backtrace, Error, ErrorKind, Frame, Result, TaskError};
pub use fd::Fd;
#[doc(hidden)]
pub use init::init_before_main;
pub use init::{at_start, init, stop_fork_server};
pub use pipe::{Connection, pipe};
pub use pool::{Pool, as_completed, is_cancelled};
pub use process::{Process, ProcessBuilder};
pub use process_future::ProcessFuture;
pub use process_info::{ProcessInfo, active_children, current, parent};
#[cfg(feature = "async")]
pub use receiver_stream::ReceiverStream;
pub use server::Server;
pub use shared_array::{ArrayChunk, SharedArray};
pub use shared_slice::{Pod, SharedSlice};
pub use start_method::{StartMethod, set_start_method};
pub use task::RemoteFn;
pub use task::method::{RemoteInit, RemoteMethod};
#[cfg(feature = "trace")]
pub use trace::start_trace;
pub use wait::{Waitable, wait_any, wait_any_timeout};
