//! A child as everybody sees it: whether it lives, how it ended, and what that means.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use nix::sys::epoll::{EpollEvent, EpollFlags};
use nix::sys::signal::Signal;

use super::{HUNG_UP, Supervisor, lock};
use crate::error::{Cause, Error, Origin, Result};
use crate::ipc::wire::SharedFd;
use crate::sys::exits;
use crate::sys::poll::{Deadline, PollFlags, ready};
use crate::sys::process::{self, Exit, PidFd};
use crate::sys::socket;

/// A child process, alive or dead.
#[derive(Debug)]
pub(crate) struct Child {
    /// What it is known by to the supervisor.
    pub(super) id: u64,
    supervisor: Weak<Supervisor>,
    pid: u32,
    name: String,
    /// Our end of the start socket. The child dies when it is gone, so it is kept as long as the child lives.
    pub(super) lifeline: SharedFd,
    /// Closed last: who sees that it is, in a list of what is open, sees all that belongs to the child closed.
    pidfd: PidFd,
    /// One of the user's, and not a zygote.
    pub(super) is_listed: bool,
    state: Mutex<State>,
}

/// What is known of a child when it begins.
pub(super) struct NewChild {
    pub(super) pid: u32,
    pub(super) pidfd: PidFd,
    pub(super) name: String,
    pub(super) lifeline: SharedFd,
    pub(super) is_listed: bool,
    pub(super) is_up: bool,
}

#[derive(Default)]
struct State {
    exit: Option<Exit>,
    /// It has been seen to have reached `init`.
    is_up: bool,
    /// The child was killed because it had not come up in time.
    late: Option<Duration>,
    is_cut: bool,
    /// Who wants to hear of its end.
    watcher: Option<OnExit>,
}

/// What is called by whatever thread learns of a child's end.
type OnExit = Arc<dyn Fn() + Send + Sync>;

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("exit", &self.exit).finish_non_exhaustive()
    }
}

impl Child {
    pub(super) fn new(id: u64, supervisor: Weak<Supervisor>, birth: NewChild) -> Self {
        let NewChild { pid, pidfd, name, lifeline, is_listed, is_up } = birth;
        let state = Mutex::new(State { is_up, ..State::default() });
        Self { id, supervisor, pid, name, lifeline, pidfd, is_listed, state }
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

    pub(crate) fn exit(&self) -> Option<Exit> {
        self.wait(Deadline::now())
    }

    /// Asks it to end. A stopped process would not hear that before it goes on, so it is made to go on.
    pub(crate) fn terminate(&self) -> Result<()> {
        self.pidfd.signal(Signal::SIGTERM)?;
        self.pidfd.signal(Signal::SIGCONT)
    }

    /// Kills it. Where the system refuses that signal, since the child is another user's by now or we are, its lifeline
    /// is cut, which the kernel answers with the same signal.
    pub(crate) fn kill(&self) {
        if self.pidfd.signal(Signal::SIGKILL).is_err() {
            socket::hang_up(self.lifeline.as_fd());
        }
    }

    /// Blocks until the child has ended; says how, or nothing when the deadline came first.
    pub(crate) fn wait(&self, deadline: Deadline) -> Option<Exit> {
        self.wait_unless(deadline, || false)
    }

    /// As [`wait`](Self::wait), but asks once a second whether that is enough; gives nothing then, too.
    pub(crate) fn wait_unless(&self, deadline: Deadline, is_enough: impl Fn() -> bool) -> Option<Exit> {
        if let Some(exit) = self.known_exit() {
            return Some(exit);
        }
        // Where it is clear who comes first, the other one is not woken for nothing.
        let supervisor = matches!(deadline, Deadline::Never).then(|| self.supervisor()).flatten();
        if let Some(supervisor) = &supervisor {
            let _ = supervisor.epoll.delete(&self.pidfd); // if that is refused, it is woken
        }
        let exit = self.pidfd.wait_unless(deadline, is_enough).then(|| self.collect());
        if let Some(supervisor) = &supervisor
            && exit.is_none()
        {
            let event = EpollEvent::new(EpollFlags::EPOLLIN, self.id);
            let _ = supervisor.epoll.add(&self.pidfd, event); // else its end is noticed when somebody waits for it
        } else if let Some(supervisor) = &supervisor {
            lock(&supervisor.children).remove(&self.id);
            let _ = supervisor.epoll.delete(self.lifeline.as_fd()); // if it was watched
        }
        exit
    }

    /// Whether this is the process that has started it.
    pub(crate) fn check_here(&self) -> Result<()> {
        if self.supervisor().is_some() {
            return Ok(());
        }
        Err(Error::invalid("only the process that started a child can use it; this is a forked copy"))
    }

    /// The one that watches it: none in a copy of this process, for which it is no child.
    pub(super) fn supervisor(&self) -> Option<Arc<Supervisor>> {
        self.supervisor.upgrade().filter(|supervisor| supervisor.pid == process::own_pid())
    }

    fn known_exit(&self) -> Option<Exit> {
        lock(&self.state).exit
    }

    /// How it ended, which it has. The first one to ask takes the status from the system.
    pub(super) fn collect(&self) -> Exit {
        let mut state = lock(&self.state);
        let exit = *state.exit.get_or_insert_with(|| {
            let exit = self.pidfd.reap();
            exits::record(self.pid, &self.name, exit);
            exit
        });
        let watcher = state.watcher.take();
        drop(state);
        if let Some(watcher) = watcher {
            watcher();
        }
        exit
    }

    /// Its message has been seen that it has reached `init`.
    pub(crate) fn mark_started(&self) {
        lock(&self.state).is_up = true;
    }

    /// Whether one that lives has said that it has reached `init`.
    pub(crate) fn set_started(&self) -> bool {
        self.has_started() || ready(self.lifeline.as_fd(), PollFlags::POLLIN, Deadline::now()).unwrap_or(true)
    }

    /// Whether it has been heard to say so.
    pub(crate) fn has_started(&self) -> bool {
        lock(&self.state).is_up
    }

    /// Kills it, because it has not come up in so long a time.
    pub(crate) fn kill_start_timeout(&self, timeout: Duration) {
        lock(&self.state).late = Some(timeout);
        self.kill();
    }

    /// The error that its end means for whoever waits for something from it.
    pub(crate) fn exit_error(&self, origin: Origin) -> Error {
        let state = lock(&self.state);
        let cause = match (state.late, state.exit) {
            (Some(timeout), _) => Cause::Start(format!(
                "it did not reach multiproc::init() within {} s (is that the first line of main?)",
                timeout.as_secs_f32()
            )),
            (None, Some(Exit::Signal(signal))) => Cause::Signal(signal),
            (None, Some(Exit::Code(code))) if !state.is_up => Cause::Start(format!(
                "it exited with code {code} before it reached multiproc::init() (is that the first line of main?)"
            )),
            (None, Some(Exit::Code(code))) => Cause::Exit(code),
            (None, Some(Exit::Lost) | None) => Cause::StatusLost,
        };
        Error::new(cause).with_origin(origin)
    }

    /// Has `watcher` called when the child has ended, and when it has cut its lifeline and lives; at once, if one of the
    /// two has happened already.
    pub(crate) fn watch(&self, watcher: OnExit) {
        let mut state = lock(&self.state);
        state.watcher = Some(Arc::clone(&watcher));
        drop(state);
        if let Some(supervisor) = self.supervisor() {
            let event = EpollEvent::new(EpollFlags::EPOLLRDHUP, self.id | HUNG_UP);
            let _ = supervisor.epoll.add(self.lifeline.as_fd(), event); // else its end is all that will be noticed
            // One that has been buried is not taken off again, and would be told of without end.
            if self.has_ended() {
                let _ = supervisor.epoll.delete(self.lifeline.as_fd());
            }
        }
        watcher();
    }

    /// Its end of its lifeline is closed: it has executed another program, or closed what is not its own, or it is dying.
    pub(super) fn mark_hung_up(&self) {
        let mut state = lock(&self.state);
        state.is_cut = true;
        let watcher = state.watcher.clone();
        drop(state);
        if let Some(watcher) = watcher {
            watcher();
        }
    }

    pub(crate) fn has_hung_up(&self) -> bool {
        lock(&self.state).is_cut
    }

    /// Whether its end is known.
    pub(crate) fn has_ended(&self) -> bool {
        self.known_exit().is_some()
    }
}

impl AsFd for Child {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}
