//! `Pool`: the calls, as a local pool has them.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use multiproc::pool::encoded;
use multiproc::queue::SendError;
use multiproc::{RemoteFn, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::call_options::CallOptions;
use crate::caller::{CLOSE_TIMEOUT, Caller, Host};
use crate::cluster::Shared;
use crate::options::Options;
use crate::results::Results;
use crate::stats::PoolStats;
use crate::task_handle::TaskHandle;

/// The workers of all agents of a [`Cluster`](crate::Cluster), as one pool.
///
/// Its calls are those of [`multiproc::Pool`], with the same functions, results and errors; an error of a task
/// on another host has that [host](multiproc::Error::host). A worker that dies fails the one task that it was
/// running. A host that dies, hangs or is cut off is given up after the
/// [lease](crate::ClusterBuilder::lease); [`HostLoss`](crate::HostLoss) says what becomes of its items.
///
/// No call waits for hosts that do not come: while no agent of this program answers for a lease, its items
/// fail, with an error that names the hosts that have another build.
///
/// Dropping the pool withdraws what is left of its work, and waits at most two seconds for that; and with the feature
/// `log` until the logger has the records that have arrived, unless it takes none for two seconds.
pub struct Pool {
    caller: Arc<Caller>,
    shared: Arc<Shared>,
}

impl Pool {
    pub(crate) fn new(shared: Arc<Shared>, caller: Arc<Caller>) -> Self {
        Self { caller, shared }
    }

    /// Options for one call.
    pub fn options(&self) -> CallOptions<'_> {
        CallOptions { caller: &self.caller, options: Options::default() }
    }

    /// The hosts whose agents have answered within a lease. Does not block.
    pub fn hosts(&self) -> Vec<Host> {
        self.caller.hosts()
    }

    /// What the hosts have done so far for this pool. Does not block.
    pub fn stats(&self) -> PoolStats {
        self.caller.stats()
    }

    /// Waits until this number of hosts serve the pool.
    ///
    /// # Errors
    /// When they do not within `time`, and when the pool is lost.
    pub fn wait_for_hosts(&self, count: usize, time: Duration) -> Result<()> {
        let deadline = Instant::now().checked_add(time);
        while self.hosts().iter().filter(|host| host.serves).count() < count {
            if let Some(failure) = self.caller.failure() {
                return Err(failure);
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Err(encoded::timed_out("hear of enough hosts"));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

/// The calls, with default options.
#[allow(clippy::missing_errors_doc)]
impl Pool {
    /// As [`multiproc::Pool::map`]: all results in order, or the first failing item's error.
    pub fn map<F, T, R, I>(&self, function: F, items: I) -> Result<Vec<R>>
    where
        F: RemoteFn<(T,), Output = R>,
        T: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
        I: IntoIterator<Item = T>,
    {
        self.options().map(function, items)
    }

    /// As [`multiproc::Pool::map_results`]: each item's result.
    pub fn map_results<F, T, R, I>(&self, function: F, items: I) -> Result<Vec<Result<R>>>
    where
        F: RemoteFn<(T,), Output = R>,
        T: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
        I: IntoIterator<Item = T>,
    {
        self.options().map_results(function, items)
    }

    /// As [`multiproc::Pool::starmap`]: each item is a tuple of the function's arguments.
    pub fn starmap<F, Args, R, I>(&self, function: F, items: I) -> Result<Vec<R>>
    where
        F: RemoteFn<Args, Output = R>,
        Args: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
        I: IntoIterator<Item = Args>,
    {
        self.options().starmap(function, items)
    }

    /// As [`multiproc::Pool::starmap_results`]: each item's result.
    pub fn starmap_results<F, Args, R, I>(&self, function: F, items: I) -> Result<Vec<Result<R>>>
    where
        F: RemoteFn<Args, Output = R>,
        Args: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
        I: IntoIterator<Item = Args>,
    {
        self.options().starmap_results(function, items)
    }

    /// As [`multiproc::Pool::imap`]: results in the order of the items, as they arrive.
    pub fn imap<F, T, R, I>(&self, function: F, items: I) -> Results<I::IntoIter, R>
    where
        F: RemoteFn<(T,), Output = R>,
        T: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
        I: IntoIterator<Item = T>,
    {
        self.options().imap(function, items)
    }

    /// As [`multiproc::Pool::imap_unordered`]: results as they arrive.
    pub fn imap_unordered<F, T, R, I>(&self, function: F, items: I) -> Results<I::IntoIter, R>
    where
        F: RemoteFn<(T,), Output = R>,
        T: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
        I: IntoIterator<Item = T>,
    {
        self.options().imap_unordered(function, items)
    }

    /// As [`multiproc::Pool::apply`]: one task, and its result.
    pub fn apply<F, Args, R>(&self, function: F, args: Args) -> Result<R>
    where
        F: RemoteFn<Args, Output = R>,
        Args: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        self.options().apply(function, args)
    }

    /// As [`multiproc::Pool::submit`]: one task, and a handle for its result. Does not block, unless
    /// [`max_pending`](crate::ClusterBuilder::max_pending) tasks have no result.
    pub fn submit<F, Args, R>(&self, function: F, args: Args) -> Result<TaskHandle<R>>
    where
        F: RemoteFn<Args, Output = R>,
        Args: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        self.options().submit(function, args)
    }

    /// As [`multiproc::Pool::try_submit`]: does not block, but gives the arguments back where `submit` would.
    pub fn try_submit<F, Args, R>(&self, function: F, args: Args) -> Result<TaskHandle<R>, SendError<Args>>
    where
        F: RemoteFn<Args, Output = R>,
        Args: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        self.options().try_submit(function, args)
    }

    /// As [`multiproc::Pool::submit_timeout`]: waits for room for at most `time`.
    pub fn submit_timeout<F, Args, R>(
        &self,
        function: F,
        args: Args,
        time: Duration,
    ) -> Result<TaskHandle<R>, SendError<Args>>
    where
        F: RemoteFn<Args, Output = R>,
        Args: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        self.options().submit_timeout(function, args, time)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let close = tokio::time::timeout;
        let caller = Arc::clone(&self.caller);
        let _ = self.shared.run(async move {
            let _ = close(CLOSE_TIMEOUT, caller.close()).await;
        });
        self.caller.logs.end(CLOSE_TIMEOUT);
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("name", &self.caller.session.pool).finish_non_exhaustive()
    }
}
