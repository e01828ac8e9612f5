//! A pool of worker processes: [`Pool`], its options, and the handle of a task.

// Highest first: a module uses only those below it.
mod broadcast;
mod builder;
mod methods;
mod options;

mod as_completed;
mod task_future;

mod task_handle;

mod callbacks;

mod map_reduce;

mod lazy_results;
#[cfg(feature = "async")]
mod result_stream;

mod initializers;

mod reorder;
mod result_batch;
mod results;

mod pool_core;

mod recording;

mod inline;
mod scheduler;

mod worker_handle;
mod worker_main;

mod cancellation;

#[doc(hidden)]
pub mod encoded;

pub(crate) mod item_loop;
pub(crate) mod state;

mod call;
mod chunk;
mod cost_estimate;
pub(crate) mod histogram;
mod retry_policy;
mod stats;
mod wake_list;
pub(crate) mod worker_rings;

use std::fmt;
use std::marker::PhantomData;
use std::mem::forget;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use self::pool_core::PoolCore;
use crate::error::{Error, Result};
use crate::logs;
use crate::sys::fork_detect::OriginalProcess;
use crate::sys::poll::Deadline;

pub use self::as_completed::{AsCompleted, as_completed};
pub use self::builder::PoolBuilder;
pub use self::cancellation::is_cancelled;
pub use self::histogram::Histogram;
pub use self::lazy_results::LazyResults;
pub use self::options::CallOptions;
pub(crate) use self::pool_core::CountedWaker;
#[cfg(feature = "async")]
pub use self::result_stream::ResultStream;
pub use self::retry_policy::RetryPolicy;
pub use self::state::{NoState, PoolFn, State};
pub use self::stats::{PoolStats, WorkerStats};
pub use self::task_future::TaskFuture;
pub use self::task_handle::{Canceller, TaskHandle};

/// Worker processes that run tasks.
///
/// A free worker takes the next task, and tasks begin in the order of submission; those already assigned to a
/// worker may begin some milliseconds late. The death of a worker fails the one task that it was running,
/// with an error that names the process, the cause and the item. (If it is killed between two tasks of a few
/// microseconds, that may be the next one, which has not begun.) The pool replaces the worker, and other
/// tasks still run; only [`map`](Pool::map) and its like withdraw the rest of their own call at its first error. A
/// task runs at most once, unless [the call](Pool::options) allows retries. Several threads may share one pool, and a
/// task may have a pool of its own.
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
/// # When a pool cannot keep its workers
///
/// A pool gives up when the initializer of a worker fails, when a worker does not reach [`init`](crate::init()) before
/// any worker was ready, and when 20 workers in a row end before they are ready. All its calls then return the error
/// of that worker. While the kernel refuses new workers, the pool continues with those it has. After 3 seconds without
/// any, its work fails with the kernel's error until workers can start again.
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
pub struct Pool<M = NoState> {
    core: Arc<PoolCore>,
    kind: PhantomData<fn(M)>,
    thread: Option<JoinHandle<()>>,
    /// The process that created the pool. A forked copy has neither this thread nor the workers.
    original: OriginalProcess,
}

impl Pool {
    /// Starts a pool of `workers` processes. Blocks until the kernel has started them: 0.2 to 0.4 ms for
    /// each, and 1 to 2 ms for the first child of this process.
    ///
    /// # Errors
    /// When `workers` is 0, when [`init`](crate::init()) was not called, or when the kernel refuses a
    /// process, a thread, a descriptor or memory. No worker is left running then.
    pub fn new(workers: usize) -> Result<Self> {
        Self::builder().workers(workers).build()
    }

    /// Options beyond the number of workers.
    pub fn builder() -> PoolBuilder {
        PoolBuilder::new()
    }
}

impl<M> Pool<M> {
    /// Options for one call: a time limit, a grace, retries, a priority, a buffer size.
    pub fn options(&self) -> CallOptions<'_, M> {
        CallOptions::new(&self.core)
    }

    /// Keeps `workers` workers from now on. Does not block: missing ones are started, and surplus ones are
    /// shut down when they have finished what they run.
    ///
    /// ```
    /// multiproc::init();
    /// let pool = multiproc::Pool::new(1)?;
    /// pool.resize(3)?;
    /// while pool.worker_pids().len() < 3 {
    ///     std::thread::yield_now();
    /// }
    /// pool.resize(1)?;
    /// assert_eq!(pool.worker_pids().len(), 1);
    /// # Ok::<(), multiproc::Error>(())
    /// ```
    ///
    /// # Errors
    /// When `workers` is 0, or the pool is closed or [cannot keep its
    /// workers](Pool#when-a-pool-cannot-keep-its-workers).
    pub fn resize(&self, workers: usize) -> Result<()> {
        if workers == 0 {
            return Err(Error::invalid("`workers` must be at least 1"));
        }
        self.core.resize(workers)
    }

    /// The process ids of the current workers, without those that are shutting down.
    pub fn worker_pids(&self) -> Vec<u32> {
        self.core.worker_pids()
    }

    /// What the workers have done so far, and how they ended. Does not block. In [inline
    /// mode](PoolBuilder::inline), where there are no workers, it is empty.
    ///
    /// ```
    /// multiproc::init();
    /// let pool = multiproc::Pool::new(2)?;
    /// pool.map(u64::count_ones, 0..1000)?;
    /// assert_eq!(pool.stats().total().tasks_done, 1000);
    /// # Ok::<(), multiproc::Error>(())
    /// ```
    pub fn stats(&self) -> PoolStats {
        self.core.stats()
    }

    /// Refuses new work: a later call is an error. Submitted work still runs. Does not block.
    ///
    /// A [`map`](Self::map) in another thread that has input left takes at most one more chunk of it, and returns an
    /// error for which [`is_closed`](crate::error::Error::is_closed) is true.
    pub fn close(&self) {
        self.core.close();
    }

    /// Closes the pool, runs all submitted work and ends the workers. Blocks until the workers have exited.
    ///
    /// With the feature `log` this, [`terminate`](Self::terminate) and dropping the pool then block until
    /// this process's logger has the workers' [log records](crate#log-records), but for at most 1 to 2 s in
    /// which the logger takes none.
    ///
    /// ```
    /// multiproc::init();
    /// let pool = multiproc::Pool::new(2)?;
    /// let tasks = [1, 2, 3].map(|n: u64| pool.submit(u64::pow, (n, 2)));
    /// pool.join();
    /// for (task, square) in tasks.into_iter().zip([1, 4, 9]) {
    ///     assert!(task.as_ref().is_ok_and(|task| task.is_ready()));
    ///     assert_eq!(task?.get()?, square);
    /// }
    /// # Ok::<(), multiproc::Error>(())
    /// ```
    pub fn join(mut self) {
        self.core.close();
        self.wait_for_end();
    }

    /// As [`join`](Self::join), but blocks for at most `time`; returns whether all workers have exited. If
    /// not, submitted work goes on. The time also bounds the wait for the logger (feature `log`).
    pub fn join_timeout(&self, time: Duration) -> bool {
        self.core.close();
        self.core.wait_for_end(Deadline::after(time))
    }

    /// Ends the pool now: withdraws what no worker has begun, and ends running tasks with SIGTERM, and with
    /// SIGKILL after the shutdown timeout. Blocks until the workers have exited. Calls in other threads return
    /// errors.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// multiproc::init();
    /// let pool = multiproc::Pool::new(2)?;
    /// let task = pool.submit(std::thread::sleep, (Duration::from_secs(3600),))?;
    /// assert!(!pool.join_timeout(Duration::from_millis(10)));
    /// pool.terminate();
    /// assert!(task.get().is_err());
    /// # Ok::<(), multiproc::Error>(())
    /// ```
    pub fn terminate(&self) {
        self.core.end(Duration::ZERO, self.core.shutdown_timeout());
        self.core.wait_for_end(Deadline::Never);
    }

    fn wait_for_end(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        if !self.original.is_current() {
            forget(thread); // a copy lacks the thread, and another of its own may have that handle
            return;
        }
        let _ = thread.join(); // if it has panicked, every call has failed
        self.core.wait_for_records(Deadline::Never);
        logs::deliver(Deadline::Never);
    }
}

impl<M> Drop for Pool<M> {
    fn drop(&mut self) {
        if self.thread.is_some() {
            let bound = self.core.shutdown_timeout();
            self.core.end(bound / 2, bound);
            self.wait_for_end();
        }
        self.core.drop_inline_state();
    }
}

impl<M> fmt::Debug for Pool<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("worker_pids", &self.worker_pids()).finish_non_exhaustive()
    }
}

impl<M> PoolBuilder<M> {
    /// Starts the pool. See [`Pool::new`].
    ///
    /// # Errors
    /// Those of [`Pool::new`]; and when a chunk size, a number of tasks or a memory limit is 0, or when the
    /// initializer's arguments cannot be encoded.
    pub fn build(self) -> Result<Pool<M>> {
        let (core, thread) = self.start()?;
        Ok(Pool { core, kind: PhantomData, thread, original: OriginalProcess::current() })
    }
}
