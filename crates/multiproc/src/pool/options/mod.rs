//! `CallOptions`: the options of one call of a pool, and the [calls].

mod calls;

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use super::call::Options;
use super::pool_core::PoolCore;
use super::retry_policy::RetryPolicy;
use super::state::NoState;
use crate::sys::clock::whole_millis;

/// Options for one call of a pool. Made by [`Pool::options`](super::Pool::options); ends with one of the
/// pool's calls.
///
/// ```
/// use multiproc::Pool;
/// use std::time::Duration;
///
/// fn pause(seconds: u64) -> u64 {
///     std::thread::sleep(Duration::from_secs(seconds));
///     seconds
/// }
///
/// fn main() -> multiproc::Result<()> {
///     multiproc::init();
///     let pool = Pool::new(2)?;
///     let pauses = pool.options().timeout(Duration::from_millis(500)).map_results(pause, [0, 3600, 0])?;
///     assert!(pauses[0].is_ok() && pauses[2].is_ok());
///     assert!(pauses[1].as_ref().is_err_and(|error| error.is_timeout()));
///     Ok(())
/// }
/// ```
#[must_use]
pub struct CallOptions<'pool, M = NoState> {
    core: &'pool Arc<PoolCore>,
    options: Options,
    kind: PhantomData<fn(M)>,
}

/// The maximum distance between input and results of `imap`, in chunks per worker.
const DEFAULT_BUFFER: u64 = 4;

impl<'pool, M> CallOptions<'pool, M> {
    pub(super) fn new(core: &'pool Arc<PoolCore>) -> Self {
        Self { core, options: Options::default(), kind: PhantomData }
    }

    /// Limits how long each item may run, from when a worker begins it until its result is visible; time in
    /// the queue does not count, time for flushing the task's output does. No limit by default; a `time` of
    /// zero is an error of the call.
    ///
    /// At the limit the pool kills the worker (SIGKILL, so a busy or stopped worker dies as well) and
    /// replaces it. The item fails with an error for which [`is_timeout`](crate::Error::is_timeout) is true, as soon
    /// as the worker is dead. No other item is affected. A program that the task has started is not killed. Each item
    /// costs one clock read. A retry has the full time again.
    ///
    /// Time during which the whole program is stopped (Ctrl-Z) does not count, if it exceeds 750 ms. The item
    /// may then exceed its limit by up to half a second. The same holds of all other limits of a pool.
    pub fn timeout(mut self, time: Duration) -> Self {
        self.options.timeout = Some(time);
        self
    }

    /// Lets a running task end by itself before its worker is killed: after
    /// [`cancel`](super::TaskHandle::cancel), and at its [time limit](Self::timeout). The task sees that
    /// [`is_cancelled`](crate::is_cancelled) is true, can clean up, and should return within `time`; then its
    /// worker lives on. A task that does not is killed with its worker. In whole milliseconds, rounded up, at most
    /// 49 days. Zero by default: the worker is killed at once.
    ///
    /// What the task returns then is dropped, and a panic as well: `cancel` has returned true, so the error is
    /// [`is_cancelled`](crate::Error::is_cancelled); at the time limit it is [`is_timeout`](crate::Error::is_timeout).
    /// `cancel` does not block, and [`get`](super::TaskHandle::get) returns the error when the task has ended or its
    /// worker is dead. Meanwhile the worker gets no other tasks. A pool that ends waits for no grace.
    ///
    /// ```
    /// use multiproc::Pool;
    /// use std::time::Duration;
    ///
    /// fn search() {
    ///     while !multiproc::is_cancelled() {
    ///         std::thread::sleep(Duration::from_millis(1)); // a step of the work
    ///     }
    /// }
    ///
    /// fn main() -> multiproc::Result<()> {
    ///     multiproc::init();
    ///     let pool = Pool::new(1)?;
    ///     let worker = pool.apply(std::process::id, ())?;
    ///     let call = pool.options().timeout(Duration::from_millis(50)).grace(Duration::from_secs(60));
    ///     assert!(call.apply(search, ()).unwrap_err().is_timeout());
    ///     assert_eq!(pool.apply(std::process::id, ())?, worker);
    ///     Ok(())
    /// }
    /// ```
    pub fn grace(mut self, time: Duration) -> Self {
        self.options.grace = whole_millis(time);
        self
    }

    /// Sets the number of further runs of an item whose worker dies while running it (crashes, is killed, or
    /// exits). Default 0. After the last run the error is that of the last death,
    /// and its [`attempts`](crate::Error::attempts) are the earlier ones.
    ///
    /// Only a death causes a retry: not a task's own error or panic, a timeout, or a cancellation. A dead
    /// worker may have done part of the work, so a retried task must tolerate that. An item that holds an end
    /// of a queue or pipe, a server, a file or a chunk of an array is not retried: those died with the worker.
    /// Slices and locks did not.
    pub fn retries(self, times: u32) -> Self {
        self.retry(RetryPolicy::new(times))
    }

    /// As [`retries`](Self::retries), with a pause before each retry, and a limit for all items together.
    /// Replaces what `retries` has set.
    ///
    /// ```
    /// use multiproc::Pool;
    /// use multiproc::pool::RetryPolicy;
    /// use std::time::Duration;
    ///
    /// fn fetch(page: u32) -> u32 {
    ///     page // by a library that crashes now and then
    /// }
    ///
    /// multiproc::init();
    /// let pool = Pool::new(2)?;
    /// let policy = RetryPolicy::new(5).backoff(Duration::from_millis(100), Duration::from_secs(10)).budget(50);
    /// assert_eq!(pool.options().retry(policy).map(fetch, [1, 2, 3])?, [1, 2, 3]);
    /// # Ok::<(), multiproc::Error>(())
    /// ```
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.options.retry = policy;
        self
    }

    /// Sets the priority of the call's items; 0 by default. Of the items that wait for a worker, those of a
    /// higher priority begin first.
    ///
    /// A step of priority is worth 10 seconds of waiting: an item of priority 1 goes before those of priority
    /// 0 that were submitted up to 10 seconds earlier, and after older ones. So no item waits without end,
    /// however many of a higher priority there are. What a worker has been given already, it still runs
    /// first: at most one more item, or small ones for about 2 ms; with a
    /// [`chunk_size`](super::PoolBuilder::chunk_size), up to three chunks. No effect in [inline
    /// mode](super::PoolBuilder::inline).
    ///
    /// ```
    /// multiproc::init();
    /// let pool = multiproc::Pool::new(2)?;
    /// let report = pool.options().priority(-1).submit(u64::pow, (3, 4))?;
    /// let request = pool.options().priority(5).submit(u64::pow, (2, 10))?;
    /// assert_eq!((request.get()?, report.get()?), (1024, 81));
    /// # Ok::<(), multiproc::Error>(())
    /// ```
    pub fn priority(mut self, priority: i8) -> Self {
        self.options.priority = priority;
        self
    }

    /// The maximum number of items that [`imap`](Self::imap) and [`imap_unordered`](Self::imap_unordered)
    /// take from their input ahead of the results that they have returned. The default, which is also the upper limit,
    /// is five chunks for each worker. A `size` of 0 is an error of the call. It has no effect on calls that return all
    /// results at once.
    ///
    /// With 1, the call takes each item only after the result of the one before was returned, so the input
    /// may depend on it.
    ///
    /// ```
    /// use multiproc::Pool;
    /// use std::sync::mpsc::channel;
    ///
    /// multiproc::init();
    /// let pool = Pool::new(2)?;
    /// let (numbers, input) = channel();
    /// numbers.send(2_u64).expect("the input is there");
    /// let mut squares = pool.options().buffer_size(1).imap(|n: u64| n * n, input);
    /// for expected in [4, 16, 256] {
    ///     let square = squares.next().expect("one for each number")?;
    ///     assert_eq!(square, expected);
    ///     numbers.send(square).expect("the input is there");
    /// }
    /// # Ok::<(), multiproc::Error>(())
    /// ```
    pub fn buffer_size(mut self, size: usize) -> Self {
        self.options.buffer_size = Some(size as u64);
        self
    }
}

impl<M> Clone for CallOptions<'_, M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M> Copy for CallOptions<'_, M> {}

impl<M> fmt::Debug for CallOptions<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallOptions").field("options", &self.options).finish_non_exhaustive()
    }
}
