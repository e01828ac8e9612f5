//! Scenarios: workloads that pass many failpoints, and check their results whichever process dies.

mod arrays;
mod channels;
mod condvar;
mod joinable;
mod limits;
mod locks;
#[cfg(feature = "log")]
mod logs;
mod pools;
mod processes;
mod servers;
mod states;
mod wait_any;
mod wakeups;

use std::time::Duration;

use anyhow::{Result, bail};
use multiproc::Error;
use multiproc::failpoints::{Action, Failpoint};
use nix::sys::signal::Signal;

/// A scenario. When it returns, every handle has its result and every resource is released.
pub(super) struct Scenario {
    pub(super) name: &'static str,
    pub(super) run: fn(AllowedFailures) -> Result<Observed>,
}

pub(super) const ALL: &[Scenario] = &[
    Scenario { name: "processes", run: processes::few },
    Scenario { name: "nested", run: processes::nested },
    #[cfg(feature = "log")]
    Scenario { name: "log records", run: logs::records },
    Scenario { name: "shared_slice", run: processes::shared_slice },
    Scenario { name: "pool", run: pools::small },
    Scenario { name: "pool of small items", run: pools::runs },
    Scenario { name: "pool of items that share memory", run: pools::sharing },
    Scenario { name: "pool of large items", run: pools::large },
    Scenario { name: "recycled workers", run: pools::recycled },
    Scenario { name: "terminated pool", run: pools::terminated },
    Scenario { name: "pool with limits", run: limits::submitted },
    Scenario { name: "pool with a preloaded state", run: states::broadcast },
    Scenario { name: "queue", run: channels::queue },
    Scenario { name: "unbounded queue", run: channels::unbounded },
    Scenario { name: "closed queue", run: wait_any::closed },
    Scenario { name: "pipe", run: channels::pipe },
    Scenario { name: "single message", run: channels::single },
    Scenario { name: "wait for several things", run: wait_any::any },
    Scenario { name: "shared array", run: arrays::filled },
    Scenario { name: "joinable queue", run: joinable::redelivered },
    Scenario { name: "joinable queue that reports", run: joinable::reported },
    Scenario { name: "locks", run: locks::all },
    Scenario { name: "mutex", run: wakeups::mutex },
    Scenario { name: "event", run: wakeups::event },
    Scenario { name: "barrier", run: wakeups::barrier },
    Scenario { name: "reset barrier", run: wakeups::reset },
    Scenario { name: "waiters of a condition variable", run: condvar::notified_in_turn },
    Scenario { name: "condition variable", run: wakeups::condvar },
    Scenario { name: "condition variable, all notified", run: wakeups::condvar_all },
    Scenario { name: "server", run: servers::plain },
    Scenario { name: "restarted server", run: servers::restarted },
    Scenario { name: "server of a child", run: servers::nested },
];

/// The failures that a scenario accepts.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct AllowedFailures {
    /// The number of tasks that may fail because their process was killed.
    pub(super) deaths: u32,
    /// A system call may have been refused.
    pub(super) refusal: bool,
    /// Where a process is killed.
    pub(super) killed_at: Option<Failpoint>,
}

/// The failures that a scenario has seen.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Observed {
    /// How many tasks have failed.
    pub(super) tasks: u32,
    /// When every handle had come to its result.
    pub(super) settled: Option<Duration>,
}

impl AllowedFailures {
    pub(super) fn by(point: Failpoint, act: Action) -> Self {
        match act {
            Action::Kill => {
                Self { deaths: u32::from(!costs_nothing(point)), killed_at: Some(point), ..Self::default() }
            }
            Action::Stop => Self::default(),
            Action::Refuse => Self { refusal: true, ..Self::default() },
        }
    }

    /// Whether processes are only stopped, if anything: each does all that it has to do.
    fn is_none(self) -> bool {
        self.deaths == 0 && !self.refusal
    }

    /// Whether the error reports the refused system call.
    fn is_refusal(self, error: &Error) -> bool {
        self.refusal && (error.os_error().is_some() || error.to_string().contains("os error"))
    }
}

impl Observed {
    /// Counts an accepted failure. Returns the value, if there is one.
    fn tolerate<T>(&mut self, result: Result<T, Error>, allowed: AllowedFailures) -> Result<Option<T>> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.signal() == Some(Signal::SIGKILL as i32) && self.tasks < allowed.deaths => {
                self.tasks += 1;
                Ok(None)
            }
            Err(error) if allowed.is_refusal(&error) => Ok(None),
            Err(error) => bail!("it must not fail: {error}"),
        }
    }
}

/// Whether a kill at this failpoint fails no task: the process has none in flight.
fn costs_nothing(point: Failpoint) -> bool {
    let is_between_items = matches!(
        point,
        Failpoint::Initializing
            | Failpoint::WorkerStarted
            | Failpoint::WorkerReady
            | Failpoint::ItemCompleted
            | Failpoint::ShutdownRequested
            | Failpoint::Fork
    );
    is_between_items || point.name().starts_with("zygote:")
}
