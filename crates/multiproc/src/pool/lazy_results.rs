//! `LazyResults`: what `imap` returns.

use std::fmt;
use std::time::Duration;

use serde_core::Serialize;
use serde_core::de::DeserializeOwned;

use super::results::Results;
use crate::error::{Error, Result};
use crate::sys::poll::Deadline;

/// The results of [`imap`](super::Pool::imap) and [`imap_unordered`](super::Pool::imap_unordered), as they
/// become available. `next` blocks until there is one. `I` is the iterator of the input.
///
/// It knows its length if the input does, so a progress bar such as that of
/// [`indicatif`](https://docs.rs/indicatif) needs nothing more:
///
/// ```text
/// use indicatif::ProgressIterator;
///
/// for result in pool.imap_unordered(convert, files).progress() {
///     // …
/// }
/// ```
///
/// It ends earlier than its length says if the pool is closed, or cannot keep its workers, while input is
/// left.
///
/// ```
/// multiproc::init();
/// let pool = multiproc::Pool::new(2)?;
/// let mut squares = pool.imap(|n: u32| n * n, vec![1, 2, 3]);
/// assert_eq!(squares.len(), 3);
/// squares.next();
/// assert_eq!(squares.len(), 2);
/// # Ok::<(), multiproc::Error>(())
/// ```
#[must_use = "it takes its input and runs tasks only as its results are asked for"]
pub struct LazyResults<'pool, I, R> {
    /// `None` if the call could not begin.
    pub(super) results: Option<Results<'pool, Singly<I>, R>>,
    /// Why it could not, until `next` has said it.
    pub(super) error: Option<Error>,
}

impl<'pool, I, R> LazyResults<'pool, I, R> {
    pub(super) fn new(begun: Result<Results<'pool, Singly<I>, R>>) -> Self {
        match begun {
            Ok(results) => Self { results: Some(results), error: None },
            Err(error) => Self { results: None, error: Some(error) },
        }
    }
}

impl<T, I, R> LazyResults<'_, I, R>
where
    T: Serialize + DeserializeOwned,
    I: Iterator<Item = T>,
    R: DeserializeOwned,
{
    /// As `next`, but waits for a result for at most `time`; then returns `None`, as at the end. Which of the
    /// two, tells [`size_hint`](Iterator::size_hint): only at the end is its lower bound 0. Tasks go on. The
    /// input is asked for items here, too, and the time that it takes has no limit.
    ///
    /// A deadline for a whole call is what is left of it for each result; dropping the results then withdraws
    /// what no worker has begun.
    ///
    /// ```
    /// use multiproc::Pool;
    /// use std::time::{Duration, Instant};
    ///
    /// multiproc::init();
    /// let pool = Pool::new(2)?;
    /// let deadline = Instant::now() + Duration::from_millis(200);
    /// let pauses = [0, 0, 3_600_000].map(Duration::from_millis);
    /// let mut results = pool.imap_unordered(std::thread::sleep, pauses);
    /// let mut count = 0;
    /// while let Some(result) = results.next_timeout(deadline.saturating_duration_since(Instant::now())) {
    ///     result?;
    ///     count += 1;
    /// }
    /// assert_eq!((count, results.size_hint().0), (2, 1));
    /// # Ok::<(), multiproc::Error>(())
    /// ```
    pub fn next_timeout(&mut self, time: Duration) -> Option<Result<R>> {
        match &mut self.results {
            Some(results) => results.next_until(Deadline::after(time)),
            None => self.error.take().map(Err),
        }
    }
}

impl<I, R> LazyResults<'_, I, R> {
    /// Ends the call at once: withdraws what no worker has begun, and kills the workers that run the rest.
    #[doc(hidden)]
    pub fn kill(self) {
        if let Some(results) = self.results {
            results.kill();
        }
    }
}

impl<T, I, R> Iterator for LazyResults<'_, I, R>
where
    T: Serialize + DeserializeOwned,
    I: Iterator<Item = T>,
    R: DeserializeOwned,
{
    type Item = Result<R>;

    fn next(&mut self) -> Option<Result<R>> {
        match &mut self.results {
            Some(results) => results.next(),
            None => self.error.take().map(Err),
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        match &self.results {
            Some(results) => results.size_hint(),
            None => (self.error.is_some().into(), Some(self.error.is_some().into())),
        }
    }
}

impl<T, I, R> ExactSizeIterator for LazyResults<'_, I, R>
where
    T: Serialize + DeserializeOwned,
    I: ExactSizeIterator<Item = T>,
    R: DeserializeOwned,
{
}

impl<I, R> fmt::Debug for LazyResults<'_, I, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LazyResults").finish_non_exhaustive()
    }
}

/// Each item as the only argument.
pub(super) struct Singly<I>(pub(super) I);

impl<I: Iterator> Iterator for Singly<I> {
    type Item = (I::Item,);

    fn next(&mut self) -> Option<(I::Item,)> {
        self.0.next().map(|item| (item,))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}
