//! `as_completed`: the results of several tasks, in the order in which they arrive.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Condvar, MutexGuard, PoisonError};
use std::task::{Wake, Waker};
use std::time::Duration;

use serde_core::de::DeserializeOwned;

use super::pool_core::CountedWaker;
use super::task_handle::TaskHandle;
use super::wake_list::ArrivalWaker;
use crate::error::Result;
use crate::sys::poll::Deadline;
use crate::sys::private_mutex::PrivateMutex;

/// Returns the results of tasks in the order in which they arrive, each with the index of its handle. The
/// tasks may be of several pools.
///
/// To wait for the first result, call [`next`](Iterator::next) once; for the first error, use
/// [`find`](Iterator::find); for a time, [`next_timeout`](AsCompleted::next_timeout). What is left can be
/// taken back with [`into_pending`](AsCompleted::into_pending).
///
/// ```
/// use std::time::Duration;
///
/// fn rest(millis: u64) -> u64 {
///     std::thread::sleep(Duration::from_millis(millis));
///     millis
/// }
///
/// fn main() -> multiproc::Result<()> {
///     multiproc::init();
///     let pool = multiproc::Pool::new(2)?;
///     let tasks = [pool.submit(rest, (1000,))?, pool.submit(rest, (1,))?];
///     let mut results = multiproc::as_completed(tasks);
///     let (index, millis) = results.next().unwrap();
///     assert_eq!((index, millis?), (1, 1));
///     assert!(results.next_timeout(Duration::ZERO).is_none());
///     for (_, slow) in results.into_pending() {
///         assert!(slow.cancel());
///     }
///     Ok(())
/// }
/// ```
///
/// Python's `wait(FIRST_EXCEPTION)`:
///
/// ```
/// fn divide(number: u32) -> u32 {
///     12 / number
/// }
///
/// fn main() -> multiproc::Result<()> {
///     multiproc::init();
///     let pool = multiproc::Pool::new(2)?;
///     let tasks = [4, 0, 3].map(|number| pool.submit(divide, (number,)));
///     let mut results = multiproc::as_completed(tasks.into_iter().collect::<multiproc::Result<Vec<_>>>()?);
///     let first_error = results.find(|(_, result)| result.is_err());
///     assert_eq!(first_error.map(|(index, _)| index), Some(1));
///     for (_, task) in results.into_pending() {
///         task.cancel();
///     }
///     Ok(())
/// }
/// ```
pub fn as_completed<R: DeserializeOwned>(handles: impl IntoIterator<Item = TaskHandle<R>>) -> AsCompleted<R> {
    let arrivals = Arc::new(Arrivals::default());
    let count = |handle: TaskHandle<R>| Some((handle.core.count_waker(), handle));
    let handles: Vec<_> = handles.into_iter().map(count).collect();
    let mut checked = None;
    for (index, (_, handle)) in handles.iter().flatten().enumerate() {
        let waker = Waker::from(Arc::new(Arrival { index, arrivals: Arc::clone(&arrivals) }));
        handle.core.wake_at_arrival(&handle.call, ArrivalWaker::Internal(waker.clone()));
        // Once a pool: a thousand handles are mostly of one.
        if checked.replace(&handle.core).is_none_or(|last| !Arc::ptr_eq(last, &handle.core)) {
            handle.core.check();
        }
        if handle.is_settled() {
            waker.wake(); // the pool has not called it
        }
    }
    let pending = handles.len();
    AsCompleted { handles, pending, arrivals }
}

/// The iterator of [`as_completed`]. `next` blocks until another result arrives. Dropping it leaves the tasks
/// to run, as dropping their handles does.
#[must_use = "it returns results only as an iterator"]
pub struct AsCompleted<R> {
    /// By index; `None` once its result was returned.
    handles: Vec<Option<(CountedWaker, TaskHandle<R>)>>,
    pending: usize,
    arrivals: Arc<Arrivals>,
}

/// The indices of the handles whose results have arrived, in that order.
#[derive(Default)]
struct Arrivals {
    indices: PrivateMutex<VecDeque<usize>>,
    changed: Condvar,
}

struct Arrival {
    index: usize,
    arrivals: Arc<Arrivals>,
}

impl Wake for Arrival {
    fn wake(self: Arc<Self>) {
        if let Some(mut indices) = self.arrivals.indices.lock() {
            indices.push_back(self.index);
        }
        self.arrivals.changed.notify_one();
    }
}

impl Arrivals {
    /// Blocks until there is one, or the deadline.
    fn pop(&self, mut indices: MutexGuard<'_, VecDeque<usize>>, deadline: Deadline) -> Option<usize> {
        loop {
            if let Some(index) = indices.pop_front() {
                return Some(index);
            }
            indices = match deadline.left() {
                None => self.changed.wait(indices).unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => return None,
                Some(left) => {
                    let waited = self.changed.wait_timeout(indices, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}

impl<R> AsCompleted<R> {
    /// The handles whose results were not returned, each with its index.
    pub fn into_pending(self) -> impl Iterator<Item = (usize, TaskHandle<R>)> {
        self.handles
            .into_iter()
            .enumerate()
            .filter_map(|(index, handle)| handle.map(|(_, handle)| (index, handle)))
    }
}

impl<R: DeserializeOwned> AsCompleted<R> {
    /// As `next`, but blocks for at most `time`; then returns `None`, as at the end. Which of the two, tells
    /// [`len`](ExactSizeIterator::len).
    pub fn next_timeout(&mut self, time: Duration) -> Option<(usize, Result<R>)> {
        self.next_until(Deadline::after(time))
    }

    fn next_until(&mut self, deadline: Deadline) -> Option<(usize, Result<R>)> {
        while self.pending > 0 {
            let index = match self.arrivals.indices.lock() {
                Some(indices) => self.arrivals.pop(indices, deadline)?,
                // A forked copy: each result is an error.
                None => self.handles.iter().position(Option::is_some)?,
            };
            let Some((_, mut handle)) = self.handles.get_mut(index).and_then(Option::take) else { continue };
            self.pending -= 1;
            if let Some(result) = handle.take_arrived() {
                return Some((index, result));
            }
        }
        None
    }
}

impl<R: DeserializeOwned> Iterator for AsCompleted<R> {
    type Item = (usize, Result<R>);

    fn next(&mut self) -> Option<(usize, Result<R>)> {
        self.next_until(Deadline::Never)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.pending, Some(self.pending))
    }
}

impl<R: DeserializeOwned> ExactSizeIterator for AsCompleted<R> {}

impl<R> fmt::Debug for AsCompleted<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsCompleted").field("pending", &self.pending).finish_non_exhaustive()
    }
}
