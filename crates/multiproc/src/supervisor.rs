//! Who lives, who died, and how: one thread, as long as the program lives, that starts every child and learns of
//! every death.
//!
//! It starts them, because a child is tied to the *thread* that started it (that is what the parent-death signal
//! means), so that thread must not end before the program does. It alone collects statuses, so that no other call
//! can take one away or act on a process id that has come to mean somebody else.

use std::collections::HashMap;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::Signal;

use crate::error::{Cause, Culprit, Error, Result};
use crate::sys::poll::{Deadline, PollFlags, milliseconds, ready};
use crate::sys::process::{self, Exit, PidFd};
use crate::sys::socket;
use crate::wire::Handle;

/// A child process, alive or dead.
#[derive(Debug)]
pub(crate) struct Child {
    pid: u32,
    name: String,
    pidfd: PidFd,
    /// Our end of the start socket. The child dies when it is gone, so it is kept as long as the child lives.
    lifeline: Handle,
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Default)]
struct State {
    exit: Option<Exit>,
    /// The child was killed because it had not come up in time.
    late: Option<Duration>,
    /// Who wants to hear of its end.
    watcher: Option<Watcher>,
}

/// What is called once, by whatever thread learns of a child's end.
type Watcher = Box<dyn FnOnce() + Send>;

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("exit", &self.exit).finish_non_exhaustive()
    }
}

/// What it takes to start a child.
pub(crate) struct Order {
    pub(crate) name: String,
    /// Becomes the child's standard input.
    pub(crate) socket: OwnedFd,
    /// The other end of that: readable once the child has come up.
    pub(crate) lifeline: Handle,
    /// How long the child may take to come up.
    pub(crate) patience: Duration,
}

/// Starts a child; returns as soon as the system has it.
pub(crate) fn start(order: Order) -> Result<Arc<Child>> {
    let supervisor = Supervisor::get()?;
    let (reply, started) = mpsc::sync_channel(1);
    let gone = || Error::invalid("the thread that starts children has ended");
    supervisor.orders.send((order, reply)).map_err(|_| gone())?;
    supervisor.bell.write(1).map_err(|errno| Error::system("wake the supervisor", errno))?;
    started.recv().map_err(|_| gone())?
}

/// Every child that is alive.
pub(crate) fn children() -> Vec<Arc<Child>> {
    let Ok(supervisor) = Supervisor::get() else { return Vec::new() };
    let children = lock(&supervisor.children);
    children.values().filter(|child| child.is_alive()).cloned().collect()
}

impl Child {
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
        // When it has ended, the supervisor is about to say how, and that must not look as if it still lived.
        let deadline = if self.is_alive() { deadline } else { Deadline::Never };
        let mut state = lock(&self.state);
        while state.exit.is_none() {
            state = match deadline.left() {
                None => self.ended.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => return None,
                Some(left) => self.ended.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
        state.exit
    }

    /// The error that its end means for whoever waits for something from it. Did it come up before it ended?
    pub(crate) fn obituary(&self, culprit: Culprit, came_up: bool) -> Error {
        let state = lock(&self.state);
        let cause = match (state.late, state.exit) {
            (Some(patience), _) => Cause::Start(format!(
                "it did not reach multiproc::init() within {} s (is that the first line of main?)",
                patience.as_secs_f32()
            )),
            (None, Some(Exit::Signal(signal))) => Cause::Signal(signal),
            (None, Some(Exit::Code(code))) if !came_up => Cause::Start(format!(
                "it exited with code {code} before it reached multiproc::init() (is that the first line of main?)"
            )),
            (None, Some(Exit::Code(code))) => Cause::Exit(code),
            (None, Some(Exit::Lost) | None) => Cause::StatusLost,
        };
        Error::new(cause).by(culprit)
    }

    fn end(&self, exit: Exit) {
        let mut state = lock(&self.state);
        state.exit = Some(exit);
        let watcher = state.watcher.take();
        drop(state);
        self.ended.notify_all();
        if let Some(watcher) = watcher {
            watcher();
        }
    }

    /// Has `watcher` called when the child has ended; at once, if it has already.
    pub(crate) fn on_end(&self, watcher: Watcher) {
        let mut state = lock(&self.state);
        if state.exit.is_none() {
            state.watcher = Some(watcher);
        } else {
            drop(state);
            watcher();
        }
    }

    /// Whether its end is known.
    pub(crate) fn has_ended(&self) -> bool {
        lock(&self.state).exit.is_some()
    }
}

impl AsFd for Child {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

type Reply = mpsc::SyncSender<Result<Arc<Child>>>;

/// The side of the thread that others see.
struct Supervisor {
    /// Which process the thread lives in. A copy that somebody forked has none, and gets its own.
    pid: u32,
    orders: mpsc::Sender<(Order, Reply)>,
    bell: EventFd,
    children: Mutex<HashMap<u64, Arc<Child>>>,
}

static SUPERVISOR: Mutex<Option<Arc<Supervisor>>> = Mutex::new(None);

impl Supervisor {
    fn get() -> Result<Arc<Self>> {
        let mut supervisor = lock(&SUPERVISOR);
        match &*supervisor {
            Some(there) if there.pid == process::own_pid() => Ok(Arc::clone(there)),
            _ => Ok(Arc::clone(supervisor.insert(Self::begin()?))),
        }
    }

    fn begin() -> Result<Arc<Self>> {
        let (orders, inbox) = mpsc::channel();
        let bell = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map_err(|errno| Error::system("create a descriptor for the supervisor", errno))?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)
            .and_then(|epoll| epoll.add(&bell, EpollEvent::new(EpollFlags::EPOLLIN, BELL)).map(|()| epoll))
            .map_err(|errno| Error::system("create a descriptor for the supervisor", errno))?;
        let children = Mutex::default();
        let shared = Arc::new(Self { pid: process::own_pid(), orders, bell, children });
        let watch =
            Watch { shared: Arc::clone(&shared), epoll, inbox, starting: HashMap::new(), next: BELL + 1 };
        let thread = thread::Builder::new().name("multiproc".to_owned()).stack_size(256 * 1024);
        process::without_signals(|| thread.spawn(move || watch.run()))
            .map_err(|error| Error::io("start the supervisor thread", &error))?;
        Ok(shared)
    }
}

/// The thread itself.
struct Watch {
    shared: Arc<Supervisor>,
    epoll: Epoll,
    inbox: mpsc::Receiver<(Order, Reply)>,
    /// Those that have not been seen to be up.
    starting: HashMap<u64, Starting>,
    next: u64,
}

struct Starting {
    until: Instant,
    patience: Duration,
}

/// The event that means an order; any other number is a child's.
const BELL: u64 = 0;

impl Watch {
    fn run(mut self) {
        let mut events = [EpollEvent::empty(); 64];
        loop {
            let count = self.epoll.wait(&mut events, self.timeout()).unwrap_or(0); // only EINTR is possible
            for event in &events[..count] {
                match event.data() {
                    BELL => self.take_orders(),
                    id => self.bury(id),
                }
            }
            self.check_starting();
        }
    }

    fn take_orders(&mut self) {
        let _ = self.shared.bell.read();
        while let Ok((order, reply)) = self.inbox.try_recv() {
            let _ = reply.send(self.start(order)); // who does not wait for it has gone
        }
    }

    fn start(&mut self, order: Order) -> Result<Arc<Child>> {
        let (pid, pidfd) = process::start_self(order.socket)?;
        let id = self.next;
        self.next += 1;
        if let Err(errno) = self.epoll.add(&pidfd, EpollEvent::new(EpollFlags::EPOLLIN, id)) {
            pidfd.signal(Signal::SIGKILL)?;
            pidfd.reap();
            return Err(Error::system("watch a child process", errno));
        }
        let (state, ended) = Default::default();
        let Order { name, lifeline, patience, .. } = order;
        let child = Arc::new(Child { pid, name, pidfd, lifeline, state, ended });
        lock(&self.shared.children).insert(id, Arc::clone(&child));
        if let Some(until) = Instant::now().checked_add(patience) {
            self.starting.insert(id, Starting { until, patience });
        }
        Ok(child)
    }

    fn bury(&mut self, id: u64) {
        self.starting.remove(&id);
        let Some(child) = lock(&self.shared.children).remove(&id) else { return };
        let exit = child.pidfd.reap();
        let _ = self.epoll.delete(&child.pidfd); // it goes with the descriptor at the latest
        child.end(exit);
    }

    /// Ends those whose time to come up is over.
    fn check_starting(&mut self) {
        let now = Instant::now();
        let due: Vec<u64> =
            self.starting.iter().filter(|(_, it)| it.until <= now).map(|(&id, _)| id).collect();
        for id in due {
            let Some(Starting { patience, .. }) = self.starting.remove(&id) else { continue };
            let Some(child) = lock(&self.shared.children).get(&id).cloned() else { continue };
            let has_come_up = ready(child.lifeline.as_fd(), PollFlags::POLLIN, Deadline::now());
            if !has_come_up.unwrap_or(true) {
                lock(&child.state).late = Some(patience);
                child.kill();
            }
        }
    }

    fn timeout(&self) -> EpollTimeout {
        let next = self.starting.values().map(|starting| starting.until).min();
        let deadline = next.map_or(Deadline::Never, Deadline::At);
        milliseconds(deadline)
            .map_or(EpollTimeout::NONE, |ms| EpollTimeout::try_from(ms).unwrap_or(EpollTimeout::MAX))
    }
}

/// A panic while holding one of our locks leaves nothing half done behind them.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
