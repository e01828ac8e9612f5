//! `TaskHandle`: the pending result of one task.

use std::fmt;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use serde_core::de::DeserializeOwned;

use super::call::Call;
use super::callbacks;
use super::pool_core::{CountedWaker, PoolCore};
use crate::error::{Error, Result};
use crate::sys::poll::Deadline;

/// A task submitted with [`Pool::submit`](super::Pool::submit), or all items of a
/// [`Pool::submit_map`](super::Pool::submit_map). Dropping the handle does not cancel the task.
///
/// Every task gets a result, also when its worker dies or the pool is dropped. A handle can be awaited, too:
/// see [`TaskFuture`](super::TaskFuture).
///
/// ```
/// fn main() -> multiproc::Result<()> {
///     multiproc::init();
///     let pool = multiproc::Pool::new(2)?;
///     let first = pool.submit(|x: u64| x + 1, (1,))?;
///     let second = pool.submit(|x: u64| x + 1, (2,))?;
///     assert_eq!(first.get()? + second.get()?, 5);
///     Ok(())
/// }
/// ```
#[must_use = "dropping a `TaskHandle` loses the task's result: call `get`"]
pub struct TaskHandle<R> {
    pub(super) core: Arc<PoolCore>,
    pub(super) call: Arc<Call>,
    taken: bool,
    /// Takes the result of the call, if it has arrived.
    take_result: fn(&Call) -> Option<Result<R>>,
}

impl<R: DeserializeOwned> TaskHandle<R> {
    /// Of a call with one item.
    pub(crate) fn new(core: Arc<PoolCore>, call: Arc<Call>) -> Self {
        Self { core, call, taken: false, take_result: Call::only_result }
    }
}

impl<R: DeserializeOwned> TaskHandle<Vec<R>> {
    /// Of a call that holds back the results of its items.
    pub(crate) fn of_all(core: Arc<PoolCore>, call: Arc<Call>) -> Self {
        Self { core, call, taken: false, take_result: Call::all_results }
    }
}

impl<R> TaskHandle<R> {
    /// Has the `waker` of a thread called once, when the result arrives. It neither blocks nor uses a pool. To be kept
    /// while the thread waits.
    pub(crate) fn watch(&self, waker: &Waker) -> Option<CountedWaker> {
        let is_new = self.core.watch(&self.call, waker);
        let counted = is_new.then(|| self.core.count_waker());
        self.core.check();
        counted
    }

    /// Undoes [`watch`](Self::watch).
    pub(crate) fn unwatch(&self, waker: &Waker) {
        self.call.unwatch(waker);
    }

    /// Whether [`get`](Self::get) would return without blocking. Does not block.
    pub fn is_ready(&self) -> bool {
        let poll = || {
            self.core.check();
            self.call.has_arrived()
        };
        self.taken || self.call.has_arrived() || poll() || self.core.check_not_forked().is_err()
    }

    /// Whether a worker has begun the task and it has no result yet. Does not block.
    pub fn is_running(&self) -> bool {
        !self.is_ready() && self.core.is_running(&self.call)
    }

    /// Withdraws the task if no worker has begun it; otherwise kills its worker (SIGKILL), which the pool
    /// replaces. With a [grace](super::CallOptions::grace) the task can end by itself first. Returns true if the
    /// task's result is now [`is_cancelled`](Error::is_cancelled), false if the task had already finished, been
    /// cancelled, or exceeded its time limit. No other task is affected.
    ///
    /// Does not block: the killed worker may live for a moment. It is dead, or the task has ended by itself,
    /// when [`get`](Self::get) returns the result.
    ///
    /// ```
    /// use multiproc::Pool;
    /// use std::time::Duration;
    ///
    /// multiproc::init();
    /// let pool = Pool::new(1)?;
    /// let task = pool.submit(std::thread::sleep, (Duration::from_secs(3600),))?;
    /// assert!(task.cancel());
    /// assert!(task.get().unwrap_err().is_cancelled());
    /// # Ok::<(), multiproc::Error>(())
    /// ```
    pub fn cancel(&self) -> bool {
        self.core.cancel(&self.call)
    }

    /// What can [`cancel`](Self::cancel) this task while another thread waits for its result, or after this
    /// handle was dropped.
    pub fn canceller(&self) -> Canceller {
        Canceller { core: Arc::clone(&self.core), call: Arc::clone(&self.call) }
    }
}

impl<R: DeserializeOwned + 'static> TaskHandle<R> {
    /// Has `function` called with the result once it is there, in a thread that this program uses for all
    /// such calls, one after the other. Does not block. A panic of the function has no other effect. Calls
    /// that have not begun when the program ends are lost.
    ///
    /// ```
    /// use std::sync::mpsc;
    ///
    /// multiproc::init();
    /// let pool = multiproc::Pool::new(1)?;
    /// let (sender, results) = mpsc::channel();
    /// pool.submit(u64::pow, (2, 10))?.on_done(move |result| sender.send(result).unwrap())?;
    /// assert_eq!(results.recv().unwrap()?, 1024);
    /// # Ok::<(), multiproc::Error>(())
    /// ```
    ///
    /// # Errors
    /// When the kernel refuses the thread, or in a forked copy of the process that created the pool. The task
    /// runs then, and its result is dropped.
    pub fn on_done(self, function: impl FnOnce(Result<R>) + Send + 'static) -> Result<()> {
        let (core, call) = (Arc::clone(&self.core), Arc::clone(&self.call));
        callbacks::when_arrived(&core, &call, self.taken, move || function(self.get()))
    }
}

impl<R: DeserializeOwned> TaskHandle<R> {
    /// Returns the task's result. Blocks until it arrives.
    ///
    /// # Errors
    /// When the task panicked, when its worker died while running it, when it was cancelled, when its
    /// arguments or its result could not be encoded or decoded, or when [`get_timeout`](Self::get_timeout)
    /// has already returned the result.
    pub fn get(mut self) -> Result<R> {
        self.take(Deadline::Never)?.ok_or_else(|| Error::timeout("get a task's result"))
    }

    /// As [`get`](Self::get), but blocks for at most `time`, then returns `None`; the task continues.
    ///
    /// # Errors
    /// Those of [`get`](Self::get).
    pub fn get_timeout(&mut self, time: Duration) -> Result<Option<R>> {
        self.take(Deadline::after(time))
    }

    fn take(&mut self, deadline: Deadline) -> Result<Option<R>> {
        if self.taken {
            return Err(Error::invalid("the task's result was already taken"));
        }
        if !self.call.has_arrived() {
            self.core.check_not_forked()?;
            self.core.become_driver(false).wait_until(deadline, || self.call.has_arrived());
        }
        self.take_arrived().transpose()
    }

    /// Whether [`take_arrived`](Self::take_arrived) gives something.
    pub(super) fn is_settled(&self) -> bool {
        self.taken || self.call.has_arrived() || self.core.check_not_forked().is_err()
    }

    /// The result if it has arrived, or why it never will.
    pub(super) fn take_arrived(&mut self) -> Option<Result<R>> {
        if self.taken {
            return Some(Err(Error::invalid("the task's result was already taken")));
        }
        let result = (self.take_result)(&self.call).or_else(|| self.core.check_not_forked().err().map(Err));
        self.taken = result.is_some();
        result
    }
}

/// Cancels a task from any thread. Made by [`TaskHandle::canceller`].
///
/// ```
/// use multiproc::Pool;
/// use std::time::Duration;
///
/// multiproc::init();
/// let pool = Pool::new(1)?;
/// let task = pool.submit(std::thread::sleep, (Duration::from_secs(3600),))?;
/// let canceller = task.canceller();
/// std::thread::spawn(move || canceller.cancel());
/// assert!(task.get().unwrap_err().is_cancelled());
/// # Ok::<(), multiproc::Error>(())
/// ```
#[derive(Clone)]
pub struct Canceller {
    core: Arc<PoolCore>,
    call: Arc<Call>,
}

impl Canceller {
    /// As [`TaskHandle::cancel`].
    pub fn cancel(&self) -> bool {
        self.core.cancel(&self.call)
    }
}

impl fmt::Debug for Canceller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Canceller").finish_non_exhaustive()
    }
}

impl<R> fmt::Debug for TaskHandle<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskHandle").field("is_ready", &self.is_ready()).finish_non_exhaustive()
    }
}
