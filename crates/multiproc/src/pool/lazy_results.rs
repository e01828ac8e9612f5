//! `LazyResults`: what `imap` returns.

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::results::Results;
use crate::error::{Error, Result};

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
