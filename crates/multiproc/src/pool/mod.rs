//! A pool of worker processes.

// Highest first: a module uses only those below it.
mod builder;
mod options;
mod task_handle;

mod map_reduce;

mod reorder;
mod results;

mod dispatcher;

mod scheduler;

mod worker_handle;
mod worker_main;

mod item_loop;

mod call;
mod chunk;
pub(crate) mod worker_rings;

use std::fmt;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use self::dispatcher::Dispatcher;
use crate::error::Result;
use crate::sys::process::own_pid;
use crate::task::RemoteFn;

pub use self::builder::PoolBuilder;
pub use self::options::CallOptions;
pub use self::task_handle::TaskHandle;

/// Worker processes that run tasks.
///
/// A free worker takes the next task, and tasks begin in the order of submission; those already assigned to a
/// worker may begin some milliseconds late. The death of a worker fails the one task that it was running,
/// with an error that names the process, the cause and the item. The pool replaces the worker, and every
/// other task still runs. A task runs at most once, unless [the call](Pool::options) allows retries. While
/// the kernel refuses new workers, the pool continues with those it has. After 3 seconds without any, its
/// work fails with the kernel's error until workers can start again. Several threads may share one pool, and
/// a task may have a pool of its own.
///
/// Output of a task, from Rust or C, is flushed before its result is visible and before its worker begins
/// another task, so it survives a task that ends the worker. Runs of very short tasks are the exception:
/// below 0.2 µs each, or below 20 µs each in a worker whose tasks have started threads. There the worker
/// flushes every few microseconds, or every half millisecond with threads. Output of an initializer is
/// flushed before the worker's first result.
///
/// Flushing delays a result by a bounded time. If another thread of the worker holds the lock of standard
/// output, the result follows after 0.25 s, and later results are not delayed. If standard output is a full
/// pipe, the result follows within a second; the worker continues to write when the pipe is read, and begins
/// no other task before that (unless its tasks have started threads).
///
/// Dropping a pool withdraws the tasks that no worker has begun, and lets running tasks finish for half of
/// the shutdown timeout (1 s of 2 s by default). Then it sends SIGTERM, and SIGKILL at the end of the
/// timeout. Blocks until the workers have exited.
///
/// ```
/// use multiproc::Pool;
///
/// fn cube(number: u64) -> u64 {
///     number.pow(3)
/// }
///
/// fn main() -> multiproc::Result<()> {
///     multiproc::init();
///     let pool = Pool::new(3)?;
///     assert_eq!(pool.map(cube, 1..=9)?, [1, 8, 27, 64, 125, 216, 343, 512, 729]);
///     Ok(())
/// }
/// ```
///
/// One death, one error:
///
/// ```
/// use multiproc::Pool;
///
/// fn half(number: u32) -> u32 {
///     if number == 3 { std::process::abort() }
///     number / 2
/// }
///
/// fn main() -> multiproc::Result<()> {
///     multiproc::init();
///     let pool = Pool::new(2)?;
///     let halves = pool.map_results(half, [0, 1, 2, 3, 4])?;
///     assert_eq!(halves.iter().filter(|half| half.is_ok()).count(), 4);
///     let error = halves[3].as_ref().unwrap_err();
///     assert_eq!((error.signal(), error.index()), (Some(6), Some(3)));
///     Ok(())
/// }
/// ```
pub struct Pool {
    core: Arc<Dispatcher>,
    thread: Option<JoinHandle<()>>,
    /// The process that created the pool. A forked copy has neither this thread nor the workers.
    pid: u32,
}

impl Pool {
    /// Starts a pool of `workers` processes. Blocks until the kernel has started them: 0.2 to 0.4 ms for
    /// each, and 1 to 2 ms for the first child of this process.
    ///
    /// # Errors
    /// When `workers` is 0, when [`init`](crate::init) was not called, or when the kernel refuses a process,
    /// a thread, a descriptor or memory. No worker is left running then.
    pub fn new(workers: usize) -> Result<Self> {
        Self::builder().workers(workers).build()
    }

    /// Options beyond the number of workers.
    pub fn builder() -> PoolBuilder {
        PoolBuilder::new()
    }

    /// Calls `function` with every item and returns all results in the order of the items. Blocks until then.
    ///
    /// ```
    /// use multiproc::Pool;
    ///
    /// fn main() -> multiproc::Result<()> {
    ///     multiproc::init();
    ///     let pool = Pool::new(2)?;
    ///     assert_eq!(pool.map(|n: u32| n + 1, [1, 2, 3])?, [2, 3, 4]);
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    /// The error of the first item, in input order, that fails; items that no worker has begun are then
    /// withdrawn. Also when the pool is closed or cannot keep its workers.
    ///
    /// # Panics
    /// When the input's iterator panics: the panic reaches the caller, and the pool stays usable.
    pub fn map<F, T, I>(&self, function: F, items: I) -> Result<Vec<F::Output>>
    where
        F: RemoteFn<(T,)>,
        T: Serialize + DeserializeOwned,
        I: IntoIterator<Item = T>,
    {
        self.options().map(function, items)
    }

    /// As [`map`](Self::map), but runs every item and returns one `Result` for each: a failure does not stop
    /// the others.
    ///
    /// ```
    /// use multiproc::Pool;
    ///
    /// fn main() -> multiproc::Result<()> {
    ///     multiproc::init();
    ///     let pool = Pool::new(2)?;
    ///     let tenths = pool.map_results(|n: u32| 10 / n, [0, 5])?;
    ///     assert!(tenths[0].as_ref().unwrap_err().is_panic()); // divided by zero
    ///     assert!(tenths[1].as_ref().is_ok_and(|&tenth| tenth == 2));
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    /// When the pool is closed or cannot keep its workers before all of the input is submitted.
    ///
    /// # Panics
    /// As [`map`](Self::map).
    pub fn map_results<F, T, I>(&self, function: F, items: I) -> Result<Vec<Result<F::Output>>>
    where
        F: RemoteFn<(T,)>,
        T: Serialize + DeserializeOwned,
        I: IntoIterator<Item = T>,
    {
        self.options().map_results(function, items)
    }

    /// As [`map`](Self::map), for a function of several arguments: each item is a tuple of them.
    ///
    /// ```
    /// use multiproc::Pool;
    ///
    /// fn main() -> multiproc::Result<()> {
    ///     multiproc::init();
    ///     let areas = Pool::new(2)?.starmap(|width: u32, height: u32| width * height, [(2, 3), (4, 5)])?;
    ///     assert_eq!(areas, [6, 20]);
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    /// As [`map`](Self::map).
    ///
    /// # Panics
    /// As [`map`](Self::map).
    pub fn starmap<F, Args, I>(&self, function: F, items: I) -> Result<Vec<F::Output>>
    where
        F: RemoteFn<Args>,
        Args: Serialize + DeserializeOwned,
        I: IntoIterator<Item = Args>,
    {
        self.options().starmap(function, items)
    }

    /// As [`map_results`](Self::map_results), for a function of several arguments: each item is a tuple of
    /// them.
    ///
    /// # Errors
    /// As [`map_results`](Self::map_results).
    ///
    /// # Panics
    /// As [`map`](Self::map).
    pub fn starmap_results<F, Args, I>(&self, function: F, items: I) -> Result<Vec<Result<F::Output>>>
    where
        F: RemoteFn<Args>,
        Args: Serialize + DeserializeOwned,
        I: IntoIterator<Item = Args>,
    {
        self.options().starmap_results(function, items)
    }

    /// Calls `function` with every item, lazily. The iterator yields one `Result` for each item in input
    /// order, and blocks while the next one is pending.
    ///
    /// The calling thread takes items from the input inside `next`, and only as far ahead of the results as
    /// keeps the workers busy (a few chunks for each), so the input may be endless. Dropping the iterator
    /// withdraws what no worker has begun. When the pool is closed or cannot keep its workers, the last item
    /// is the error.
    ///
    /// If the input took 1 ms or more for its last item, `next` returns an available result before it takes
    /// another item. If such an input also has no lower [`size_hint`](Iterator::size_hint), `next` first
    /// waits for a result, for a quarter of that time. A result that arrives while the input blocks is
    /// returned when the input continues. An input that depends on an earlier result therefore needs a
    /// [`buffer_size`](CallOptions::buffer_size) of 1.
    ///
    /// ```
    /// use multiproc::Pool;
    ///
    /// fn main() -> multiproc::Result<()> {
    ///     multiproc::init();
    ///     let pool = Pool::new(2)?;
    ///     let squares: Result<Vec<u64>, _> = pool.imap(|x: u64| x * x, 1..).take(4).collect();
    ///     assert_eq!(squares?, [1, 4, 9, 16]);
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Panics
    /// `next` panics when the input's iterator does, after the results of the items before it. The pool stays
    /// usable.
    pub fn imap<F, T, I>(
        &self,
        function: F,
        items: I,
    ) -> impl Iterator<Item = Result<F::Output>> + use<'_, F, T, I>
    where
        F: RemoteFn<(T,)>,
        T: Serialize + DeserializeOwned,
        I: IntoIterator<Item = T>,
    {
        self.options().imap(function, items)
    }

    /// As [`imap`](Self::imap), but yields each result as soon as it arrives, in any order.
    ///
    /// ```
    /// use multiproc::Pool;
    ///
    /// fn main() -> multiproc::Result<()> {
    ///     multiproc::init();
    ///     let pool = Pool::new(2)?;
    ///     let mut sum = 0;
    ///     for square in pool.imap_unordered(|n: u64| n * n, 1..=100) {
    ///         sum += square?;
    ///     }
    ///     assert_eq!(sum, 338_350);
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Panics
    /// As [`imap`](Self::imap).
    pub fn imap_unordered<F, T, I>(
        &self,
        function: F,
        items: I,
    ) -> impl Iterator<Item = Result<F::Output>> + use<'_, F, T, I>
    where
        F: RemoteFn<(T,)>,
        T: Serialize + DeserializeOwned,
        I: IntoIterator<Item = T>,
    {
        self.options().imap_unordered(function, items)
    }

    /// Calls `map` with every item and merges all results with `merge`: in the workers those of some
    /// neighbouring items, and here what comes of these. Blocks until then. `None` if there are no items.
    ///
    /// So results that are large, or quicker to make than to send, need not travel. Results are merged in the
    /// order of the items, with the earlier one as the first argument, but grouped in any way: `merge` should be
    /// associative, as addition is.
    ///
    /// A worker gets as many items at once as take 25 ms. If it dies, all of them fail, with an error that names
    /// them ([`items`](crate::Error::items)); or run once more, if the [options](CallOptions::retries) say so.
    /// With a [time limit](CallOptions::timeout), which is that of an item, it gets single ones.
    ///
    /// ```
    /// use std::collections::HashMap;
    ///
    /// use multiproc::Pool;
    ///
    /// type Counts = HashMap<String, u64>;
    ///
    /// fn count(text: String) -> Counts {
    ///     let mut counts = Counts::new();
    ///     text.split_whitespace().for_each(|word| *counts.entry(word.to_owned()).or_default() += 1);
    ///     counts
    /// }
    ///
    /// fn add(mut left: Counts, right: Counts) -> Counts {
    ///     right.into_iter().for_each(|(word, count)| *left.entry(word).or_default() += count);
    ///     left
    /// }
    ///
    /// fn main() -> multiproc::Result<()> {
    ///     multiproc::init();
    ///     let texts = ["to be or", "not to be"].map(str::to_owned);
    ///     let counts = Pool::new(2)?.map_reduce(count, add, texts)?.unwrap_or_default();
    ///     assert_eq!((counts["be"], counts["not"]), (2, 1));
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    /// As [`map`](Self::map).
    ///
    /// # Panics
    /// As [`map`](Self::map).
    pub fn map_reduce<F, M, T, I>(&self, map: F, merge: M, items: I) -> Result<Option<F::Output>>
    where
        F: RemoteFn<(T,)>,
        M: RemoteFn<(F::Output, F::Output), Output = F::Output>,
        T: Serialize + DeserializeOwned,
        I: IntoIterator<Item = T>,
    {
        self.options().map_reduce(map, merge, items)
    }

    /// Calls `function` once, with a tuple of arguments, and returns its result. Blocks until then.
    ///
    /// ```
    /// use multiproc::Pool;
    ///
    /// fn main() -> multiproc::Result<()> {
    ///     multiproc::init();
    ///     let pool = Pool::new(1)?;
    ///     assert_eq!(pool.apply(u64::pow, (2, 10))?, 1024);
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    /// When the arguments cannot be encoded, when the task fails, or when the pool is closed or cannot keep
    /// its workers.
    pub fn apply<F, Args>(&self, function: F, args: Args) -> Result<F::Output>
    where
        F: RemoteFn<Args>,
        Args: Serialize + DeserializeOwned,
    {
        self.options().apply(function, args)
    }

    /// Submits a task and returns a handle for its result. Does not block.
    ///
    /// ```
    /// use multiproc::Pool;
    ///
    /// fn main() -> multiproc::Result<()> {
    ///     multiproc::init();
    ///     let pool = Pool::new(1)?;
    ///     let task = pool.submit(u64::pow, (2, 10))?;
    ///     // Something else goes on here.
    ///     assert_eq!(task.get()?, 1024);
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    /// When the arguments cannot be encoded, or when the pool is closed or cannot keep its workers.
    pub fn submit<F, Args>(&self, function: F, args: Args) -> Result<TaskHandle<F::Output>>
    where
        F: RemoteFn<Args>,
        Args: Serialize + DeserializeOwned,
    {
        self.options().submit(function, args)
    }

    /// Options for one call: a time limit, retries, a buffer size.
    pub fn options(&self) -> CallOptions<'_> {
        CallOptions::new(&self.core)
    }

    /// The process ids of the current workers.
    pub fn worker_pids(&self) -> Vec<u32> {
        self.core.worker_pids()
    }

    /// Refuses new work: a later call is an error. Submitted work still runs. Does not block.
    ///
    /// A [`map`](Self::map) in another thread that has input left takes no more of it, and returns an error
    /// for which [`is_closed`](crate::error::Error::is_closed) is true.
    pub fn close(&self) {
        self.core.close();
    }

    /// Closes the pool, runs all submitted work and ends the workers. Blocks until the workers have exited.
    ///
    /// ```
    /// use multiproc::Pool;
    ///
    /// fn main() -> multiproc::Result<()> {
    ///     multiproc::init();
    ///     let pool = Pool::new(2)?;
    ///     let tasks = [1, 2, 3].map(|n: u64| pool.submit(u64::pow, (n, 2)));
    ///     pool.join();
    ///     for (task, square) in tasks.into_iter().zip([1, 4, 9]) {
    ///         assert!(task.as_ref().is_ok_and(|task| task.is_ready()));
    ///         assert_eq!(task?.get()?, square);
    ///     }
    ///     Ok(())
    /// }
    /// ```
    pub fn join(mut self) {
        self.core.close();
        self.wait_for_end();
    }

    /// Ends the pool now: withdraws what no worker has begun, and ends running tasks with SIGTERM, and with
    /// SIGKILL after the shutdown timeout. Blocks until the workers have exited.
    pub fn terminate(mut self) {
        self.core.end(Duration::ZERO, self.core.shutdown_timeout());
        self.wait_for_end();
    }

    fn wait_for_end(&mut self) {
        if let Some(thread) = self.thread.take()
            && self.pid == own_pid()
        {
            let _ = thread.join(); // if it has panicked, every call has failed
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if self.thread.is_some() {
            let bound = self.core.shutdown_timeout();
            self.core.end(bound / 2, bound);
            self.wait_for_end();
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("worker_pids", &self.worker_pids()).finish_non_exhaustive()
    }
}

impl PoolBuilder {
    /// Starts the pool. See [`Pool::new`].
    ///
    /// # Errors
    /// Those of [`Pool::new`]; and when a chunk size, a number of tasks or a memory limit is 0, or when the
    /// initializer's arguments cannot be encoded.
    pub fn build(self) -> Result<Pool> {
        let (core, thread) = self.start()?;
        Ok(Pool { core, thread: Some(thread), pid: own_pid() })
    }
}
