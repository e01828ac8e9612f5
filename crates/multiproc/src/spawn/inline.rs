//! Inline mode: tasks run in the process that starts them. A pool runs each task in the thread that submits
//! it; a `Process` is a thread.

use std::env::var_os;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::thread;

use serde_core::Serialize;
use serde_core::de::DeserializeOwned;

use crate::error::{Cause, Error, Origin, Result};
use crate::ipc::panic::install_panic_hook;
use crate::ipc::wire::{self, SharedFd};
use crate::spawn::bootstrap;
use crate::spawn::run_task::failure_code;
use crate::spawn::supervisor::{OnChange, forked_copy_error, lock};
use crate::sys::eventfd;
use crate::sys::fork_detect::OriginalProcess;
use crate::sys::inline_exit_warning::with_exit_warning;
use crate::sys::poll::Deadline;
use crate::sys::privileges::is_secure;
use crate::sys::process_local::{DoneOnce, ProcessLocal};
use crate::task::{RemoteFn, RunOnce};

/// Whether the environment asks for inline mode.
pub(super) fn is_wanted() -> Result<bool> {
    static IS_WANTED: ProcessLocal<Result<bool>> = ProcessLocal::new(|inherited| {
        // Whoever executes a privileged program must not switch its isolation off.
        let wish = || var_os("MULTIPROC_INLINE").filter(|_| !is_secure());
        inherited.map_or_else(|| parse(wish().as_deref()), Clone::clone)
    });
    IS_WANTED.get().clone()
}

fn parse(text: Option<&OsStr>) -> Result<bool> {
    match text.map(|text| text.to_str()) {
        None | Some(Some("0")) => Ok(false),
        Some(Some("1")) => Ok(true),
        Some(_) => Err(Error::invalid(format!(
            "the environment variable MULTIPROC_INLINE is \"{}\", not \"0\" or \"1\"",
            text.unwrap_or_default().display()
        ))),
    }
}

/// What inline mode cannot do.
pub(crate) fn unsupported(what: &str) -> Error {
    Error::invalid(format!(
        "{what} in inline mode (MULTIPROC_INLINE): a task runs in the program's own process"
    ))
}

/// Fails as a start of a child would.
pub(crate) fn check_initialised() -> Result<()> {
    bootstrap::identity().map(drop).ok_or_else(|| Error::new(Cause::NotInitialised))
}

/// Runs a task in this thread. An `exit` in it says what it ends, and a panic's place is known.
pub(crate) fn run<T>(task: impl FnOnce() -> T) -> T {
    static HOOK: DoneOnce = DoneOnce::once();
    HOOK.get().call_once(install_panic_hook);
    with_exit_warning(task)
}

/// A `Process`: a thread.
pub(crate) struct InlineChild {
    name: String,
    state: Arc<State>,
}

/// An encoded result, and its descriptors.
type Outcome = (Vec<u8>, Vec<OwnedFd>);

fn own(descriptors: Vec<SharedFd>) -> Result<Vec<OwnedFd>> {
    descriptors.into_iter().map(SharedFd::into_descriptor).collect()
}

struct State {
    /// A forked copy of it lacks the thread.
    original: OriginalProcess,
    /// The encoded result, until it is taken.
    outcome: Mutex<Option<Result<Outcome>>>,
    /// The exit code of a child that would have run the task.
    code: OnceLock<i32>,
    ended: Condvar,
    on_end: Mutex<Option<OnChange>>,
    /// Readable when the task has ended.
    event: OwnedFd,
}

impl InlineChild {
    /// Arguments and result are encoded as for a child: they need not be `Send`, and ends of queues and pipes
    /// move.
    pub(crate) fn start<F, Args>(name: String, _function: F, args: &Args) -> Result<Self>
    where
        F: RemoteFn<Args>,
        Args: Serialize + DeserializeOwned,
    {
        check_initialised()?;
        let mut bytes = Vec::new();
        let descriptors = wire::encode_with_descriptors(args, &mut bytes, "the arguments")?;
        Self::start_encoded(name, RunOnce::new::<F, Args>(), bytes, descriptors)
    }

    /// Compiled once, unlike what is generic.
    fn start_encoded(name: String, task: RunOnce, args: Vec<u8>, descriptors: Vec<SharedFd>) -> Result<Self> {
        let state = Arc::new(State {
            original: OriginalProcess::current(),
            outcome: Mutex::default(),
            code: OnceLock::new(),
            ended: Condvar::new(),
            on_end: Mutex::default(),
            event: eventfd::create()?,
        });
        let runner = Arc::clone(&state);
        let run_task = move || {
            let mut result = Vec::new();
            let outcome =
                own(descriptors).and_then(|descriptors| run(|| task.run(&args, descriptors, &mut result)));
            runner.end(outcome.and_then(own).map(|descriptors| (result, descriptors)));
        };
        // A thread cannot have a name with a zero byte.
        let thread = thread::Builder::new().name(name.replace('\0', "")).spawn(run_task);
        thread.map(drop).map_err(|error| Error::io("start a thread", &error))?;
        Ok(Self { name, state })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Waits until the task has ended; returns whether that was before the deadline. An error in a forked copy of
    /// this process.
    pub(crate) fn wait(&self, deadline: Deadline) -> Result<bool> {
        if !self.state.original.is_current() {
            return Err(forked_copy_error());
        }
        let mut outcome = lock(&self.state.outcome);
        while self.exit_code().is_none() {
            outcome = match deadline.left() {
                None => self.state.ended.wait(outcome).unwrap_or_else(PoisonError::into_inner),
                Some(left) if left.is_zero() => return Ok(false),
                Some(left) => {
                    self.state.ended.wait_timeout(outcome, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        Ok(true)
    }

    /// The encoded result of a task that has ended.
    pub(crate) fn result(&self, origin: &dyn Fn() -> Origin) -> Result<Outcome> {
        let outcome = lock(&self.state.outcome).take();
        outcome
            .unwrap_or_else(|| Err(Error::internal("an inline task has no result")))
            .map_err(|error| error.or_with_origin(origin))
    }

    /// `None` until the task has ended.
    pub(crate) fn exit_code(&self) -> Option<i32> {
        self.state.code.get().copied()
    }

    /// Fails unless the task has ended.
    pub(crate) fn kill(&self) -> Result<()> {
        if self.exit_code().is_some() { Ok(()) } else { Err(unsupported("cannot end a process")) }
    }

    pub(crate) fn set_on_change(&self, on_change: OnChange) {
        *lock(&self.state.on_end) = Some(Arc::clone(&on_change));
        on_change();
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.state.event.as_fd()
    }
}

impl State {
    fn end(&self, outcome: Result<Outcome>) {
        let code = match &outcome {
            Ok(_) => 0,
            Err(error) => failure_code(error),
        };
        let mut place = lock(&self.outcome);
        *place = Some(outcome);
        let _ = self.code.set(code);
        drop(place);
        self.ended.notify_all();
        eventfd::notify(self.event.as_fd());
        let on_end = lock(&self.on_end).take();
        if let Some(on_end) = on_end {
            on_end();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_asks_for_it_or_not_or_it_is_an_error() {
        let parse = |text: &str| parse(Some(OsStr::new(text)));
        assert_eq!(
            (super::parse(None).unwrap(), parse("0").unwrap(), parse("1").unwrap()),
            (false, false, true)
        );
        for other in ["", "yes", "true", "1 "] {
            assert!(parse(other).unwrap_err().to_string().contains("MULTIPROC_INLINE"), "{other:?}");
        }
    }
}
