//! The calls of a pool with default options: `map` and its variants, `apply` and `submit`.

use std::time::Duration;

use serde_core::Serialize;
use serde_core::de::DeserializeOwned;

use super::state::PoolFn;
use super::{LazyResults, Pool, TaskHandle};
use crate::channel::errors::SendError;
use crate::error::Result;
use crate::task::RemoteFn;

impl<M> Pool<M> {
    /// Calls `function` with every item and returns all results in the order of the items. Blocks until then.
    ///
    /// ```
    /// multiproc::init();
    /// let pool = multiproc::Pool::new(2)?;
    /// assert_eq!(pool.map(|n: u32| n + 1, [1, 2, 3])?, [2, 3, 4]);
    /// # Ok::<(), multiproc::Error>(())
    /// ```
    ///
    /// # Errors
    /// The error of the first item, in input order, that fails; items that no worker has begun are then
    /// withdrawn. Also when the pool is closed or [cannot keep its
    /// workers](Pool#when-a-pool-cannot-keep-its-workers).
    ///
    /// # Panics
    /// When the input's iterator panics: the panic reaches the caller, and the pool stays usable.
    pub fn map<F, T, R, I>(&self, function: F, items: I) -> Result<Vec<R>>
    where
        F: PoolFn<M, (T,), R>,
        T: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
        I: IntoIterator<Item = T>,
    {
        self.options().map(function, items)
    }

    /// As [`map`](Self::map), but runs every item and returns one `Result` for each: a failure does not stop
    /// the others.
    ///
    /// ```
    /// multiproc::init();
    /// let pool = multiproc::Pool::new(2)?;
    /// let tenths = pool.map_results(|n: u32| 10 / n, [0, 5])?;
    /// assert!(tenths[0].as_ref().unwrap_err().is_panic()); // divided by zero
    /// assert!(tenths[1].as_ref().is_ok_and(|&tenth| tenth == 2));
    /// # Ok::<(), multiproc::Error>(())
    /// ```
    ///
    /// # Errors
    /// When the pool is closed or cannot keep its workers before all of the input is submitted.
    pub fn map_results<F, T, R, I>(&self, function: F, items: I) -> Result<Vec<Result<R>>>
    where
        F: PoolFn<M, (T,), R>,
        T: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
        I: IntoIterator<Item = T>,
    {
        self.options().map_results(function, items)
    }

    /// As [`map`](Self::map), for a function of several arguments: each item is a tuple of them.
    ///
    /// ```
    /// multiproc::init();
    /// let area = |width: u32, height: u32| width * height;
    /// assert_eq!(multiproc::Pool::new(2)?.starmap(area, [(2, 3), (4, 5)])?, [6, 20]);
    /// # Ok::<(), multiproc::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`map`](Self::map).
    pub fn starmap<F, Args, R, I>(&self, function: F, items: I) -> Result<Vec<R>>
    where
        F: PoolFn<M, Args, R>,
        Args: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
        I: IntoIterator<Item = Args>,
    {
        self.options().starmap(function, items)
    }

    /// As [`map_results`](Self::map_results), for a function of several arguments: each item is a tuple of
    /// them.
    ///
    /// # Errors
    /// As [`map_results`](Self::map_results).
    pub fn starmap_results<F, Args, R, I>(&self, function: F, items: I) -> Result<Vec<Result<R>>>
    where
        F: PoolFn<M, Args, R>,
        Args: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
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
    /// [`buffer_size`](super::CallOptions::buffer_size) of 1.
    ///
    /// ```
    /// multiproc::init();
    /// let pool = multiproc::Pool::new(2)?;
    /// let squares: Result<Vec<u64>, _> = pool.imap(|x: u64| x * x, 1..).take(4).collect();
    /// assert_eq!(squares?, [1, 4, 9, 16]);
    /// # Ok::<(), multiproc::Error>(())
    /// ```
    ///
    /// # Panics
    /// `next` panics when the input's iterator does, after the results of the items before it. The pool stays
    /// usable.
    pub fn imap<F, T, R, I>(&self, function: F, items: I) -> LazyResults<'_, I::IntoIter, R>
    where
        F: PoolFn<M, (T,), R>,
        T: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
        I: IntoIterator<Item = T>,
    {
        self.options().imap(function, items)
    }

    /// As [`imap`](Self::imap), but yields each result as soon as it arrives, in any order.
    ///
    /// ```
    /// multiproc::init();
    /// let pool = multiproc::Pool::new(2)?;
    /// let mut sum = 0;
    /// for square in pool.imap_unordered(|n: u64| n * n, 1..=100) {
    ///     sum += square?;
    /// }
    /// assert_eq!(sum, 338_350);
    /// # Ok::<(), multiproc::Error>(())
    /// ```
    pub fn imap_unordered<F, T, R, I>(&self, function: F, items: I) -> LazyResults<'_, I::IntoIter, R>
    where
        F: PoolFn<M, (T,), R>,
        T: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
        I: IntoIterator<Item = T>,
    {
        self.options().imap_unordered(function, items)
    }

    /// Calls `map` with every item and merges all results into one with `merge`. Blocks until then. Returns
    /// `None` without items.
    ///
    /// Workers merge the results of neighbouring items, and the caller merges what they return, so results
    /// that are large, or cheaper to make than to send, do not travel one by one. Results are merged in the
    /// order of the items, the earlier one as the first argument, but grouped arbitrarily: `merge` should be
    /// associative, as addition is.
    ///
    /// A worker gets items for about 25 ms at once. If it dies, all of them fail, with an error that names
    /// them ([`items`](crate::Error::items)), or run again if the [options](super::CallOptions::retries)
    /// permit that. With a [time limit](super::CallOptions::timeout), which applies to each item, a worker
    /// gets single items.
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
    pub fn map_reduce<F, G, T, R, I>(&self, map: F, merge: G, items: I) -> Result<Option<R>>
    where
        F: PoolFn<M, (T,), R>,
        G: RemoteFn<(R, R), Output = R>,
        T: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
        I: IntoIterator<Item = T>,
    {
        self.options().map_reduce(map, merge, items)
    }

    /// Calls `function` once, with a tuple of arguments, and returns its result. Blocks until then.
    ///
    /// ```
    /// multiproc::init();
    /// let pool = multiproc::Pool::new(1)?;
    /// assert_eq!(pool.apply(u64::pow, (2, 10))?, 1024);
    /// # Ok::<(), multiproc::Error>(())
    /// ```
    ///
    /// # Errors
    /// When the arguments cannot be encoded, when the task fails, or when the pool is closed or cannot keep
    /// its workers.
    pub fn apply<F, Args, R>(&self, function: F, args: Args) -> Result<R>
    where
        F: PoolFn<M, Args, R>,
        Args: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        self.options().apply(function, args)
    }

    /// Submits a task and returns a handle for its result. Does not block, unless the pool has a
    /// [`max_pending`](super::PoolBuilder::max_pending) of tasks, or is [inline](super::PoolBuilder::inline): then it
    /// runs the task.
    ///
    /// ```
    /// multiproc::init();
    /// let pool = multiproc::Pool::new(1)?;
    /// let task = pool.submit(u64::pow, (2, 10))?;
    /// // The program does something else meanwhile.
    /// assert_eq!(task.get()?, 1024);
    /// # Ok::<(), multiproc::Error>(())
    /// ```
    ///
    /// # Errors
    /// When the arguments cannot be encoded, or when the pool is closed or cannot keep its workers.
    pub fn submit<F, Args, R>(&self, function: F, args: Args) -> Result<TaskHandle<R>>
    where
        F: PoolFn<M, Args, R>,
        Args: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        self.options().submit(function, args)
    }

    /// As [`submit`](Self::submit), but does not block: gives the arguments back where `submit` would.
    ///
    /// # Errors
    /// Those of [`submit`](Self::submit), and [`Error::is_full`](crate::Error::is_full). Each holds the
    /// arguments.
    pub fn try_submit<F, Args, R>(&self, function: F, args: Args) -> Result<TaskHandle<R>, SendError<Args>>
    where
        F: PoolFn<M, Args, R>,
        Args: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        self.options().try_submit(function, args)
    }

    /// As [`try_submit`](Self::try_submit), but waits for room for at most `time`.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// multiproc::init();
    /// let pool = multiproc::Pool::builder().workers(1).max_pending(1).build()?;
    /// let task = pool.submit(std::thread::sleep, (Duration::from_secs(60),))?;
    /// let Err(refused) = pool.submit_timeout(u64::pow, (2, 10), Duration::from_millis(10)) else {
    ///     panic!("there is room for one task");
    /// };
    /// assert!(refused.error().is_full());
    /// task.cancel();
    /// let submitted = pool.submit_timeout(u64::pow, refused.into_item(), Duration::from_secs(60));
    /// assert_eq!(submitted?.get()?, 1024);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`try_submit`](Self::try_submit).
    pub fn submit_timeout<F, Args, R>(
        &self,
        function: F,
        args: Args,
        time: Duration,
    ) -> Result<TaskHandle<R>, SendError<Args>>
    where
        F: PoolFn<M, Args, R>,
        Args: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        self.options().submit_timeout(function, args, time)
    }

    /// Submits all items and returns one handle for their results, in the order of the items. Takes and encodes all of
    /// the input first. Does not block then, except as [`submit`](Self::submit) does, for which they are one task.
    ///
    /// What a handle can do, holds for the call as a whole: [`get_timeout`](TaskHandle::get_timeout) and
    /// [`cancel`](TaskHandle::cancel) are a deadline for it.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// multiproc::init();
    /// let pool = multiproc::Pool::new(2)?;
    /// let mut pauses = pool.submit_map(std::thread::sleep, [0, 3600].map(Duration::from_secs))?;
    /// let squares = pool.submit_map(|n: u64| n * n, [1, 2, 3])?;
    /// assert_eq!(squares.get()?, [1, 4, 9]);
    /// assert!(pauses.get_timeout(Duration::from_millis(10))?.is_none());
    /// pauses.cancel();
    /// assert!(pauses.get().unwrap_err().is_cancelled());
    /// # Ok::<(), multiproc::Error>(())
    /// ```
    ///
    /// # Errors
    /// When an item cannot be encoded ([`index`](crate::Error::index) tells which; none has begun), or when the pool is
    /// closed or cannot keep its workers. The handle has the error of the first item, in input order, that fails; the
    /// others run.
    ///
    /// # Panics
    /// When the input's iterator panics. Nothing was submitted then.
    pub fn submit_map<F, T, R, I>(&self, function: F, items: I) -> Result<TaskHandle<Vec<R>>>
    where
        F: PoolFn<M, (T,), R>,
        T: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
        I: IntoIterator<Item = T>,
    {
        self.options().submit_map(function, items)
    }

    /// As [`submit_map`](Self::submit_map), for a function of several arguments: each item is a tuple of them.
    ///
    /// # Errors
    /// As [`submit_map`](Self::submit_map).
    pub fn submit_starmap<F, Args, R, I>(&self, function: F, items: I) -> Result<TaskHandle<Vec<R>>>
    where
        F: PoolFn<M, Args, R>,
        Args: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
        I: IntoIterator<Item = Args>,
    {
        self.options().submit_starmap(function, items)
    }
}
