//! The state machine of a worker's end.

use std::time::Duration;

use crate::error::{Cause, Error};
use crate::sys::running_time::RunningTime;

/// How long a worker may live after its liveness socket has hung up, or after SIGKILL.
const EXIT_GRACE: Duration = Duration::from_secs(1);

/// ```text
/// Running ─▶ Retired ─▶ HungUp ─▶ ShuttingDown ─▶ Killed ─▶ reaped
/// ```
/// Each step may be skipped, a worker can exit in any phase, and only a retirement is taken back.
pub(super) enum WorkerPhase {
    /// It runs items, once it is ready.
    Running,
    /// It gets no more items, and is told to exit when it has none.
    Retired,
    /// Its liveness socket has hung up. Usually the worker is dying, but a task can also have executed
    /// another program, or closed descriptors that are not its own.
    HungUp { kill_at: Option<RunningTime> },
    /// Told to exit: the rings are closed, and if `was_terminated` SIGTERM was sent. `kill_at` is `None` if
    /// it is beyond the clock's range.
    ShuttingDown { kill_at: Option<RunningTime>, was_terminated: bool },
    /// It was sent SIGKILL. The cause is the pool's, if the pool did not do so to end it. A process that hangs in the
    /// kernel may live on for long; it counts as dying until `gone_at`.
    Killed { cause: Option<Error>, was_shutting_down: bool, gone_at: Option<RunningTime> },
}

impl WorkerPhase {
    pub(super) fn is_running(&self) -> bool {
        matches!(self, Self::Running)
    }

    pub(super) fn is_retired(&self) -> bool {
        matches!(self, Self::Retired)
    }

    pub(super) fn retire(&mut self) {
        if self.is_running() {
            *self = Self::Retired;
        }
    }

    /// Takes a retirement back; returns whether there was one.
    pub(super) fn reinstate(&mut self) -> bool {
        let is_retired = self.is_retired();
        if is_retired {
            *self = Self::Running;
        }
        is_retired
    }

    pub(super) fn was_told_to_exit(&self) -> bool {
        matches!(self, Self::ShuttingDown { .. } | Self::Killed { was_shutting_down: true, .. })
    }

    /// Until when it counts as one that may run a task, though it was killed.
    pub(super) fn dying_until(&self) -> Option<RunningTime> {
        match self {
            Self::Killed { was_shutting_down: false, gone_at, .. } => gone_at.filter(|time| !time.is_past()),
            _ => None,
        }
    }

    /// Whether it runs a task or may begin one.
    pub(super) fn may_run_task(&self) -> bool {
        let is_alive = matches!(self, Self::Running | Self::Retired | Self::HungUp { .. });
        is_alive || self.dying_until().is_some()
    }

    /// Why the pool has killed it.
    pub(super) fn failure(&self) -> Option<&Error> {
        if let Self::Killed { cause, .. } = self { cause.as_ref() } else { None }
    }

    /// When to kill it, because it was told to exit, or has hung up, and still lives.
    pub(super) fn kill_at(&self) -> Option<RunningTime> {
        match self {
            Self::HungUp { kill_at } | Self::ShuttingDown { kill_at, .. } => *kill_at,
            Self::Running | Self::Retired | Self::Killed { .. } => None,
        }
    }

    pub(super) fn hang_up(&mut self) {
        let latest = RunningTime::after(EXIT_GRACE);
        match self {
            Self::Running | Self::Retired => *self = Self::HungUp { kill_at: latest },
            Self::ShuttingDown { kill_at, .. } => {
                *kill_at = kill_at.take().into_iter().chain(latest).min();
            }
            Self::HungUp { .. } | Self::Killed { .. } => {}
        }
    }

    /// Gives the worker this time to exit; returns whether that is new.
    pub(super) fn begin_shutdown(&mut self, timeout: Duration) -> bool {
        let is_new = matches!(self, Self::Running | Self::Retired | Self::HungUp { .. });
        if is_new {
            let latest = RunningTime::after(timeout);
            let kill_at = self.kill_at().into_iter().chain(latest).min();
            *self = Self::ShuttingDown { kill_at, was_terminated: false };
        }
        is_new
    }

    /// Returns whether to send SIGTERM now.
    pub(super) fn terminate(&mut self, timeout: Duration) -> bool {
        self.begin_shutdown(timeout);
        match self {
            Self::ShuttingDown { was_terminated, .. } => !std::mem::replace(was_terminated, true),
            _ => false,
        }
    }

    /// Records why the worker is killed, unless a cause is known. Returns whether to send SIGKILL now.
    pub(super) fn kill(&mut self, why: Option<Error>) -> bool {
        let was_shutting_down = self.was_told_to_exit();
        if let Self::Killed { cause, .. } = self {
            *cause = cause.take().or(why);
            return false;
        }
        *self = Self::Killed { cause: why, was_shutting_down, gone_at: RunningTime::after(EXIT_GRACE) };
        true
    }

    /// As [`kill`](Self::kill), at the [time to do so](Self::kill_at).
    pub(super) fn kill_at_deadline(&mut self) -> bool {
        let is_lost = matches!(self, Self::HungUp { .. });
        self.kill(is_lost.then(|| Error::new(Cause::SocketClosed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(60);

    #[test]
    fn each_signal_is_sent_once_and_no_step_is_taken_back() {
        let mut phase = WorkerPhase::Running;
        phase.hang_up();
        assert!(!phase.is_running() && phase.kill_at().is_some() && !phase.was_told_to_exit());
        assert!(phase.begin_shutdown(TIMEOUT) && !phase.begin_shutdown(TIMEOUT));
        assert!(phase.kill_at() <= RunningTime::after(EXIT_GRACE), "the shutdown has put the kill off");
        assert!(phase.terminate(TIMEOUT) && !phase.terminate(TIMEOUT));
        assert!(
            phase.kill(None)
                && !phase.kill(None)
                && !phase.begin_shutdown(TIMEOUT)
                && !phase.terminate(TIMEOUT)
        );
        phase.hang_up();
        assert!(phase.was_told_to_exit() && phase.kill_at().is_none() && phase.failure().is_none());
    }

    #[test]
    fn a_worker_retires_only_while_it_runs() {
        let mut phase = WorkerPhase::Running;
        phase.retire();
        assert!(phase.is_retired() && !phase.is_running() && !phase.was_told_to_exit());
        assert!(phase.reinstate() && phase.is_running() && !phase.reinstate());
        phase.retire();
        assert!(phase.begin_shutdown(TIMEOUT) && !phase.is_retired());
        phase.retire();
        assert!(phase.was_told_to_exit() && !phase.reinstate());
    }

    #[test]
    fn the_first_cause_counts() {
        let mut phase = WorkerPhase::Running;
        assert!(phase.kill(Some(Error::new(Cause::Cancelled))));
        assert!(!phase.kill_at_deadline() && !phase.kill(Some(Error::new(Cause::SocketClosed))));
        assert!(phase.failure().unwrap().is_cancelled() && !phase.was_told_to_exit());
    }

    #[test]
    fn a_worker_that_hangs_up_and_lives_has_lost_its_link() {
        let mut phase = WorkerPhase::Running;
        phase.hang_up();
        assert!(phase.kill_at_deadline() && phase.failure().unwrap().kind() == crate::error::ErrorKind::Died);
        let mut phase = WorkerPhase::Running;
        assert!(phase.begin_shutdown(Duration::MAX) && phase.kill_at().is_none());
        phase.hang_up();
        assert!(phase.kill_at().is_some() && phase.kill_at_deadline() && phase.failure().is_none());
    }
}
