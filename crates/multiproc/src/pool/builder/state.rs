//! The kind of a pool: whether its workers have a state, and what makes it.

use std::marker::PhantomData;

use serde_core::Serialize;
use serde_core::de::DeserializeOwned;

use super::PoolBuilder;
use crate::error::{Result, TaskError};
use crate::pool::initializers::{Make, Preload, TryMake, TryPreload, encode_initializer};
use crate::pool::state::State;
use crate::task::RemoteFn;
use crate::task::method::RemoteInit;

impl PoolBuilder {
    /// Gives each worker a state, which `make` returns before any task. The pool then runs functions whose
    /// first parameter is a `&mut` of it. The state stays in its worker, so it need not be
    /// [`Serialize`]; a replaced worker makes its own. A task that panics leaves the state
    /// as it is at that moment.
    ///
    /// A worker that ends because the pool does, because it is idle or surplus, or after its number of tasks, drops
    /// its state. When the pool is dropped, that may take half of the [shutdown timeout](Self::shutdown_timeout). A
    /// worker that is killed drops nothing.
    ///
    /// ```
    /// use multiproc::Pool;
    ///
    /// struct Model {
    ///     factor: u32,
    ///     predictions: u32,
    /// }
    ///
    /// impl Model {
    ///     fn load(factor: u32) -> Self {
    ///         Self { factor, predictions: 0 }
    ///     }
    ///
    ///     fn predict(&mut self, input: u32) -> u32 {
    ///         self.predictions += 1;
    ///         self.factor * input
    ///     }
    /// }
    ///
    /// fn main() -> multiproc::Result<()> {
    ///     multiproc::init();
    ///     let pool = Pool::builder().workers(2).state(Model::load, (10,)).build()?;
    ///     assert_eq!(pool.map(Model::predict, [1, 2, 3])?, [10, 20, 30]);
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    /// A panic of `make` is the error of every call of the pool.
    pub fn state<F, Args>(self, make: F, args: Args) -> PoolBuilder<State<F::State>>
    where
        F: RemoteInit<Args>,
        Args: Serialize + DeserializeOwned,
    {
        self.run_first(Make::new(make), &args).makes_state().with_kind()
    }

    /// As [`state`](Self::state), for a function that may fail: its error is that of every call.
    ///
    /// ```
    /// use multiproc::{Pool, TaskError};
    /// use std::path::PathBuf;
    ///
    /// fn load(path: PathBuf) -> Result<String, TaskError> {
    ///     Ok(std::fs::read_to_string(path)?)
    /// }
    ///
    /// fn length(text: &mut String) -> usize {
    ///     text.len()
    /// }
    ///
    /// fn main() -> multiproc::Result<()> {
    ///     multiproc::init();
    ///     let pool = Pool::builder().workers(2).try_state(load, (PathBuf::from("/missing"),)).build()?;
    ///     let error = pool.apply(length, ()).unwrap_err();
    ///     assert!(error.to_string().contains("No such file"), "{error}");
    ///     Ok(())
    /// }
    /// ```
    pub fn try_state<F, Args, S, E>(self, make: F, args: Args) -> PoolBuilder<State<S>>
    where
        F: RemoteInit<Args, State = std::result::Result<S, E>>,
        Args: Serialize + DeserializeOwned,
        S: 'static,
        TaskError: From<E>,
    {
        self.run_first(TryMake::new(make), &args).makes_state().with_kind()
    }

    /// As [`state`](Self::state), but `make` is called once, and every worker begins with a copy of its state
    /// that shares the memory until it is written (copy-on-write). So a large state takes its memory once,
    /// and a replacement has it as soon as it is forked. What a worker changes stays in that worker. If the
    /// system permits, the memory is moved into huge pages, so that a fork takes a millisecond and not a
    /// hundred; that takes about half a millisecond for each MiB, once.
    ///
    /// The function runs in a process of this pool from which its workers are forked
    /// ([`StartMethod::ForkServer`](crate::StartMethod::ForkServer)), in its first thread, which the workers do
    /// not have. Therefore the state must be `Send`, and no other thread may be left when the function returns:
    /// neither one of its own, nor one that `main` has started before [`init`](crate::init()), as
    /// `#[tokio::main]` does. What it prints or logs is lost. Should that process be killed, or the program
    /// give up privileges, the next start of a worker makes another, which calls the function again. Workers have
    /// the environment and the current directory of the pool's first start.
    ///
    /// No worker drops its copy: it would write, and so copy, all memory of it.
    ///
    /// Statics keep what the function leaves in them: a random number generator there gives all workers the
    /// same numbers. Thread-local ones are fresh.
    ///
    /// ```
    /// use multiproc::{Pool, StartMethod};
    ///
    /// fn load(size: usize) -> Vec<u64> {
    ///     (0..size as u64).map(|number| number * number).collect()
    /// }
    ///
    /// fn square(table: &mut Vec<u64>, number: usize) -> u64 {
    ///     table[number]
    /// }
    ///
    /// fn main() -> multiproc::Result<()> {
    ///     multiproc::init();
    ///     let builder = Pool::builder().workers(2).start_method(StartMethod::ForkServer);
    ///     let pool = builder.preload(load, (1000,)).build()?;
    ///     assert_eq!(pool.map(square, [1, 2, 30])?, [1, 4, 900]);
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    /// [`build`](Self::build) fails when `make` panics, crashes, or takes longer than the
    /// [`initializer_timeout`](Self::initializer_timeout); when a thread is left; and when the pool has another
    /// start method, or the system lacks what the fork server needs.
    pub fn preload<F, Args>(self, make: F, args: Args) -> PoolBuilder<State<F::State>>
    where
        F: RemoteInit<Args>,
        F::State: Send,
        Args: Serialize + DeserializeOwned,
    {
        self.preload_by(Preload::new(make), &args).with_kind()
    }

    /// As [`preload`](Self::preload), for a function that may fail: its error is that of
    /// [`build`](Self::build).
    ///
    /// ```
    /// use multiproc::{Pool, StartMethod, TaskError};
    /// use std::path::PathBuf;
    ///
    /// fn load(path: PathBuf) -> Result<String, TaskError> {
    ///     Ok(std::fs::read_to_string(path)?)
    /// }
    ///
    /// fn main() {
    ///     multiproc::init();
    ///     let builder = Pool::builder().workers(2).start_method(StartMethod::ForkServer);
    ///     let error = builder.try_preload(load, (PathBuf::from("/missing"),)).build().unwrap_err();
    ///     assert!(error.to_string().contains("No such file"), "{error}");
    /// }
    /// ```
    pub fn try_preload<F, Args, S, E>(self, make: F, args: Args) -> PoolBuilder<State<S>>
    where
        F: RemoteInit<Args, State = std::result::Result<S, E>>,
        Args: Serialize + DeserializeOwned,
        S: Send + 'static,
        TaskError: From<E>,
    {
        self.preload_by(TryPreload::new(make), &args).with_kind()
    }

    fn preload_by<F, Args>(mut self, function: F, args: &Args) -> Self
    where
        F: RemoteFn<Args, Output = Result<()>>,
        Args: Serialize + DeserializeOwned,
    {
        match encode_initializer(function, args) {
            Ok(preload) => self.config.preload.push(preload),
            Err(error) => self.initializer = Err(error),
        }
        self
    }

    fn with_kind<S>(self) -> PoolBuilder<State<S>> {
        let Self { workers, config, initializer, .. } = self;
        PoolBuilder { workers, config, initializer, kind: PhantomData }
    }
}
