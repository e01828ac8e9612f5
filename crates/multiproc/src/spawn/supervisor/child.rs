//! A child in its parent: how far its start has come, whether it lives, and how it ended.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use nix::sys::epoll::{EpollEvent, EpollFlags};
use nix::sys::signal::Signal;

use super::{HUNG_UP, Supervisor, forked_copy_error, lock};
use crate::error::{Cause, Error, Origin, Result};
use crate::ipc::wire::SharedFd;
use crate::sys::pidfd::{Exit, PidFd};
use crate::sys::poll::Deadline;
use crate::sys::recent_exits;
use crate::sys::running_time::RunningTime;
use crate::sys::socket;
use crate::trace;

/// A child process, alive or dead.
pub(crate) struct Child {
    /// Its number in the supervisor.
    pub(super) id: u64,
    supervisor: Weak<Supervisor>,
    pid: u32,
    name: String,
    /// The parent's end of the start socket, open while the child lives: the child dies when it is closed.
    pub(super) liveness_socket: SharedFd,
    /// Closed after the liveness socket: once it is not open any more, nothing of the child is.
    pidfd: PidFd,
    /// A process of the library, which the program does not see: a zygote, or a forked child without a task.
    pub(super) is_internal: bool,
    state: Mutex<State>,
}

/// The data of a child at its start.
pub(super) struct NewChild {
    pub(super) pid: u32,
    pub(super) pidfd: PidFd,
    pub(super) name: String,
    pub(super) liveness_socket: SharedFd,
    pub(super) is_internal: bool,
    pub(super) phase: SpawnPhase,
}

struct State {
    phase: SpawnPhase,
    run_state: RunState,
}

/// How far the child's start has come. It stays as it was when the child ends.
#[derive(Clone, Copy)]
pub(super) enum SpawnPhase {
    /// Executed, and not seen to have reached `init`. At the deadline the supervisor kills it.
    Starting(Option<StartDeadline>),
    /// It has reached `init`, or a zygote has forked it.
    Ready,
    /// It was killed, because it had not reached `init` within this time.
    TimedOut(Duration),
}

#[derive(Clone, Copy)]
pub(super) struct StartDeadline {
    pub(super) at: RunningTime,
    timeout: Duration,
}

impl StartDeadline {
    pub(super) fn after(timeout: Duration) -> Option<Self> {
        RunningTime::after(timeout).map(|at| Self { at, timeout })
    }
}

enum RunState {
    Running {
        /// The child has closed its end of the liveness socket: it has executed another program, or closed
        /// what is not its own, or it is dying.
        has_hung_up: bool,
        on_change: Option<OnChange>,
    },
    Exited(Exit),
}

/// Called by the thread that learns of a child's exit or hang-up.
pub(crate) type OnChange = Arc<dyn Fn() + Send + Sync>;

impl Child {
    pub(super) fn new(id: u64, supervisor: Weak<Supervisor>, new: NewChild) -> Self {
        let NewChild { pid, pidfd, name, liveness_socket, is_internal, phase } = new;
        let run_state = RunState::Running { has_hung_up: false, on_change: None };
        let state = Mutex::new(State { phase, run_state });
        Self { id, supervisor, pid, name, liveness_socket, pidfd, is_internal, state }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn is_alive(&self) -> bool {
        !self.pidfd.has_ended()
    }

    /// `None` while it lives. A forked copy of this process knows only an exit that was known at the fork.
    pub(crate) fn exit(&self) -> Option<Exit> {
        if self.supervisor().is_some() {
            return self.wait(Deadline::now());
        }
        match self.state.try_lock().ok()?.run_state {
            RunState::Exited(exit) => Some(exit),
            RunState::Running { .. } => None,
        }
    }

    /// Sends SIGTERM, and SIGCONT, without which a stopped process would not receive it.
    pub(crate) fn terminate(&self) -> Result<()> {
        self.pidfd.signal(Signal::SIGTERM)?;
        self.pidfd.signal(Signal::SIGCONT)
    }

    /// Sends SIGKILL. If the kernel refuses that, since either process has become another user's, shuts the
    /// liveness socket down, on which the kernel sends the child the same signal.
    pub(crate) fn kill(&self) {
        if self.pidfd.signal(Signal::SIGKILL).is_err() {
            socket::hang_up(self.liveness_socket.as_fd());
        }
    }

    /// Waits until the child has ended, and reaps it. Returns `None` at the deadline.
    pub(crate) fn wait(&self, deadline: Deadline) -> Option<Exit> {
        self.wait_or_until(deadline, || false)
    }

    /// As [`wait`](Self::wait), but also returns `None` once `may_stop` returns `true`, which it asks each second.
    pub(crate) fn wait_or_until(&self, deadline: Deadline, may_stop: impl Fn() -> bool) -> Option<Exit> {
        if let Some(exit) = self.known_exit() {
            return Some(exit);
        }
        // Without a deadline this thread reaps the child, so the supervisor need not wake up for it.
        let supervisor = matches!(deadline, Deadline::Never).then(|| self.supervisor()).flatten();
        if let Some(supervisor) = &supervisor {
            let _ = supervisor.epoll.delete(&self.pidfd); // if that fails, it wakes up
        }
        let exit = self.pidfd.wait_or_until(deadline, may_stop).then(|| self.reap());
        if let Some(supervisor) = &supervisor
            && exit.is_none()
        {
            let event = EpollEvent::new(EpollFlags::EPOLLIN, self.id);
            let _ = supervisor.epoll.add(&self.pidfd, event); // if that fails, the next wait reaps it
        } else if let Some(supervisor) = &supervisor {
            lock(&supervisor.children).remove(&self.id);
            let _ = supervisor.epoll.delete(self.liveness_socket.as_fd()); // fails if it was not watched
        }
        exit
    }

    /// An error in a forked copy of the process that has started this child.
    pub(crate) fn check_not_forked(&self) -> Result<()> {
        if self.supervisor().is_some() {
            return Ok(());
        }
        Err(forked_copy_error())
    }

    /// Its supervisor. `None` in a forked copy of this process, whose child it is not.
    pub(super) fn supervisor(&self) -> Option<Arc<Supervisor>> {
        self.supervisor.upgrade().filter(|supervisor| supervisor.original.is_current())
    }

    fn known_exit(&self) -> Option<Exit> {
        match lock(&self.state).run_state {
            RunState::Exited(exit) => Some(exit),
            RunState::Running { .. } => None,
        }
    }

    /// The exit of a child that has ended. The first call reaps it.
    pub(super) fn reap(&self) -> Exit {
        let mut state = lock(&self.state);
        let on_change = match &mut state.run_state {
            RunState::Exited(exit) => return *exit,
            RunState::Running { on_change, .. } => on_change.take(),
        };
        let exit = self.pidfd.reap(self.pid);
        recent_exits::record(self.pid, &self.name, exit);
        if !self.is_internal {
            trace::exited(self.pid, exit);
        }
        state.run_state = RunState::Exited(exit);
        drop(state);
        if let Some(on_change) = on_change {
            on_change();
        }
        exit
    }

    /// Notes that the message that it has reached `init` was received.
    pub(crate) fn mark_started(&self) {
        let mut state = lock(&self.state);
        if matches!(state.phase, SpawnPhase::Starting(_)) {
            state.phase = SpawnPhase::Ready;
        }
    }

    /// Whether that message was received.
    pub(crate) fn has_started(&self) -> bool {
        matches!(lock(&self.state).phase, SpawnPhase::Ready)
    }

    /// Whether that message was received, or is there to be received, from a child that lives. One that has closed its
    /// standard input has hung up, and does not report any more.
    pub(crate) fn has_reported(&self) -> bool {
        let is_there =
            || socket::waiting_packet(self.liveness_socket.as_fd()).is_some_and(|packet| !packet.is_empty());
        self.has_started() || is_there()
    }

    /// Its start deadline, while it lives and has not reached `init`.
    pub(super) fn start_deadline(&self) -> Option<StartDeadline> {
        let state = lock(&self.state);
        match (state.phase, &state.run_state) {
            (SpawnPhase::Starting(deadline), RunState::Running { .. }) => deadline,
            _ => None,
        }
    }

    /// Whether its start deadline is still to come. At the deadline, kills it if it has not reached `init`.
    pub(super) fn is_starting(&self, now: RunningTime) -> bool {
        match self.start_deadline() {
            Some(deadline) if deadline.at > now => true,
            Some(deadline) => {
                if self.is_alive() && !self.has_reported() {
                    self.kill_start_timeout(deadline.timeout);
                }
                false
            }
            None => false,
        }
    }

    /// Kills it, because it has not reached `init` within this time.
    pub(crate) fn kill_start_timeout(&self, timeout: Duration) {
        lock(&self.state).phase = SpawnPhase::TimedOut(timeout);
        self.kill();
    }

    /// The error of an operation that needed this child, which has ended.
    pub(crate) fn exit_error(&self, origin: Origin) -> Error {
        let state = lock(&self.state);
        let cause = match (state.phase, &state.run_state) {
            (SpawnPhase::TimedOut(timeout), _) => Cause::Start(format!(
                "it did not reach multiproc::init() within {} s (is that the first line of main?)",
                timeout.as_secs_f32()
            )),
            (_, RunState::Exited(Exit::Signal(signal))) => Cause::Signal(*signal),
            (SpawnPhase::Starting(_), RunState::Exited(Exit::Code(code))) => Cause::Start(format!(
                "it exited with code {code} before it reached multiproc::init() (is that the first line of \
                 main?)"
            )),
            (SpawnPhase::Ready, RunState::Exited(Exit::Code(code))) => Cause::Exit(*code),
            (_, RunState::Exited(Exit::Lost) | RunState::Running { .. }) => Cause::StatusLost,
        };
        Error::new(cause).with_origin(origin)
    }

    /// Has `on_change` called when the child has ended or hung up, and now, since it may have already.
    pub(crate) fn set_on_change(&self, on_change: OnChange) {
        if let Some(supervisor) = self.supervisor() {
            if let RunState::Running { on_change: slot, .. } = &mut lock(&self.state).run_state {
                *slot = Some(Arc::clone(&on_change));
            }
            let event = EpollEvent::new(EpollFlags::EPOLLRDHUP, self.id | HUNG_UP);
            // If that fails, only its end is noticed.
            let _ = supervisor.epoll.add(self.liveness_socket.as_fd(), event);
            // The supervisor has forgotten a child that has ended, and would get the event without end.
            if self.is_reaped() {
                let _ = supervisor.epoll.delete(self.liveness_socket.as_fd());
            }
        }
        on_change();
    }

    /// Notes that its end of the liveness socket is closed.
    pub(super) fn mark_hung_up(&self) {
        let on_change = match &mut lock(&self.state).run_state {
            RunState::Running { has_hung_up, on_change } => {
                *has_hung_up = true;
                on_change.clone()
            }
            RunState::Exited(_) => None,
        };
        if let Some(on_change) = on_change {
            on_change();
        }
    }

    /// Whether it has hung up, and was not reaped.
    pub(crate) fn has_hung_up(&self) -> bool {
        matches!(lock(&self.state).run_state, RunState::Running { has_hung_up: true, .. })
    }

    /// Whether it was reaped.
    pub(crate) fn is_reaped(&self) -> bool {
        self.known_exit().is_some()
    }
}

impl AsFd for Child {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}
