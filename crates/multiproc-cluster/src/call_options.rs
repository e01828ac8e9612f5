//! `CallOptions`: the calls of a pool with options.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use multiproc::pool::encoded::{self, FunctionId};
use multiproc::queue::SendError;
use multiproc::{RemoteFn, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::caller::inbox::Inbox;
use crate::caller::permits::Permit;
use crate::caller::{Caller, NewChunk};
use crate::options::{HostLoss, Options};
use crate::protocol;
use crate::results::{Items, Order, Results};
use crate::task_handle::TaskHandle;

/// Options for one call. Made by [`Pool::options`](crate::Pool::options); ends with one of the pool's calls.
#[must_use]
#[derive(Clone, Copy)]
pub struct CallOptions<'pool> {
    pub(crate) caller: &'pool Arc<Caller>,
    pub(crate) options: Options,
}

impl CallOptions<'_> {
    /// As [`multiproc::pool::CallOptions::timeout`].
    pub fn timeout(mut self, time: Duration) -> Self {
        self.options.timeout = Some(time);
        self
    }

    /// As [`multiproc::pool::CallOptions::grace`]: how long a task may go on after its time limit, or after
    /// it was [cancelled](TaskHandle::cancel), to end by itself.
    pub fn grace(mut self, time: Duration) -> Self {
        self.options.grace = time;
        self
    }

    /// As [`multiproc::pool::CallOptions::retries`]: further runs of an item whose *worker* died.
    pub fn retries(mut self, times: u32) -> Self {
        self.options.retries = times;
        self
    }

    /// What becomes of items whose *host* is lost.
    pub fn on_host_loss(mut self, choice: HostLoss) -> Self {
        self.options.on_host_loss = choice;
        self
    }

    /// As [`multiproc::pool::CallOptions::buffer_size`]: the maximum number of items that `imap` takes ahead of
    /// the results that it has returned.
    pub fn buffer_size(mut self, size: usize) -> Self {
        self.options.buffer_size = Some(size);
        self
    }

    fn check(self) -> Result<()> {
        self.caller.check_not_forked()?;
        if self.options.timeout == Some(Duration::ZERO) {
            return Err(encoded::invalid("`timeout` must be greater than zero".to_owned()));
        }
        if self.options.buffer_size == Some(0) {
            return Err(encoded::invalid("`buffer_size` must be at least 1".to_owned()));
        }
        Ok(())
    }
}

/// The calls.
#[allow(clippy::missing_errors_doc)]
impl CallOptions<'_> {
    /// As [`Pool::map`](crate::Pool::map).
    pub fn map<F, T, R, I>(self, function: F, items: I) -> Result<Vec<R>>
    where
        F: RemoteFn<(T,), Output = R>,
        T: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
        I: IntoIterator<Item = T>,
    {
        self.imap(function, items).collect()
    }

    /// As [`Pool::map_results`](crate::Pool::map_results).
    pub fn map_results<F, T, R, I>(self, function: F, items: I) -> Result<Vec<Result<R>>>
    where
        F: RemoteFn<(T,), Output = R>,
        T: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
        I: IntoIterator<Item = T>,
    {
        self.check()?;
        self.imap(function, items).collect_all()
    }

    /// As [`Pool::starmap`](crate::Pool::starmap).
    pub fn starmap<F, Args, R, I>(self, function: F, items: I) -> Result<Vec<R>>
    where
        F: RemoteFn<Args, Output = R>,
        Args: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
        I: IntoIterator<Item = Args>,
    {
        self.tuples(function, items).collect()
    }

    /// As [`Pool::starmap_results`](crate::Pool::starmap_results).
    pub fn starmap_results<F, Args, R, I>(self, function: F, items: I) -> Result<Vec<Result<R>>>
    where
        F: RemoteFn<Args, Output = R>,
        Args: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
        I: IntoIterator<Item = Args>,
    {
        self.check()?;
        self.tuples(function, items).collect_all()
    }

    fn tuples<F, Args, R, I>(self, function: F, items: I) -> Results<I::IntoIter, R>
    where
        F: RemoteFn<Args, Output = R>,
        Args: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
        I: IntoIterator<Item = Args>,
    {
        let function = self.check().and_then(|()| FunctionId::of(function));
        let input = (items.into_iter(), Items::Tuples);
        Results::new(Arc::clone(self.caller), self.options, function, input, Order::Input)
    }

    /// As [`Pool::imap`](crate::Pool::imap).
    pub fn imap<F, T, R, I>(self, function: F, items: I) -> Results<I::IntoIter, R>
    where
        F: RemoteFn<(T,), Output = R>,
        T: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
        I: IntoIterator<Item = T>,
    {
        self.results(function, items, Order::Input)
    }

    /// As [`Pool::imap_unordered`](crate::Pool::imap_unordered).
    pub fn imap_unordered<F, T, R, I>(self, function: F, items: I) -> Results<I::IntoIter, R>
    where
        F: RemoteFn<(T,), Output = R>,
        T: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
        I: IntoIterator<Item = T>,
    {
        self.results(function, items, Order::Arrival)
    }

    /// As [`Pool::apply`](crate::Pool::apply).
    pub fn apply<F, Args, R>(self, function: F, args: Args) -> Result<R>
    where
        F: RemoteFn<Args, Output = R>,
        Args: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        self.submit_with(None, function, &args)?.get()
    }

    /// As [`Pool::submit`](crate::Pool::submit).
    pub fn submit<F, Args, R>(self, function: F, args: Args) -> Result<TaskHandle<R>>
    where
        F: RemoteFn<Args, Output = R>,
        Args: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        self.check()?;
        let permit = self.caller.permits.take(None);
        self.submit_with(permit, function, &args)
    }

    /// As [`Pool::try_submit`](crate::Pool::try_submit).
    pub fn try_submit<F, Args, R>(self, function: F, args: Args) -> Result<TaskHandle<R>, SendError<Args>>
    where
        F: RemoteFn<Args, Output = R>,
        Args: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        self.submit_within(function, args, Some(Instant::now()))
    }

    /// As [`Pool::submit_timeout`](crate::Pool::submit_timeout).
    pub fn submit_timeout<F, Args, R>(
        self,
        function: F,
        args: Args,
        time: Duration,
    ) -> Result<TaskHandle<R>, SendError<Args>>
    where
        F: RemoteFn<Args, Output = R>,
        Args: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        self.submit_within(function, args, Instant::now().checked_add(time))
    }

    fn submit_within<F, Args, R>(
        self,
        function: F,
        args: Args,
        deadline: Option<Instant>,
    ) -> Result<TaskHandle<R>, SendError<Args>>
    where
        F: RemoteFn<Args, Output = R>,
        Args: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        if let Err(error) = self.check() {
            return Err(encoded::refused(error, args));
        }
        let Some(permit) = self.caller.permits.take(deadline) else { return Err(encoded::full(args)) };
        self.submit_with(Some(permit), function, &args).map_err(|error| encoded::refused(error, args))
    }

    fn submit_with<F, Args, R>(
        self,
        permit: Option<Permit>,
        function: F,
        args: &Args,
    ) -> Result<TaskHandle<R>>
    where
        F: RemoteFn<Args, Output = R>,
        Args: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        self.check()?;
        let (mut bytes, mut items) = (Vec::new(), Vec::new());
        encoded::encode(args, &mut bytes, "the arguments")?;
        protocol::push(&mut items, &bytes);
        let inbox = Arc::<Inbox>::default();
        let chunk = self.caller.submit(NewChunk {
            inbox: Arc::clone(&inbox),
            function: FunctionId::of(function)?,
            first: None,
            count: 1,
            items,
            timeout: self.options.timeout,
            grace: self.options.grace,
            retries: self.options.retries,
            on_host_loss: self.options.on_host_loss,
            permit,
            called: Instant::now(),
        })?;
        Ok(TaskHandle::new(Arc::clone(self.caller), inbox, chunk))
    }

    fn results<F, T, R, I>(self, function: F, items: I, order: Order) -> Results<I::IntoIter, R>
    where
        F: RemoteFn<(T,), Output = R>,
        T: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
        I: IntoIterator<Item = T>,
    {
        let function = self.check().and_then(|()| FunctionId::of(function));
        let input = (items.into_iter(), Items::Arguments);
        Results::new(Arc::clone(self.caller), self.options, function, input, order)
    }
}

impl fmt::Debug for CallOptions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallOptions").field("options", &self.options).finish_non_exhaustive()
    }
}
