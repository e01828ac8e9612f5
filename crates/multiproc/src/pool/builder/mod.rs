//! `PoolBuilder`: the options of a pool.

mod limits;
mod records;
mod state;

use std::ffi::OsStr;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_core::Serialize;
use serde_core::de::DeserializeOwned;

use super::initializers::{Run, TryRun, encode_initializer};
use super::pool_core::{Config, PoolCore};
use super::recording::RecordOptions;
use super::scheduler::Policy;
use super::state::NoState;
use crate::error::{Error, Result, TaskError, WORKER_NAME};
use crate::record::{MAX_BYTES, MAX_FILES};
use crate::spawn::inline;
use crate::spawn::options::SpawnOptions;
use crate::start_method::StartMethod;
use crate::sys::cpus::cpus;
use crate::sys::limit::effective_memory_limit;
use crate::sys::signals::with_signals_blocked;
use crate::task::RemoteFn;
use crate::task::method::RemoteInit;

/// Options for a pool. Made by [`Pool::builder`](super::Pool::builder). A number of 0 is an error of
/// [`build`](Self::build), but for [`min_workers`](Self::min_workers) and the bytes of
/// [`record_limits`](Self::record_limits).
#[must_use]
pub struct PoolBuilder<M = NoState> {
    /// Without a number, `start` asks how many CPUs there are: reading that takes as long as a fork.
    workers: Option<usize>,
    pub(super) config: Config,
    initializer: Result<()>,
    kind: PhantomData<fn(M)>,
}

const SHUTDOWN: Duration = Duration::from_secs(2);
/// Longer than loading a large model takes.
const INITIALIZER: Duration = Duration::from_secs(600);

impl PoolBuilder {
    pub(super) fn new() -> Self {
        let policy = Policy {
            name: WORKER_NAME.to_owned(),
            workers: 0,
            idle_timeout: None,
            min_workers: 0,
            chunk_size: None,
            max_tasks: None,
            max_growth: None,
            shutdown_timeout: SHUTDOWN,
            memory_limit: None,
            initializer_timeout: INITIALIZER,
            initializers: Vec::new(),
            recording: None,
        };
        let config = Config {
            options: SpawnOptions::default(),
            policy,
            preload: Vec::new(),
            max_pending: None,
            record: RecordOptions { directory: None, max_files: MAX_FILES, max_bytes: MAX_BYTES },
        };
        Self { workers: None, config, initializer: Ok(()), kind: PhantomData }
    }
}

impl<M> PoolBuilder<M> {
    /// Sets the pool's name, which each of its workers has: in errors (`worker 4242 of pool "decoder" was
    /// killed by SIGKILL`), in [`current`](crate::current), before a log record and in a timeline, and (its
    /// first 15 bytes) in `ps` and `top`. By default workers are called `pool-worker`, and errors name no
    /// pool. No effect in [inline mode](Self::inline).
    ///
    /// ```
    /// multiproc::init();
    /// let pool = multiproc::Pool::builder().workers(2).name("decoder").build()?;
    /// assert_eq!(pool.apply(|| multiproc::current().name().to_owned(), ())?, "decoder");
    /// let error = pool.apply(|| -> () { std::process::abort() }, ()).unwrap_err();
    /// assert!(error.to_string().contains("of pool \"decoder\" was killed by SIGABRT"), "{error}");
    /// # Ok::<(), multiproc::Error>(())
    /// ```
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.config.policy.name = name.into();
        self
    }

    /// Each worker runs `function` before any task; by default nothing. Its result is dropped, an `Err`, too: one that
    /// can fail belongs in [`try_initializer`](Self::try_initializer). If it panics, or takes longer than the
    /// [`initializer_timeout`](Self::initializer_timeout), every call of the pool returns that error. If it ends its
    /// worker, the pool tries others, and fails after 20 in a row.
    ///
    /// ```
    /// use multiproc::Pool;
    /// use std::sync::OnceLock;
    ///
    /// static FACTOR: OnceLock<u32> = OnceLock::new();
    ///
    /// multiproc::init();
    /// let set = |factor: u32| drop(FACTOR.set(factor));
    /// let pool = Pool::builder().workers(2).initializer(set, (10,)).build()?;
    /// let scale = |number: u32| number * FACTOR.get().copied().unwrap_or(0);
    /// assert_eq!(pool.map(scale, [1, 2, 3])?, [10, 20, 30]);
    /// # Ok::<(), multiproc::Error>(())
    /// ```
    pub fn initializer<F, Args>(self, function: F, args: Args) -> Self
    where
        F: RemoteFn<Args>,
        Args: Serialize + DeserializeOwned,
    {
        self.run_first(Run::new(function), &args)
    }

    /// As [`initializer`](Self::initializer), for a function that may fail: its error is that of every call.
    ///
    /// ```
    /// use multiproc::{Pool, TaskError};
    /// use std::path::PathBuf;
    ///
    /// fn enter(directory: PathBuf) -> Result<(), TaskError> {
    ///     Ok(std::env::set_current_dir(directory)?)
    /// }
    ///
    /// fn main() -> multiproc::Result<()> {
    ///     multiproc::init();
    ///     let pool = Pool::builder().workers(2).try_initializer(enter, (PathBuf::from("/missing"),)).build()?;
    ///     let error = pool.apply(|| 7, ()).unwrap_err();
    ///     assert!(error.to_string().contains("No such file"), "{error}");
    ///     Ok(())
    /// }
    /// ```
    pub fn try_initializer<F, Args, E>(self, function: F, args: Args) -> Self
    where
        F: RemoteInit<Args, State = std::result::Result<(), E>>,
        Args: Serialize + DeserializeOwned,
        TaskError: From<E>,
    {
        self.run_first(TryRun::new(function), &args)
    }

    fn run_first<F, Args>(mut self, function: F, args: &Args) -> Self
    where
        F: RemoteFn<Args, Output = Result<()>>,
        Args: Serialize + DeserializeOwned,
    {
        match encode_initializer(function, args) {
            Ok(initializer) => self.config.policy.initializers.push(initializer),
            Err(error) => self.initializer = Err(error),
        }
        self
    }

    /// The last initializer makes the state.
    fn makes_state(mut self) -> Self {
        self.config
            .policy
            .initializers
            .iter_mut()
            .last()
            .into_iter()
            .for_each(|last| last.makes_state = true);
        self
    }

    /// Limits the time from a worker's start until its [initializer](Self::initializer) has returned. At the
    /// limit the worker is killed, and every call of the pool returns an error that says so. The default is
    /// 10 minutes; without an initializer the limit has no effect.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// multiproc::init();
    /// let hang = || std::thread::sleep(Duration::from_secs(3600));
    /// let limit = Duration::from_millis(100);
    /// let builder = multiproc::Pool::builder().workers(2);
    /// let pool = builder.initializer(hang, ()).initializer_timeout(limit).build()?;
    /// let error = pool.apply(|| (), ()).unwrap_err();
    /// assert!(error.is_start());
    /// assert!(error.to_string().contains("its initializer did not return within 0.1 s"));
    /// # Ok::<(), multiproc::Error>(())
    /// ```
    pub fn initializer_timeout(mut self, time: Duration) -> Self {
        self.config.policy.initializer_timeout = time;
        self
    }

    /// Limits the time until a worker reaches [`init`](crate::init()), which is before its
    /// [initializer](Self::initializer). The default is 10 seconds.
    pub fn start_timeout(mut self, time: Duration) -> Self {
        self.config.options.timeout = time;
        self
    }

    /// Sets the start method of the workers. The default is [`StartMethod::default`].
    pub fn start_method(mut self, method: StartMethod) -> Self {
        self.config.options.method = Some(method);
        self
    }

    /// Sets a variable of the workers' environment, which is otherwise this process's when a worker starts. A
    /// worker has it from its first instruction, so it reaches what reads the environment once, as math
    /// libraries do for their number of threads. Therefore the workers are executed also under
    /// [`StartMethod::ForkServer`]; only a [`preload`](Self::preload) is forked, from a process with the
    /// variable. No effect in [inline mode](Self::inline).
    ///
    /// A name that is empty or holds `=`, and a zero byte, are an error of [`build`](Self::build).
    ///
    /// ```
    /// multiproc::init();
    /// let pool = multiproc::Pool::builder().workers(2).env("OMP_NUM_THREADS", "1").build()?;
    /// assert_eq!(pool.apply(|| std::env::var("OMP_NUM_THREADS").ok(), ())?.as_deref(), Some("1"));
    /// # Ok::<(), multiproc::Error>(())
    /// ```
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.config.options.environment.change(name.as_ref(), Some(value.as_ref()));
        self
    }

    /// Removes a variable from the workers' environment. See [`env`](Self::env).
    pub fn env_remove(mut self, name: impl AsRef<OsStr>) -> Self {
        self.config.options.environment.change(name.as_ref(), None);
        self
    }

    /// Whether tasks run in this process, so that a debugger or a profiler that watches this process sees
    /// them. By default, if the environment variable `MULTIPROC_INLINE` is `1`; it concerns the whole program.
    ///
    /// A task runs in the thread that submits it, below the call in its stack, and one after the other:
    /// [`submit`](super::Pool::submit) returns when it has run, and a lazy call runs items in `next`. Several
    /// threads that use one pool run their tasks at the same time. There is no worker, and
    /// [`workers`](Self::workers) has no effect. Arguments and results are encoded and decoded as for a
    /// worker, and a panic is an error of its task. Different are:
    ///
    /// - [`current`](crate::current) and statics are this process's. [`at_start`](crate::at_start) has no
    ///   effect;
    /// - the initializer runs once, in [`build`](Self::build), and a
    ///   [broadcast](super::Pool::broadcast) in its caller;
    /// - each thread that uses the pool makes a [state](Self::state) of its own, the first one in `build`. The
    ///   thread that drops the pool drops its state then. Another one drops its state when it ends, or when it
    ///   makes that of another pool;
    /// - a [time limit](super::CallOptions::timeout) is an error of the call, and a
    ///   [memory limit](Self::memory_limit) one of [`build`](Self::build). There is nothing to
    ///   [cancel](super::TaskHandle::cancel), to [retry](super::CallOptions::retries) or to replace;
    /// - a crash or an `exit` in a task ends the whole program. Before an exit, a message on standard error
    ///   says so;
    /// - a task that waits for its caller, or for another task of the same thread, waits without end.
    ///
    /// ```
    /// multiproc::init();
    /// let pool = multiproc::Pool::builder().inline(true).build()?;
    /// assert_eq!(pool.apply(std::process::id, ())?, std::process::id());
    /// # Ok::<(), multiproc::Error>(())
    /// ```
    pub fn inline(mut self, inline: bool) -> Self {
        self.config.options.inline = Some(inline);
        self
    }

    /// Limits the time that dropping or terminating the pool takes. The default is 2 seconds.
    pub fn shutdown_timeout(mut self, time: Duration) -> Self {
        self.config.policy.shutdown_timeout = time;
        self
    }

    /// Starts the workers and the pool's thread; in inline mode there is neither.
    pub(super) fn start(mut self) -> Result<(Arc<PoolCore>, Option<JoinHandle<()>>)> {
        self.initializer?;
        let Policy { workers, chunk_size, max_tasks, max_growth, memory_limit, .. } = &mut self.config.policy;
        *workers = self.workers.unwrap_or_else(cpus);
        *memory_limit = memory_limit.map(effective_memory_limit);
        for (option, is_zero) in [
            ("workers", *workers == 0),
            ("chunk_size", *chunk_size == Some(0)),
            ("max_tasks_per_worker", *max_tasks == Some(0)),
            ("max_growth_per_worker", *max_growth == Some(0)),
            ("memory_limit", *memory_limit == Some(0)),
            ("max_pending", self.config.max_pending == Some(0)),
            ("record_limits: files", self.config.record.max_files == 0),
        ] {
            if is_zero {
                return Err(Error::invalid(format!("`{option}` must be at least 1")));
            }
        }
        if self.config.options.is_inline()? {
            if memory_limit.is_some() {
                return Err(inline::unsupported("cannot limit a worker's memory"));
            }
            return Ok((PoolCore::start_inline(self.config)?, None));
        }
        self.config.options.fix_method()?;
        if !self.config.preload.is_empty() {
            self.config.options.check_can_preload()?;
        }
        let core = PoolCore::start(self.config)?;
        let runner = Arc::clone(&core);
        let thread = thread::Builder::new().name("mp-pool".to_owned());
        match with_signals_blocked(|| thread.spawn(move || runner.run())) {
            Ok(thread) => Ok((core, Some(thread))),
            Err(error) => {
                core.abort();
                Err(Error::io("start a pool's thread", &error))
            }
        }
    }
}

impl<M> fmt::Debug for PoolBuilder<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolBuilder").field("workers", &self.workers).finish_non_exhaustive()
    }
}
