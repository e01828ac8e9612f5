//! Servers: a process that owns a state, on which any process calls methods.
//!
//! A [`Server`] is what Python calls a manager's object, Ray an actor and Elixir a `GenServer`. The state is made in
//! the server's process and stays there, so it need not be [`Serialize`]: a connection to a database, a cache,
//! a model. Handles travel to any process.
//!
//! ```
//! use multiproc::{Process, Result, Server};
//!
//! struct Counter(u64);
//!
//! impl Counter {
//!     fn new(start: u64) -> Self {
//!         Self(start)
//!     }
//!
//!     fn add(&mut self, number: u64) -> u64 {
//!         self.0 += number;
//!         self.0
//!     }
//! }
//!
//! fn count(counter: Server<Counter>) -> Result<u64> {
//!     counter.call(Counter::add, (10,))
//! }
//!
//! fn main() -> Result<()> {
//!     multiproc::init();
//!     let counter = Server::spawn(Counter::new, (0,))?;
//!     assert_eq!(counter.call(Counter::add, (3,))?, 3);
//!     let later = counter.submit(Counter::add, (4,))?;
//!     let child = Process::spawn(count, (counter.clone(),))?;
//!     assert_eq!(child.join()??, 17);
//!     assert_eq!(later.get()?, 7);
//!     Ok(())
//! }
//! ```
//!
//! # Order
//!
//! Calls run one at a time. Those of one thread run in its order; those of several interleave. So a method that
//! calls its own server would wait for itself, which is an error (`EDEADLK`); [`wait_any`](crate::wait_any()) does
//! not notice it. **Two servers whose methods call each other can wait for each other without end**: give one of the
//! calls a [time limit](Server::call_timeout). A server whose state holds a handle of the server itself does not end
//! with the last other handle: [`stop`](Server::stop) it.
//!
//! # Death
//!
//! The server is a child of the process that spawned it, and ends with that. When it dies, the running call and
//! all that wait are errors that say of what it died and in which method; with
//! [`restart`](ServerBuilder::restart), only the running call is. A call runs at most once. A caller that dies
//! disturbs no other; its calls that the server has received still run.
//!
//! # Panics
//!
//! A panic in a method is the error of that call. The state may be half changed, so it is *poisoned*, as by a
//! panic of a thread that holds a [`std::sync::Mutex`]: later calls are [`Error::is_poisoned`] errors that name the
//! method, until [`Server::clear_poison`]. With [`restart`](ServerBuilder::restart) the state is made again
//! instead.
//!
//! # The end
//!
//! When the last handle is gone, in whatever process and whether it was dropped or killed with its process, the
//! server runs the calls that wait, drops the state and ends. [`Server::stop`] ends it earlier and returns the
//! state. A handle within the server's own state keeps the server alive until it is stopped.
//!
//! # Cost
//!
//! A server is a process, and a sleeping thread in the one that spawned it. Each process that calls it holds
//! nine descriptors, and the server four for each.
//!
//! [`Error::is_poisoned`]: crate::Error::is_poisoned
//! [`Serialize`]: serde_core::Serialize

mod builder;
mod call_handle;
mod connection;
mod death;
mod handle;
mod inbox;
mod message;
mod monitor;
mod replies;
mod server_main;
mod status_page;
mod transfer;

pub use self::builder::ServerBuilder;
pub use self::call_handle::CallHandle;
pub use self::handle::Server;
pub use self::monitor::Limit;
