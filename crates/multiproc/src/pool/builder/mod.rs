//! `PoolBuilder`: the options of a pool.

mod state;

use std::ffi::OsStr;
use std::fmt;
use std::marker::PhantomData;
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::dispatcher::{Config, Dispatcher};
use super::initializers::{Run, encode_initializer};
use super::recording::RecordOptions;
use super::scheduler::Policy;
use super::state::NoState;
use crate::error::{Error, Result};
use crate::record::{MAX_BYTES, MAX_FILES};
use crate::spawn::inline;
use crate::spawn::options::SpawnOptions;
use crate::start_method::StartMethod;
use crate::sys::cpus::cpus;
use crate::sys::limit::effective_memory_limit;
use crate::sys::signals::with_signals_blocked;
use crate::task::RemoteFn;

/// Options for a pool. Made by [`Pool::builder`](super::Pool::builder). A value of 0 is an error of
/// [`build`](Self::build).
#[must_use]
pub struct PoolBuilder<M = NoState> {
    /// Without a number, `start` asks how many CPUs there are: reading that takes as long as a fork.
    workers: Option<usize>,
    config: Config,
    initializer: Result<()>,
    kind: PhantomData<fn(M)>,
}

const SHUTDOWN: Duration = Duration::from_secs(2);
/// Longer than loading a large model takes.
const INITIALIZER: Duration = Duration::from_secs(600);

impl PoolBuilder {
    pub(super) fn new() -> Self {
        let policy = Policy {
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
    /// Sets the number of worker processes. The default is the number of CPUs that this process may use by its
    /// affinity (`taskset`) and its control group's quota, as
    /// [`available_parallelism`](std::thread::available_parallelism) counts them; counted once in a program.
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = Some(workers);
        self
    }

    /// Shuts a worker down that has had nothing to do for this long, which gives its memory back, if more
    /// than [`min_workers`](Self::min_workers) are left. A worker is started again for the next work that
    /// finds none idle. By default idle workers stay.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// multiproc::init();
    /// let pool = multiproc::Pool::builder().workers(2).idle_timeout(Duration::from_millis(20)).build()?;
    /// while !pool.worker_pids().is_empty() {
    ///     std::thread::sleep(Duration::from_millis(20));
    /// }
    /// assert_eq!(pool.map(u64::count_ones, [1, 3, 7])?, [1, 2, 3]);
    /// # Ok::<(), multiproc::Error>(())
    /// ```
    pub fn idle_timeout(mut self, time: Duration) -> Self {
        self.config.policy.idle_timeout = Some(time);
        self
    }

    /// Sets how many workers stay although they are idle, if there is an
    /// [`idle_timeout`](Self::idle_timeout). By default none does.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// multiproc::init();
    /// let builder = multiproc::Pool::builder().workers(3).min_workers(1);
    /// let pool = builder.idle_timeout(Duration::from_millis(20)).build()?;
    /// pool.map(std::thread::sleep, [Duration::from_millis(10); 30])?;
    /// while pool.worker_pids().len() > 1 {
    ///     std::thread::sleep(Duration::from_millis(20));
    /// }
    /// std::thread::sleep(Duration::from_millis(100));
    /// assert_eq!(pool.worker_pids().len(), 1);
    /// # Ok::<(), multiproc::Error>(())
    /// ```
    pub fn min_workers(mut self, workers: usize) -> Self {
        self.config.policy.min_workers = workers;
        self
    }

    /// Limits the number of submitted tasks that have no result. At the limit
    /// [`submit`](super::Pool::submit) blocks until one has, and [`try_submit`](super::Pool::try_submit)
    /// gives the arguments back. Other calls are not counted, since they take their input as they need it.
    /// Unlimited by default.
    ///
    /// ```
    /// multiproc::init();
    /// let pool = multiproc::Pool::builder().workers(1).max_pending(1).build()?;
    /// let task = pool.submit(std::thread::sleep, (std::time::Duration::from_millis(50),))?;
    /// if let Err(refused) = pool.try_submit(u64::pow, (2, 10)) {
    ///     assert!(refused.error().is_full());
    ///     assert_eq!(refused.into_item(), (2, 10));
    /// }
    /// assert_eq!(pool.submit(u64::pow, (2, 10))?.get()?, 1024); // waits until the first task is done
    /// task.get()?;
    /// # Ok::<(), multiproc::Error>(())
    /// ```
    pub fn max_pending(mut self, tasks: usize) -> Self {
        self.config.max_pending = Some(tasks);
        self
    }

    /// Sets the number of items that a worker is given at once. By default the library chooses by the cost of
    /// an item: slow items go singly, quick ones by the thousand. The results are the same in any case. Items
    /// do not wait long behind a slow one: if a worker shows no result for 5 to 10 ms, other workers take
    /// what it has not begun, ahead of later submissions.
    pub fn chunk_size(mut self, items: u32) -> Self {
        self.config.policy.chunk_size = Some(items);
        self
    }

    /// Replaces each worker after this many tasks, which frees what the tasks leak. By default a worker runs
    /// any number.
    pub fn max_tasks_per_worker(mut self, tasks: u64) -> Self {
        self.config.policy.max_tasks = Some(tasks);
        self
    }

    /// Replaces a worker, between two tasks, when its private memory has grown by more than this many bytes
    /// since its first task. So tasks that leak, or that leave the allocator with much memory, take no more
    /// than that for long; none of them fails. By default a worker may grow without end.
    ///
    /// The pool checks its workers about ten times a second while it has work. What a worker has before its
    /// first task does not count: a [state](Self::state), a [preload](Self::preload), what an initializer has
    /// loaded. So a replacement does not begin above the limit. For a bound that no task exceeds, see
    /// [`memory_limit`](Self::memory_limit).
    ///
    /// ```
    /// multiproc::init();
    /// let pool = multiproc::Pool::builder().workers(1).max_growth_per_worker(64 << 20).build()?;
    /// let leak = |mebibytes: usize| vec![1_u8; mebibytes << 20].leak().len();
    /// let first = pool.worker_pids();
    /// while pool.worker_pids() == first {
    ///     pool.apply(leak, (10,))?;
    /// }
    /// # Ok::<(), multiproc::Error>(())
    /// ```
    pub fn max_growth_per_worker(mut self, bytes: u64) -> Self {
        self.config.policy.max_growth = Some(bytes);
        self
    }

    /// Limits the private memory of each worker, in bytes. Unlimited by default. A task that needs more
    /// fails, with an error that names the limit; no other task is affected. (A Rust program that runs out of
    /// memory usually dies of SIGABRT.)
    ///
    /// The limit counts private writable memory (`RLIMIT_DATA`): the heap, the stacks of threads that a task
    /// starts, private mappings; the worker's total, not only what a task adds. It does not count shared
    /// memory ([`SharedSlice`](crate::SharedSlice) data, the bytes of large arguments and results in
    /// transit), the program's code, or files mapped for reading. `RLIMIT_AS` would count those, and also
    /// reserved memory that is never used.
    ///
    /// The limit is in force before the initializer, and the children of a worker inherit it, each for
    /// itself. If it leaves a worker less than 1 MiB, every call fails with an error that says so. A stricter
    /// limit of this program stays in force.
    ///
    /// ```
    /// multiproc::init();
    /// let pool = multiproc::Pool::builder().workers(2).memory_limit(64 << 20).build()?;
    /// let results = pool.map_results(|mebibytes: usize| vec![1_u8; mebibytes << 20].len(), [1, 500, 2])?;
    /// assert!(results[0].is_ok() && results[2].is_ok());
    /// assert!(results[1].as_ref().unwrap_err().to_string().ends_with("its memory was limited to 64 MiB"));
    /// # Ok::<(), multiproc::Error>(())
    /// ```
    pub fn memory_limit(mut self, bytes: u64) -> Self {
        self.config.policy.memory_limit = Some(bytes);
        self
    }

    /// Each worker runs `function` before any task; by default nothing. If it fails, every call of the pool
    /// returns that error.
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
    /// - [`current`](crate::current) and statics are this process's; the initializer runs once, in
    ///   [`build`](Self::build). [`at_start`](crate::at_start) has no effect;
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

    /// Records each task that fails by the death of its worker, by its [time
    /// limit](super::CallOptions::timeout) or by a panic: in a file of its own in this directory, which is
    /// created (for this user alone) if there is none. By default, if the environment variable
    /// `MULTIPROC_RECORD` names a directory. It concerns each pool of the program, and each
    /// [`Process`](crate::Process) that is joined.
    ///
    /// The file holds the error, the function's name, and the encoded arguments; only its owner can read it.
    /// The program runs the task again, in its first process, where a debugger sees it:
    ///
    /// ```text
    /// MULTIPROC_REPLAY=FILE gdb --args PROGRAM
    /// ```
    ///
    /// [`init`](crate::init()) then runs the task and ends the program: with exit code 0 if the function
    /// returned, 101 if it panicked, and by the signal that kills it. The functions given to
    /// [`at_start`](crate::at_start), and what the pool's workers run first
    /// ([`initializer`](Self::initializer), [`state`](Self::state)), run before it. Another build of the
    /// program refuses the file with exit code 2.
    ///
    /// [`Error::record`] is the path. The file is written before the error is seen, by a thread that waits
    /// for results of this pool or by the pool's own, while the pool works on; that thread blocks until it is
    /// written. If it cannot be written, a message on standard error says so once.
    ///
    /// Not recorded are
    ///
    /// - arguments with descriptors: ends of queues and pipes, locks, files, shared memory. The file then
    ///   says so, and cannot be replayed. Likewise if an initializer of the pool has such arguments;
    /// - a task that was cancelled, or ended with its pool; an earlier death of a task that was [run
    ///   again](super::CallOptions::retries); a panic in a [`map_reduce`](super::Pool::map_reduce);
    /// - calls of a [server](crate::server), which depend on the calls before them; and tasks in [inline
    ///   mode](Self::inline).
    ///
    /// [`record_limits`](Self::record_limits) limits the files and their size.
    ///
    /// ```
    /// use multiproc::Pool;
    ///
    /// fn main() -> Result<(), Box<dyn std::error::Error>> {
    ///     multiproc::init();
    ///     let directory = std::env::temp_dir().join(format!("records-{}", std::process::id()));
    ///     let pool = Pool::builder().workers(2).record(&directory).build()?;
    ///     let crash = |number: u64| if number == 7 { std::process::abort() } else { number };
    ///     let results = pool.map_results(crash, 0..10)?;
    ///     let error = results[7].as_ref().unwrap_err();
    ///     let record = error.record().ok_or("it is not recorded")?;
    ///     println!("{error}: see {}", record.display());
    ///     std::fs::remove_dir_all(directory)?;
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    /// [`build`](Self::build) fails if the directory cannot be created.
    pub fn record(mut self, directory: impl AsRef<Path>) -> Self {
        self.config.record.directory = Some(directory.as_ref().to_owned());
        self
    }

    /// Limits the [records](Self::record): the number of files in the directory, and the bytes of the
    /// arguments in each, with those of initializers and broadcasts. The default is 100 files, and 16 MiB each.
    /// At the first limit a message on standard error says so, and nothing more is recorded, until files are
    /// removed and the program starts again. A file whose arguments exceed the second says so instead of
    /// holding them. The error in a file has at most 64 KiB of a panic's message, as much of its backtrace, and
    /// the last 10 earlier attempts. Several processes that record at the same time may exceed the first limit by
    /// one file each.
    ///
    /// ```
    /// use multiproc::Pool;
    ///
    /// fn main() -> Result<(), Box<dyn std::error::Error>> {
    ///     multiproc::init();
    ///     let directory = std::env::temp_dir().join(format!("few-records-{}", std::process::id()));
    ///     let pool = Pool::builder().workers(2).record(&directory).record_limits(2, 1 << 20).build()?;
    ///     let results = pool.map_results(|number: u64| assert!(number > 5), 0..10)?;
    ///     let recorded = results.iter().filter_map(|result| result.as_ref().err()?.record());
    ///     assert_eq!(recorded.count(), 2);
    ///     std::fs::remove_dir_all(directory)?;
    ///     Ok(())
    /// }
    /// ```
    pub fn record_limits(mut self, files: usize, bytes: usize) -> Self {
        (self.config.record.max_files, self.config.record.max_bytes) = (files, bytes);
        self
    }

    /// Starts the workers and the pool's thread; in inline mode there is neither.
    pub(super) fn start(mut self) -> Result<(Arc<Dispatcher>, Option<JoinHandle<()>>)> {
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
            return Ok((Dispatcher::start_inline(self.config)?, None));
        }
        self.config.options.fix_method()?;
        if !self.config.preload.is_empty() {
            self.config.options.check_can_preload()?;
        }
        let dispatcher = Dispatcher::start(self.config)?;
        let runner = Arc::clone(&dispatcher);
        let thread = thread::Builder::new().name("mp-pool".to_owned());
        match with_signals_blocked(|| thread.spawn(move || runner.run())) {
            Ok(thread) => Ok((dispatcher, Some(thread))),
            Err(error) => {
                dispatcher.abort();
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
