//! `TaskError`: the error that a task's function returns.

use std::error::Error as StdError;
use std::fmt;
use std::marker::PhantomData;

use crate::impl_serde::impl_serde;

/// The error of a task that can fail: almost any error becomes one by `?`, and arrives as its chain of texts.
///
/// A function that runs in another process returns a value that serde can encode, which `io::Error`,
/// `anyhow::Error` and `Box<dyn Error>` are not. So let it return `Result<T, TaskError>`. What arrives is a
/// [`std::error::Error`] with the same message and the same [`source`](std::error::Error::source)s, so
/// `child.join()??` works where `main` returns `anyhow::Result`, `Result<_, Box<dyn Error>>` or
/// [`multiproc::Result`](crate::Result), which makes it an error of kind
/// [`ErrorKind::Task`](crate::ErrorKind::Task).
///
/// ```
/// use multiproc::{Process, TaskError};
///
/// fn count_lines(path: String) -> Result<usize, TaskError> {
///     let text = std::fs::read_to_string(&path)?;
///     if text.is_empty() {
///         return Err(format!("{path} is empty").into());
///     }
///     Ok(text.lines().count())
/// }
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     multiproc::init();
///     let child = Process::spawn(count_lines, ("/proc/version".to_owned(),))?;
///     assert_eq!(child.join()??, 1);
///     let child = Process::spawn(count_lines, ("/no/such/file".to_owned(),))?;
///     assert_eq!(child.join()?.unwrap_err().to_string(), "No such file or directory (os error 2)");
///     Ok(())
/// }
/// ```
///
/// A `Box<dyn Error + Send + Sync>` needs `.map_err(|error| error as Box<dyn Error>)?`. A task whose caller
/// decides by the error's *type* returns an error type of its own that derives `Serialize` and `Deserialize`.
#[derive(Clone)]
pub struct TaskError {
    message: String,
    source: Option<Box<TaskError>>,
    _not_unpin: NotUnpin<()>,
}

impl_serde!(struct TaskError { message, source, _not_unpin });

/// `?` must convert every error, also into a type that is an error itself. But the standard library converts
/// each type into itself, and two conversions of one type may not overlap. So a `TaskError` lacks a trait
/// that every other error has, and that matters to no caller: `Unpin`.
#[derive(Clone)]
struct NotUnpin<T>(PhantomData<T>);

impl_serde!(newtype NotUnpin<T> where [T]);

impl<T: Never> Unpin for NotUnpin<T> {}

/// No type implements it. (The compiler relies on that only for a trait of the crate: so not
/// `PhantomPinned`.)
trait Never {}

/// An error may be its own source; and a value that travels may be 128 levels deep, two of them for each
/// source.
const MAX_SOURCES: usize = 32;

impl<E: Into<Box<dyn StdError>> + Unpin> From<E> for TaskError {
    fn from(error: E) -> Self {
        Self::new(&*error.into(), MAX_SOURCES)
    }
}

impl TaskError {
    fn new(error: &dyn StdError, max_sources: usize) -> Self {
        let source = error.source().zip(max_sources.checked_sub(1));
        let source = source.map(|(source, max_sources)| Box::new(Self::new(source, max_sources)));
        Self { message: error.to_string(), source, _not_unpin: NotUnpin(PhantomData) }
    }
}

impl StdError for TaskError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

impl fmt::Display for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// The whole chain, as a `main` that returns it prints it.
impl fmt::Debug for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        self.source.iter().try_for_each(|source| write!(f, ": {source:?}"))
    }
}
