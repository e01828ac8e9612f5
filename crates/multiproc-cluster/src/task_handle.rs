//! `TaskHandle`: one submitted task.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, Instant};

use multiproc::Result;
use multiproc::pool::encoded;
use serde::de::DeserializeOwned;

use crate::caller::Caller;
use crate::caller::inbox::Inbox;
use crate::cursor::Cursor;

/// The result of a task that [`submit`](crate::Pool::submit) has sent. If it is dropped, the task still runs.
#[must_use = "dropping it loses the task's result and errors"]
pub struct TaskHandle<R> {
    caller: Arc<Caller>,
    inbox: Arc<Inbox>,
    chunk: u64,
    taken: bool,
    result: PhantomData<fn() -> R>,
}

impl<R: DeserializeOwned + serde::Serialize> TaskHandle<R> {
    pub(crate) fn new(caller: Arc<Caller>, inbox: Arc<Inbox>, chunk: u64) -> Self {
        Self { caller, inbox, chunk, taken: false, result: PhantomData }
    }

    /// Waits for the result.
    ///
    /// # Errors
    /// As [`multiproc::pool::TaskHandle::get`], and when the host is lost, or hosts or broker do not answer.
    pub fn get(mut self) -> Result<R> {
        self.take(None)?.ok_or_else(|| encoded::timed_out("get a task's result"))
    }

    /// As [`get`](Self::get), but for at most `time`. `None` if the task has no result by then.
    ///
    /// # Errors
    /// Those of [`get`](Self::get).
    pub fn get_timeout(&mut self, time: Duration) -> Result<Option<R>> {
        self.take(Instant::now().checked_add(time))
    }

    fn take(&mut self, deadline: Option<Instant>) -> Result<Option<R>> {
        if self.taken {
            return Err(encoded::invalid("the task's result was already taken".to_owned()));
        }
        self.caller.check_not_forked()?;
        let batch = self.inbox.take(deadline);
        self.taken = batch.is_some();
        batch.map(|batch| Cursor::new(batch, false).next()).transpose()
    }

    /// Whether [`get`](Self::get) would return without blocking. Does not block.
    pub fn is_ready(&self) -> bool {
        self.taken || self.inbox.has_some() || self.caller.check_not_forked().is_err()
    }

    /// Whether a host has begun the task and it has no result yet. False from the time on in which the host is
    /// given up, until another one begins the task. Does not block.
    pub fn is_running(&self) -> bool {
        !self.is_ready() && self.caller.is_running(self.chunk)
    }

    /// Cancels the task: it does not begin any more, or its worker is killed. Does not block. False if it has
    /// its result.
    pub fn cancel(&self) -> bool {
        self.canceller().cancel()
    }

    /// What can [`cancel`](Self::cancel) this task while another thread waits for its result, or after this
    /// handle was dropped.
    pub fn canceller(&self) -> Canceller {
        Canceller { caller: Arc::clone(&self.caller), chunk: self.chunk }
    }
}

/// Cancels one task. Made by [`TaskHandle::canceller`].
#[derive(Clone)]
pub struct Canceller {
    caller: Arc<Caller>,
    chunk: u64,
}

impl Canceller {
    /// As [`TaskHandle::cancel`].
    pub fn cancel(&self) -> bool {
        self.caller.fail(self.chunk, encoded::cancelled())
    }
}

impl fmt::Debug for Canceller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Canceller").field("chunk", &self.chunk).finish_non_exhaustive()
    }
}

impl<R> fmt::Debug for TaskHandle<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskHandle").field("chunk", &self.chunk).finish_non_exhaustive()
    }
}
