//! `TaskFuture`: awaits a task's result.

use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::task::{Context, Poll};

use serde_core::de::DeserializeOwned;

use super::task_handle::TaskHandle;
use super::wake_list::ArrivalWaker;
use crate::error::Result;

/// Awaits the result of a [`TaskHandle`]. Any executor will do: a thread of this library wakes it,
/// which does nothing else, so a waker may block and may use the pool.
///
/// Dropping it before the result withdraws the task if no worker has begun it. A running task continues,
/// unless [`kill_on_drop`](Self::kill_on_drop) was set.
///
/// Its first `poll` may spin for up to 30 µs, as [`TaskHandle::get`] does, if a CPU is free and no other future,
/// callback or [`as_completed`](crate::as_completed) waits for the pool; a result of a short task is there by then.
/// No `poll` blocks.
///
/// ```
/// # fn block_on<F: std::future::Future>(future: F) -> F::Output {
/// #     struct Unpark(std::thread::Thread);
/// #     impl std::task::Wake for Unpark {
/// #         fn wake(self: std::sync::Arc<Self>) {
/// #             self.0.unpark();
/// #         }
/// #     }
/// #     let waker = std::sync::Arc::new(Unpark(std::thread::current())).into();
/// #     let mut future = std::pin::pin!(future);
/// #     loop {
/// #         match future.as_mut().poll(&mut std::task::Context::from_waker(&waker)) {
/// #             std::task::Poll::Ready(output) => return output,
/// #             std::task::Poll::Pending => std::thread::park(),
/// #         }
/// #     }
/// # }
/// async fn squares(pool: &multiproc::Pool) -> multiproc::Result<u64> {
///     let (first, second) = (pool.submit(u64::pow, (3, 2))?, pool.submit(u64::pow, (4, 2))?);
///     Ok(first.await? + second.await?)
/// }
///
/// fn main() -> multiproc::Result<()> {
///     multiproc::init(); // before a runtime starts its threads
///     let pool = multiproc::Pool::new(2)?;
///     assert_eq!(block_on(squares(&pool))?, 25); // or tokio's `Runtime::block_on`
///     Ok(())
/// }
/// ```
///
/// # Errors
/// Those of [`TaskHandle::get`], and when the kernel refuses the thread for wakers.
#[must_use = "a future does nothing unless it is awaited, and withdraws its task when it is dropped"]
pub struct TaskFuture<R> {
    handle: TaskHandle<R>,
    state: State,
    kill_on_drop: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    New,
    /// It has returned `Pending`, and is counted by the pool.
    Waiting,
    Done,
}

impl<R> TaskFuture<R> {
    /// Has a drop before the result kill the worker that runs the task, as [`TaskHandle::cancel`] does. The
    /// pool replaces the worker, and no other task is affected.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// multiproc::init();
    /// let pool = multiproc::Pool::new(1)?;
    /// let worker = pool.worker_pids()[0];
    /// let task = pool.submit(std::thread::sleep, (Duration::from_secs(60),))?;
    /// while !task.is_running() {
    ///     std::thread::yield_now();
    /// }
    /// drop(task.into_future().kill_on_drop()); // as a time limit of the runtime does
    /// assert_ne!(pool.apply(std::process::id, ())?, worker);
    /// # Ok::<(), multiproc::Error>(())
    /// ```
    pub fn kill_on_drop(mut self) -> Self {
        self.kill_on_drop = true;
        self
    }

    fn set_state(&mut self, state: State) {
        let (was_waiting, waits) = (self.state == State::Waiting, state == State::Waiting);
        self.state = state;
        if was_waiting != waits {
            self.handle.core.count_future(waits);
        }
    }
}

impl<R: DeserializeOwned> Future for TaskFuture<R> {
    type Output = Result<R>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<R>> {
        let this = &mut *self;
        let TaskHandle { core, call, .. } = &this.handle;
        core.check_not_forked()?; // before a thread is started
        let begins_to_wait = this.state == State::New && !core.spin_until(|| call.has_arrived());
        if begins_to_wait {
            this.set_state(State::Waiting);
        }
        let waker = ArrivalWaker::foreign(context.waker())?;
        this.handle.core.wake_at_arrival(&this.handle.call, waker);
        if begins_to_wait {
            // Workers need not notify of what they finished before it was counted.
            this.handle.core.check();
        }
        match this.handle.take_arrived() {
            Some(result) => {
                this.set_state(State::Done);
                Poll::Ready(result)
            }
            None => Poll::Pending,
        }
    }
}

/// Nothing of it is borrowed from itself.
impl<R> Unpin for TaskFuture<R> {}

impl<R: DeserializeOwned> IntoFuture for TaskHandle<R> {
    type Output = Result<R>;
    type IntoFuture = TaskFuture<R>;

    /// The future that `.await` polls.
    fn into_future(self) -> TaskFuture<R> {
        TaskFuture { handle: self, state: State::New, kill_on_drop: false }
    }
}

impl<R> Drop for TaskFuture<R> {
    fn drop(&mut self) {
        if self.state == State::Done {
            return;
        }
        self.set_state(State::Done);
        if self.kill_on_drop {
            self.handle.cancel();
        } else {
            self.handle.core.withdraw(&self.handle.call);
        }
        self.handle.call.abandon();
    }
}

impl<R> fmt::Debug for TaskFuture<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskFuture").field("handle", &self.handle).finish_non_exhaustive()
    }
}
