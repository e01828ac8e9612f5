//! `map`, `imap`, `apply`, `submit` and their variants on `CallOptions`.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use serde_core::Serialize;
use serde_core::de::DeserializeOwned;

use super::{CallOptions, DEFAULT_BUFFER};
use crate::channel::errors::SendError;
use crate::error::{Error, Result};
use crate::pool::call::{Call, PendingPermit};
use crate::pool::chunk::{Chunk, ChunkBuilder};
use crate::pool::encoded::FunctionId;
use crate::pool::item_loop::ItemLoop;
use crate::pool::lazy_results::{LazyResults, Singly};
use crate::pool::map_reduce::{Batches, MapReduce, Plan, merge_batches};
use crate::pool::reorder::ResultOrder;
use crate::pool::results::Results;
use crate::pool::state::PoolFn;
use crate::pool::task_handle::TaskHandle;
use crate::spawn::inline;
use crate::sys::poll::Deadline;
use crate::task::{RemoteFn, TaskId};

/// The calls. Results, errors and panics are those of the same method of [`Pool`](crate::Pool).
#[allow(clippy::missing_errors_doc)]
impl<'pool, M> CallOptions<'pool, M> {
    /// As [`Pool::map`](crate::Pool::map).
    pub fn map<F, T, R, I>(self, function: F, items: I) -> Result<Vec<R>>
    where
        F: PoolFn<M, (T,), R>,
        T: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
        I: IntoIterator<Item = T>,
    {
        self.starmap(function, items.into_iter().map(|item| (item,)))
    }

    /// As [`Pool::map_results`](crate::Pool::map_results).
    pub fn map_results<F, T, R, I>(self, function: F, items: I) -> Result<Vec<Result<R>>>
    where
        F: PoolFn<M, (T,), R>,
        T: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
        I: IntoIterator<Item = T>,
    {
        self.starmap_results(function, items.into_iter().map(|item| (item,)))
    }

    /// As [`Pool::starmap`](crate::Pool::starmap).
    pub fn starmap<F, Args, R, I>(self, function: F, items: I) -> Result<Vec<R>>
    where
        F: PoolFn<M, Args, R>,
        Args: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
        I: IntoIterator<Item = Args>,
    {
        self.results(function.remote(), items, ResultOrder::Input, None)?.into_vec()
    }

    /// As [`Pool::starmap_results`](crate::Pool::starmap_results).
    pub fn starmap_results<F, Args, R, I>(self, function: F, items: I) -> Result<Vec<Result<R>>>
    where
        F: PoolFn<M, Args, R>,
        Args: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
        I: IntoIterator<Item = Args>,
    {
        self.results(function.remote(), items, ResultOrder::Input, None)?.into_results()
    }

    /// As [`Pool::imap`](crate::Pool::imap).
    pub fn imap<F, T, R, I>(self, function: F, items: I) -> LazyResults<'pool, I::IntoIter, R>
    where
        F: PoolFn<M, (T,), R>,
        T: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
        I: IntoIterator<Item = T>,
    {
        self.iterate(function, items, ResultOrder::Input)
    }

    /// As [`Pool::imap_unordered`](crate::Pool::imap_unordered).
    pub fn imap_unordered<F, T, R, I>(self, function: F, items: I) -> LazyResults<'pool, I::IntoIter, R>
    where
        F: PoolFn<M, (T,), R>,
        T: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
        I: IntoIterator<Item = T>,
    {
        self.iterate(function, items, ResultOrder::Arrival)
    }

    /// As [`Pool::map_reduce`](crate::Pool::map_reduce).
    pub fn map_reduce<F, G, T, R, I>(self, map: F, merge: G, items: I) -> Result<Option<R>>
    where
        F: PoolFn<M, (T,), R>,
        G: RemoteFn<(R, R), Output = R>,
        T: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
        I: IntoIterator<Item = T>,
    {
        let plan = Plan::new(self.options.timeout.is_some());
        let batches = Batches::new(items.into_iter(), self.core.workers(), Rc::clone(&plan));
        let results = self.results(MapReduce::new(map.remote(), merge), batches, ResultOrder::Input, None)?;
        merge_batches(results.with_encoded_bytes(plan.last_bytes()), &plan, merge)
    }

    /// As [`Pool::apply`](crate::Pool::apply).
    pub fn apply<F, Args, R>(self, function: F, args: Args) -> Result<R>
    where
        F: PoolFn<M, Args, R>,
        Args: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        let core = self.core;
        let call = self.begin(function.remote(), true)?;
        let mut builder = ChunkBuilder::new(0);
        builder.add(&args)?;
        // This thread drives the pool from the start: waking the pool's own thread takes longer than a task.
        let driver = core.become_driver(false);
        core.submit(builder.pack(&call, 0))?;
        driver.wait_until(Deadline::Never, || call.has_arrived());
        drop(driver);
        TaskHandle::new(Arc::clone(core), call).get()
    }

    /// As [`Pool::submit`](crate::Pool::submit).
    pub fn submit<F, Args, R>(self, function: F, args: Args) -> Result<TaskHandle<R>>
    where
        F: PoolFn<M, Args, R>,
        Args: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        let permit = self.core.wait_for_permit(Deadline::Never)?;
        self.submit_with(permit, function.remote(), &args)
    }

    /// As [`Pool::try_submit`](crate::Pool::try_submit).
    pub fn try_submit<F, Args, R>(self, function: F, args: Args) -> Result<TaskHandle<R>, SendError<Args>>
    where
        F: PoolFn<M, Args, R>,
        Args: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        self.submit_within(function, args, Deadline::now())
    }

    /// As [`Pool::submit_timeout`](crate::Pool::submit_timeout).
    pub fn submit_timeout<F, Args, R>(
        self,
        function: F,
        args: Args,
        time: Duration,
    ) -> Result<TaskHandle<R>, SendError<Args>>
    where
        F: PoolFn<M, Args, R>,
        Args: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        self.submit_within(function, args, Deadline::after(time))
    }

    /// As [`Pool::submit_map`](crate::Pool::submit_map).
    pub fn submit_map<F, T, R, I>(self, function: F, items: I) -> Result<TaskHandle<Vec<R>>>
    where
        F: PoolFn<M, (T,), R>,
        T: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
        I: IntoIterator<Item = T>,
    {
        self.submit_starmap(function, items.into_iter().map(|item| (item,)))
    }

    /// As [`Pool::submit_starmap`](crate::Pool::submit_starmap).
    pub fn submit_starmap<F, Args, R, I>(self, function: F, items: I) -> Result<TaskHandle<Vec<R>>>
    where
        F: PoolFn<M, Args, R>,
        Args: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
        I: IntoIterator<Item = Args>,
    {
        let call = self.begin(function.remote(), false)?;
        let (chunks, count) = Chunk::all_of(&call, items.into_iter())?;
        call.hold_back(count);
        call.hold_until_result(self.core.wait_for_permit(Deadline::Never)?);
        self.core.submit(chunks.into_iter())?;
        Ok(TaskHandle::of_all(Arc::clone(self.core), call))
    }

    fn submit_within<F, Args, R>(
        self,
        function: F,
        args: Args,
        deadline: Deadline,
    ) -> Result<TaskHandle<R>, SendError<Args>>
    where
        F: PoolFn<M, Args, R>,
        Args: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        let permit = self.core.wait_for_permit(deadline);
        let submitted = permit.and_then(|permit| self.submit_with(permit, function.remote(), &args));
        submitted.map_err(|error| SendError::of_task(error, args))
    }

    fn submit_with<F, Args, R>(
        self,
        permit: Option<PendingPermit>,
        function: F,
        args: &Args,
    ) -> Result<TaskHandle<R>>
    where
        F: RemoteFn<Args, Output = R>,
        Args: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        self.submit_named(permit, TaskId::of::<ItemLoop, _, _>(function)?, args)
    }

    fn submit_named<Args, R>(
        self,
        permit: Option<PendingPermit>,
        task: TaskId,
        args: &Args,
    ) -> Result<TaskHandle<R>>
    where
        Args: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        let call = self.begin_named(task, true)?;
        let mut builder = ChunkBuilder::new(0);
        builder.add(args)?;
        call.hold_until_result(permit);
        self.core.submit(builder.pack(&call, 0))?;
        Ok(TaskHandle::new(Arc::clone(self.core), call))
    }

    fn begin<F, Args, R>(self, function: F, is_single: bool) -> Result<Arc<Call>>
    where
        F: RemoteFn<Args, Output = R>,
        Args: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        self.begin_named(TaskId::of::<ItemLoop, _, _>(function)?, is_single)
    }

    fn begin_named(self, task: TaskId, is_single: bool) -> Result<Arc<Call>> {
        if self.options.timeout == Some(Duration::ZERO) {
            return Err(Error::invalid("`timeout` must be greater than zero"));
        }
        if self.options.timeout.is_some() && self.core.is_inline() {
            return Err(inline::unsupported("cannot limit a task's time"));
        }
        if self.options.buffer_size == Some(0) {
            return Err(Error::invalid("`buffer_size` must be at least 1"));
        }
        let cost = if is_single { self.core.function_cost(task) } else { Arc::default() };
        Ok(Call::new(task, self.options, is_single, cost))
    }

    fn results<F, Args, R, I>(
        self,
        function: F,
        items: I,
        order: ResultOrder,
        look_ahead: Option<u64>,
    ) -> Result<Results<'pool, I::IntoIter, R>>
    where
        F: RemoteFn<Args, Output = R>,
        Args: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
        I: IntoIterator<Item = Args>,
    {
        Results::begin(self.core, self.begin(function, false)?, items.into_iter(), order, look_ahead)
    }

    fn iterate<F, T, R, I>(
        self,
        function: F,
        items: I,
        order: ResultOrder,
    ) -> LazyResults<'pool, I::IntoIter, R>
    where
        F: PoolFn<M, (T,), R>,
        T: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
        I: IntoIterator<Item = T>,
    {
        LazyResults::new(self.results(
            function.remote(),
            Singly(items.into_iter()),
            order,
            Some(DEFAULT_BUFFER),
        ))
    }
}

/// The calls of a pool on many hosts, with functions and values of another process of this build.
#[doc(hidden)]
#[allow(clippy::missing_errors_doc)]
impl<'pool> CallOptions<'pool> {
    /// The number of the first item in log records, in place of its index. The others follow.
    pub fn number_from(mut self, number: Option<u64>) -> Self {
        self.options.first_number = number;
        self
    }

    /// As [`imap`](Self::imap): a vector of bytes travels as it is, so the worker gets the encoded arguments,
    /// and this process the encoded result.
    pub fn imap_encoded<I>(self, function: FunctionId, items: I) -> LazyResults<'pool, I::IntoIter, Vec<u8>>
    where
        I: IntoIterator<Item = Vec<u8>>,
    {
        let items = Singly(items.into_iter());
        LazyResults::new(self.begin_named(function.0, false).and_then(|call| {
            Results::begin(self.core, call, items, ResultOrder::Input, Some(DEFAULT_BUFFER))
        }))
    }

    /// As [`submit`](Self::submit), likewise.
    pub fn submit_encoded(self, function: FunctionId, args: Vec<u8>) -> Result<TaskHandle<Vec<u8>>> {
        let permit = self.core.wait_for_permit(Deadline::Never)?;
        self.submit_named(permit, function.0, &(args,))
    }
}
