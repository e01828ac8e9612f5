//! `ResultStream`: awaits the results of `imap`.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use futures_core::Stream;
use serde_core::Serialize;
use serde_core::de::DeserializeOwned;

use super::lazy_results::LazyResults;
use crate::error::Result;

/// Awaits the results of an [`imap`](super::Pool::imap) or [`imap_unordered`](super::Pool::imap_unordered), as
/// they become available. Feature `async`. Any executor will do: a thread of this library wakes it.
///
/// `poll_next` takes items from the input as [`LazyResults`] does, and encodes them. It never waits for a
/// worker, but for the input: one that blocks, such as the messages of a queue, blocks the executor's thread.
/// In inline mode it runs the tasks.
///
/// Dropping it withdraws what no worker has begun. Running tasks continue, and their results are discarded.
///
/// ```
/// use futures_lite::StreamExt; // or that of `futures`
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     multiproc::init();
///     let pool = multiproc::Pool::new(2)?;
///     tokio::runtime::Runtime::new()?.block_on(async {
///         let mut squares = pool.imap(|n: u64| n * n, 1..=3).into_stream();
///         let mut sum = 0;
///         while let Some(square) = squares.next().await {
///             sum += square?;
///         }
///         assert_eq!(sum, 14);
///         Ok(())
///     })
/// }
/// ```
#[must_use = "it takes its input and runs tasks only as its results are asked for"]
pub struct ResultStream<'pool, I, R> {
    results: LazyResults<'pool, I, R>,
    /// It has returned `Pending`, and is counted by the pool.
    waits: bool,
}

impl<'pool, I, R> LazyResults<'pool, I, R> {
    /// The same results, to be awaited. Feature `async`.
    pub fn into_stream(self) -> ResultStream<'pool, I, R> {
        ResultStream { results: self, waits: false }
    }
}

impl<I, R> ResultStream<'_, I, R> {
    fn set_waits(&mut self, waits: bool) {
        if let Some(results) = self.results.results.as_ref().filter(|_| self.waits != waits) {
            results.count_future(waits);
            self.waits = waits;
        }
    }
}

impl<T, I, R> ResultStream<'_, I, R>
where
    T: Serialize + DeserializeOwned,
    I: Iterator<Item = T>,
    R: DeserializeOwned,
{
    fn poll(&mut self, waker: &Waker) -> Poll<Option<Result<R>>> {
        match &mut self.results.results {
            Some(results) => results.poll_next(waker),
            None => Poll::Ready(self.results.error.take().map(Err)),
        }
    }
}

impl<T, I, R> Stream for ResultStream<'_, I, R>
where
    T: Serialize + DeserializeOwned,
    I: Iterator<Item = T>,
    R: DeserializeOwned,
{
    type Item = Result<R>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<R>>> {
        let this = &mut *self;
        let mut polled = this.poll(context.waker());
        if polled.is_pending() && !this.waits {
            this.set_waits(true);
            // Workers need not notify of what they finished before it was counted.
            polled = this.poll(context.waker());
        }
        if polled.is_ready() {
            this.set_waits(false);
        }
        polled
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.results.size_hint()
    }
}

/// The input is never pinned.
impl<I, R> Unpin for ResultStream<'_, I, R> {}

impl<I, R> Drop for ResultStream<'_, I, R> {
    fn drop(&mut self) {
        self.set_waits(false);
    }
}

impl<I, R> fmt::Debug for ResultStream<'_, I, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResultStream").finish_non_exhaustive()
    }
}
