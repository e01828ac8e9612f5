//! The pool of [`multiproc`] on many hosts, through [NATS](https://nats.io) `JetStream`.
//!
//! A program that outgrows one machine changes one line: its pool comes from a [`Cluster`]. The functions, the
//! results and the errors stay.
//!
//! ```no_run
//! use multiproc_cluster::Cluster;
//!
//! fn shrink(file: String) -> usize {
//!     file.len()
//! }
//!
//! fn main() -> multiproc::Result<()> {
//!     multiproc_cluster::init(); // the first line
//!     let pool = Cluster::connect("nats://10.0.0.1:4222")?.pool("thumbnails")?;
//!     for size in pool.imap_unordered(shrink, ["a.jpg".to_owned(), "b.jpg".to_owned()]) {
//!         println!("{}", size?);
//!     }
//!     Ok(())
//! }
//! ```
//!
//! On each host the same program runs as an agent: `MULTIPROC_AGENT=nats://10.0.0.1:4222 program`. It keeps a
//! local pool of as many workers as the host has CPUs, and serves all pools of its build.
//!
//! # Guarantees
//!
//! - **The same functions, the same build.** A function crosses by its place in the program, so agents and
//!   caller run the same file; an agent with another one refuses the pool, and [`Pool::hosts`] shows it.
//! - **One result an item.** A worker that dies fails the one task it was running, in milliseconds. A *host*
//!   that dies, hangs or is cut off is given up after the [lease](ClusterBuilder::lease): others run its items.
//!   So a task begins at least once; [`HostLoss::Fail`] makes that at most once. Late results of a host that
//!   was given up are dropped.
//! - **No call waits for ever.** Whatever is killed, every handle resolves within the lease and five seconds,
//!   or while its task runs on a live host.
//! - **Nothing is left behind.** A caller's stream and objects go with its pool; if it is killed, the agents
//!   remove them after the lease.
//!
//! # Logs
//!
//! With the feature `log`, what tasks log with the crate `log` arrives in the logger of their caller, with the names
//! of host and process and the index of the item. What a task has logged is there when its pool is dropped after it
//! has seen the task's result, unless the link or the logger needs seconds for it. The agent's `RUST_LOG` says which
//! records are sent (default: `info`). Those above the caller's `log::max_level()` the agent prints on its standard
//! error, and those of a task's own processes and pools. The caller's logger is told how many were lost on the way,
//! too many or too large; the agent prints how many its workers could not hand over. What a host or a connection takes
//! with it when it ends is not counted.
//!
//! A record is of the task that its worker runs when it is logged, so a thread that a task leaves behind may log for
//! another caller's task. A program that calls [`agent()`] may set a logger of its own before that; then nothing is
//! sent, and that logger gets it all.
//!
//! # Limits
//!
//! Ends of queues and pipes, locks, and shared memory stay on their host: such arguments are an error. So is a
//! result that holds one, of its item.
//!
//! `docs/cluster.md` of the repository says how it works, and what limits it on 100 and on 10,000 hosts.

#![warn(missing_docs)]
#![warn(
    clippy::print_stderr,
    reason = "it panics where standard error refuses a line; `agent::print_line` does not"
)]

// Highest first: a module uses only those below it.
mod agent;

mod call_options;
mod cursor;
mod pool;
mod results;
mod task_handle;

mod cluster;
mod options;

mod caller;

mod payload;
mod stats;

mod connection;

mod build_id;
mod cost;
#[cfg(test)]
mod fake_broker;
mod original;
mod protocol;

#[cfg(feature = "log")]
mod log_record;

pub use agent::{AgentOptions, agent, init};
pub use async_nats::ConnectOptions;
pub use call_options::CallOptions;
pub use caller::Host;
pub use cluster::Cluster;
pub use options::{ClusterBuilder, HostLoss, Storage};
pub use pool::Pool;
pub use results::Results;
pub use stats::{HostStats, PoolStats};
pub use task_handle::{Canceller, TaskHandle};
