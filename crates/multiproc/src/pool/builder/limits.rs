//! How many workers and tasks a pool has at a time, and how much memory a worker.

use std::time::Duration;

use super::PoolBuilder;

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
    /// [`submit`](crate::Pool::submit) blocks until one has, and [`try_submit`](crate::Pool::try_submit)
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
    /// than that for long; none of them fails. By default a worker may grow without end. A worker that has grown
    /// in a task ends it and runs no other; its successor begins then.
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
}
