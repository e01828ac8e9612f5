//! `ProcessFuture`: awaits a child's end and result.

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use std::{fmt, mem};

use serde_core::de::DeserializeOwned;

use crate::callback_thread::WAKERS;
use crate::error::{Error, Result};
use crate::process::Process;

/// Awaits the end of a child and the result of its function. Any executor will do: a thread of this library
/// wakes it, which does nothing else. No `poll` blocks.
///
/// It waits for the end of the child, also of one whose result has come and which cannot write its output, because
/// nothing reads the pipe; [`Process::join`] returns the result 5 s after it came.
///
/// Dropping it detaches the child, as dropping the [`Process`] does, unless
/// [`kill_on_drop`](Self::kill_on_drop) was set.
///
/// ```
/// use multiproc::Process;
///
/// async fn cubes() -> multiproc::Result<u64> {
///     let (first, second) = (Process::spawn(u64::pow, (3, 3))?, Process::spawn(u64::pow, (4, 3))?);
///     Ok(first.await? + second.await?)
/// }
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     multiproc::init(); // before the runtime starts its threads
///     assert_eq!(tokio::runtime::Runtime::new()?.block_on(cubes())?, 91);
///     Ok(())
/// }
/// ```
///
/// # Errors
/// Those of [`Process::join`].
#[must_use = "a future does nothing unless it is awaited"]
pub struct ProcessFuture<T> {
    /// `None` once its result was returned.
    process: Option<Process<T>>,
    /// Of the latest `poll`; shared with the thread that learns of the child's end.
    waker: Option<Arc<Mutex<Waker>>>,
    kill_on_drop: bool,
}

impl<T> ProcessFuture<T> {
    /// Has a drop before the result kill the child (SIGKILL).
    ///
    /// ```
    /// use multiproc::{Connection, Process, pipe};
    /// use std::time::Duration;
    ///
    /// fn report_late(report: Connection<u32, ()>) {
    ///     std::thread::sleep(Duration::from_secs(60));
    ///     let _ = report.send(7);
    /// }
    ///
    /// fn main() -> multiproc::Result<()> {
    ///     multiproc::init();
    ///     let (report, theirs) = pipe::<(), u32>()?;
    ///     let future = Process::spawn(report_late, (theirs,))?.into_future().kill_on_drop();
    ///     drop(future); // as a time limit of the runtime does
    ///     assert!(report.recv().unwrap_err().is_disconnected());
    ///     Ok(())
    /// }
    /// ```
    pub fn kill_on_drop(mut self) -> Self {
        self.kill_on_drop = true;
        self
    }

    /// Has the child's end wake the task.
    fn wake_at_end(&mut self, process: &Process<T>, waker: &Waker) -> Result<()> {
        if let Some(known) = &self.waker {
            let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
            let replaced = mem::replace(&mut *known, waker.clone());
            drop(known);
            drop(replaced); // may run foreign code
            return Ok(());
        }
        WAKERS.start()?;
        let shared = Arc::new(Mutex::new(waker.clone()));
        self.waker = Some(Arc::clone(&shared));
        process.set_on_change(Arc::new(move || {
            WAKERS.call(shared.lock().unwrap_or_else(PoisonError::into_inner).clone());
        }));
        Ok(())
    }
}

impl<T: DeserializeOwned> Future for ProcessFuture<T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<T>> {
        let Some(mut process) = self.process.take() else {
            return Poll::Ready(Err(Error::invalid("the process was joined already")));
        };
        // The child may end between a check and the registration, so there is a check after it, too.
        let mut result = process.join_timeout(Duration::ZERO);
        if matches!(result, Ok(None)) {
            result = self
                .wake_at_end(&process, context.waker())
                .and_then(|()| process.join_timeout(Duration::ZERO));
        }
        let Some(result) = result.transpose() else {
            self.process = Some(process);
            return Poll::Pending;
        };
        // An error may be one of this process, and the child lives on.
        if result.is_err() && self.kill_on_drop {
            let _ = process.kill(); // refused in inline mode, and in a forked copy
        }
        Poll::Ready(result)
    }
}

/// Nothing of it is borrowed from itself.
impl<T> Unpin for ProcessFuture<T> {}

impl<T: DeserializeOwned> IntoFuture for Process<T> {
    type Output = Result<T>;
    type IntoFuture = ProcessFuture<T>;

    /// The future that `.await` polls.
    fn into_future(self) -> ProcessFuture<T> {
        ProcessFuture { process: Some(self), waker: None, kill_on_drop: false }
    }
}

impl<T> Drop for ProcessFuture<T> {
    fn drop(&mut self) {
        if let Some(process) = self.process.take().filter(|_| self.kill_on_drop) {
            let _ = process.kill(); // refused in inline mode, and in a forked copy
        }
    }
}

impl<T> fmt::Debug for ProcessFuture<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessFuture").field("process", &self.process).finish_non_exhaustive()
    }
}
