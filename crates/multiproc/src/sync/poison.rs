//! Lock poisoning: which thread failed while it held a lock.

use std::fmt;

use crate::error::{Cause, Error, Failure, Origin};
use crate::sys::pidfd::Exit;
use crate::sys::{recent_exits, thread_id::ThreadId};

/// The result of taking a lock: the guard; the guard with a poison error; or an error.
pub type LockResult<G> = Result<G, LockError<G>>;

/// Why a lock was not taken, or was taken with its data in doubt.
///
/// In a function that returns an [`Error`], a [`TaskError`](crate::TaskError) or a boxed error, `?` gives a
/// poisoned lock up. `anyhow::Error` takes no error that borrows, and this one may hold a guard: there, say
/// which of the two is meant.
///
/// ```
/// use multiproc::sync::{LockError, Mutex};
///
/// # type Result = std::result::Result<(), Box<dyn std::error::Error + Send + Sync>>; // as of `anyhow`
/// fn deposit(account: &Mutex<u64>) -> Result {
///     *account.lock().map_err(LockError::into_error)? += 1; // a poisoned lock is an error
///     *account.lock().or_else(LockError::into_guard)? += 1; // the guard, poisoned or not
///     Ok(())
/// }
/// # fn main() -> Result { deposit(&Mutex::new(0)?) }
/// ```
pub enum LockError<G> {
    /// The lock is taken, and an earlier holder died or panicked while it held the lock.
    Poisoned(Poisoned<G>),
    /// The lock is not taken: [`Error::is_timeout`], or the calling thread holds the lock already
    /// ([`Error::os_error`] is `EDEADLK`).
    Failed(Error),
}

/// The guard of a lock whose data may be in an unexpected state, and what left it so.
pub struct Poisoned<G>(Box<(G, Error)>); // small, so that a guard that is not poisoned is moved as it is

impl<G> LockError<G> {
    /// The guard of a poisoned lock: to be used where the data is sound whatever state it is in.
    ///
    /// # Errors
    /// Why the lock was not taken.
    pub fn into_guard(self) -> Result<G, Error> {
        match self {
            Self::Poisoned(poisoned) => Ok(poisoned.into_guard()),
            Self::Failed(error) => Err(error),
        }
    }

    /// What is wrong. The guard of a poisoned lock is dropped.
    pub fn into_error(self) -> Error {
        self.into()
    }

    pub(super) fn map<H>(self, with: impl FnOnce(G) -> H) -> LockError<H> {
        match self {
            Self::Poisoned(poisoned) => {
                let (guard, error) = *poisoned.0;
                LockError::Poisoned(Poisoned(Box::new((with(guard), error))))
            }
            Self::Failed(error) => LockError::Failed(error),
        }
    }

    /// What is wrong.
    pub fn error(&self) -> &Error {
        match self {
            Self::Poisoned(poisoned) => poisoned.error(),
            Self::Failed(error) => error,
        }
    }
}

impl<G> Poisoned<G> {
    /// The guard, with which the data can be repaired.
    pub fn into_guard(self) -> G {
        self.0.0
    }

    /// What died or panicked: [`Error::pid`], and for a child of this process its name, [`Error::signal`] and
    /// [`Error::exit_code`].
    pub fn error(&self) -> &Error {
        &self.0.1
    }
}

impl<G> From<LockError<G>> for Error {
    fn from(error: LockError<G>) -> Self {
        match error {
            LockError::Poisoned(poisoned) => poisoned.0.1,
            LockError::Failed(error) => error,
        }
    }
}

impl<G> From<Error> for LockError<G> {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// So `?` also gives a [`TaskError`](crate::TaskError).
impl<G> From<LockError<G>> for Box<dyn std::error::Error> {
    fn from(error: LockError<G>) -> Self {
        error.into_error().into()
    }
}

impl<G> From<LockError<G>> for Box<dyn std::error::Error + Send + Sync> {
    fn from(error: LockError<G>) -> Self {
        error.into_error().into()
    }
}

impl<G> fmt::Display for LockError<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error().fmt(f)
    }
}

impl<G> fmt::Debug for LockError<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error().fmt(f)
    }
}

impl<G> fmt::Debug for Poisoned<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error().fmt(f)
    }
}

/// `Ok` with the guard, unless the word of the lock names a failure.
#[inline]
pub(super) fn check_poison<G>(guard: G, lock: &str, failure_word: u64) -> LockResult<G> {
    if failure_word == 0 { Ok(guard) } else { Err(poisoned(guard, lock, failure_word)) }
}

#[cold]
fn poisoned<G>(guard: G, lock: &str, failure_word: u64) -> LockError<G> {
    let error = error(failure_word, |failure| Cause::Poisoned { lock: lock.to_owned(), failure });
    LockError::Poisoned(Poisoned(Box::new((guard, error))))
}

/// The error that a word means which [`failure_word`] gave, or that anything else has written.
pub(super) fn error(failure_word: u64, cause: impl FnOnce(Failure) -> Cause) -> Error {
    #[allow(clippy::cast_possible_truncation)] // its low half
    let pid = failure_word as u32;
    let (name, exit) = recent_exits::find(pid).unzip();
    let failure = match (failure_word >> 32, exit) {
        (PANICKED, _) => Failure::Panicked,
        (TIMED_OUT, _) => Failure::TimedOut,
        (ABORTED, _) => Failure::Aborted,
        (RESET, _) => Failure::Reset,
        // A process that was killed may have been dying still when the word was written.
        (THREAD_ENDED, None) if !ThreadId::of_number(pid).has_ended() => Failure::ThreadEnded,
        (_, Some(Exit::Signal(signal))) => Failure::Signal(signal),
        (_, Some(Exit::Code(code))) => Failure::Exit(code),
        (_, Some(Exit::Lost) | None) => Failure::Died,
    };
    Error::new(cause(failure)).with_origin(match name {
        Some(name) if !name.is_empty() => Origin::Process { name, pid },
        _ => Origin::Pid(pid),
    })
}

/// The word that says that a thread of a process has ended, and the process with it if it does not live.
pub(super) fn death_word(thread: ThreadId, pid: u32) -> u64 {
    let lives = thread.number() != pid && !ThreadId::of_number(pid).has_ended();
    failure_word(pid, if lives { Failure::ThreadEnded } else { Failure::Died })
}

/// The word that names a process, and what it did; it is not 0.
fn failure_word(pid: u32, failure: Failure) -> u64 {
    let failure = match failure {
        Failure::ThreadEnded => THREAD_ENDED,
        Failure::Died | Failure::Signal(_) | Failure::Exit(_) => DIED,
        Failure::Panicked => PANICKED,
        Failure::TimedOut => TIMED_OUT,
        Failure::Aborted => ABORTED,
        Failure::Reset => RESET,
    };
    failure << 32 | u64::from(pid)
}

/// The word that names this process.
pub(super) fn own_failure_word(failure: Failure) -> u64 {
    failure_word(ThreadId::current_and_process().1.number(), failure)
}

const DIED: u64 = 1;
const PANICKED: u64 = 2;
const TIMED_OUT: u64 = 3;
const ABORTED: u64 = 4;
const RESET: u64 = 5;
const THREAD_ENDED: u64 = 6;
