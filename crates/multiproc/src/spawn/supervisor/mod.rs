//! Who lives, who died, and how: one thread, as long as the program lives, that executes the program for every child
//! and zygote, and learns of every death.
//!
//! It executes them, because a child is tied to the *thread* that started it (that is what the parent-death signal
//! means), so that thread must not end before the program does. Children that a zygote forks are its children, too.
//! A status is collected under the child's own lock, by whoever comes first: one who waits for the child, or this
//! thread, lest a child that nobody waits for stay a zombie.

mod child;

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::Signal;

pub(crate) use self::child::Child;
use self::child::NewChild;
use crate::error::{Cause, Error, Result};
use crate::ipc::wire::SharedFd;
use crate::sys::poll::{Deadline, milliseconds};
use crate::sys::process::{self, PidFd};

/// What it takes to start a child.
#[derive(Debug)]
pub(crate) struct SpawnRequest {
    pub(crate) name: String,
    /// Becomes the child's standard input.
    pub(crate) socket: OwnedFd,
    /// The other end of that: readable once the child has come up.
    pub(crate) lifeline: SharedFd,
    /// How long the child may take to come up. None for a zygote: who asks it for a child watches the time.
    pub(crate) timeout: Option<Duration>,
    /// When whoever gave the order waits for it no longer.
    pub(crate) deadline: Deadline,
}

/// Executes the program to be a child; returns as soon as the system has it. Blocks until the order's deadline at most:
/// until the program is executed, the system holds up the thread that does it, and if somebody stops the process just
/// then, that lasts.
pub(crate) fn start(order: SpawnRequest) -> Result<Arc<Child>> {
    let supervisor = Supervisor::get()?;
    let (reply, started) = mpsc::sync_channel(1);
    let deadline = order.deadline;
    let gone = || Error::internal("the supervisor thread has ended");
    supervisor.orders.send((order, reply)).map_err(|_| gone())?;
    supervisor.bell.write(1).map_err(|errno| Error::system("wake the supervisor", errno))?;
    let delivered = match deadline.left() {
        None => started.recv().map_err(|_| gone())?,
        Some(left) => started.recv_timeout(left).map_err(|error| match error {
            RecvTimeoutError::Timeout => {
                Error::new(Cause::Start("the system has not executed the program in time".to_owned()))
            }
            RecvTimeoutError::Disconnected => gone(),
        })?,
    };
    delivered.take()
}

/// Watches over a child that a zygote has forked, and that is up.
pub(crate) fn adopt(pid: u32, pidfd: PidFd, name: String, lifeline: SharedFd) -> Result<Arc<Child>> {
    watch(NewChild { pid, pidfd, name, lifeline, is_listed: true, is_up: true })
}

/// Watches over a child that has no task and will get none, until it has ended.
pub(crate) fn reap(pid: u32, pidfd: PidFd, lifeline: SharedFd) -> Result<Arc<Child>> {
    watch(NewChild { pid, pidfd, name: String::new(), lifeline, is_listed: false, is_up: true })
}

/// Has `tidy` called when the other end of this socket is closed: by the thread, so it must not wait for that.
pub(crate) fn watch_preforked(socket: BorrowedFd<'_>, tidy: fn()) -> Result<()> {
    let _ = REAP.set(tidy);
    let event = EpollEvent::new(EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLONESHOT, PREFORKED);
    let watched = Supervisor::get()?.epoll.add(socket, event);
    watched.map_err(|errno| Error::system("watch a child process", errno))
}

/// The socket is a child's from now on.
pub(crate) fn forget_preforked(socket: BorrowedFd<'_>) {
    if let Ok(supervisor) = Supervisor::get() {
        let _ = supervisor.epoll.delete(socket); // else it is not watched
    }
}

static REAP: OnceLock<fn()> = OnceLock::new();

fn watch(birth: NewChild) -> Result<Arc<Child>> {
    match Supervisor::get() {
        Ok(supervisor) => supervisor.watch(birth),
        Err(error) => {
            birth.pidfd.signal(Signal::SIGKILL)?;
            birth.pidfd.reap();
            Err(error)
        }
    }
}

/// Every child that is alive.
pub(crate) fn children() -> Vec<Arc<Child>> {
    let Ok(supervisor) = Supervisor::get() else { return Vec::new() };
    let children = lock(&supervisor.children);
    children.values().filter(|child| child.is_listed && child.is_alive()).cloned().collect()
}

/// Every process that is none of the user's and has not been buried: zygotes, and what those have forked and nobody has
/// taken.
pub(crate) fn internal_processes() -> Vec<Arc<Child>> {
    let Ok(supervisor) = Supervisor::get() else { return Vec::new() };
    let children = lock(&supervisor.children);
    children.values().filter(|child| !child.is_listed).cloned().collect()
}

type SpawnReply = mpsc::SyncSender<ReplySlot>;

/// A child on its way to whoever has ordered it. If he has gone, it is ended.
struct ReplySlot(Option<Result<Arc<Child>>>);

impl ReplySlot {
    fn take(mut self) -> Result<Arc<Child>> {
        self.0.take().unwrap_or_else(|| Err(Error::internal("the supervisor thread gave no answer")))
    }
}

impl Drop for ReplySlot {
    fn drop(&mut self) {
        if let Some(Ok(child)) = &self.0 {
            child.kill();
        }
    }
}

/// The side of the thread that others see.
#[derive(Debug)]
struct Supervisor {
    /// Which process the thread lives in. A copy that somebody forked has none, and gets its own.
    pid: u32,
    orders: mpsc::Sender<(SpawnRequest, SpawnReply)>,
    bell: EventFd,
    /// What the thread waits for: the event count, and every child's end.
    epoll: Epoll,
    children: Mutex<HashMap<u64, Arc<Child>>>,
    next: AtomicU64,
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
            .and_then(|epoll| epoll.add(&bell, EpollEvent::new(EpollFlags::EPOLLIN, WAKEUP)).map(|()| epoll))
            .map_err(|errno| Error::system("create a descriptor for the supervisor", errno))?;
        let children = Mutex::default();
        let next = AtomicU64::new(PREFORKED + 1);
        let shared = Arc::new(Self { pid: process::own_pid(), orders, bell, epoll, children, next });
        let watch = Watch { shared: Arc::clone(&shared), inbox, starting: HashMap::new() };
        let thread = thread::Builder::new().name("multiproc".to_owned()).stack_size(256 * 1024);
        process::with_signals_blocked(|| thread.spawn(move || watch.run()))
            .map_err(|error| Error::io("start the supervisor thread", &error))?;
        Ok(shared)
    }

    /// From now on, the thread learns of this child's end. A child that cannot be watched is ended.
    fn watch(self: &Arc<Self>, birth: NewChild) -> Result<Arc<Child>> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let child = Arc::new(Child::new(id, Arc::downgrade(self), birth));
        lock(&self.children).insert(id, Arc::clone(&child)); // first, for its end may come at once
        if let Err(errno) = self.epoll.add(&child, EpollEvent::new(EpollFlags::EPOLLIN, id)) {
            child.kill();
            child.wait(Deadline::Never);
            return Err(Error::system("watch a child process", errno));
        }
        Ok(child)
    }
}

/// The thread itself.
struct Watch {
    shared: Arc<Supervisor>,
    inbox: mpsc::Receiver<(SpawnRequest, SpawnReply)>,
    /// Those that have not been seen to be up.
    starting: HashMap<u64, Starting>,
}

struct Starting {
    until: Instant,
    timeout: Duration,
}

/// The event that means an order, and the one that means a preforked child; any other number is a child's, and with this bit its
/// lifeline's.
const WAKEUP: u64 = 0;
const PREFORKED: u64 = 1;
const HUNG_UP: u64 = 1 << 63;

impl Watch {
    fn run(mut self) {
        let mut events = [EpollEvent::empty(); 64];
        loop {
            let count = self.shared.epoll.wait(&mut events, self.timeout()).unwrap_or(0); // only EINTR is possible
            for event in &events[..count] {
                match event.data() {
                    WAKEUP => self.take_requests(),
                    PREFORKED => drop(REAP.get().map(|tidy| tidy())),
                    id if id & HUNG_UP != 0 => self.mark_hung_up(id & !HUNG_UP),
                    id => self.reap_child(id),
                }
            }
            self.check_starting();
        }
    }

    fn take_requests(&mut self) {
        let _ = self.shared.bell.read();
        while let Ok((order, reply)) = self.inbox.try_recv() {
            if !order.deadline.is_over() {
                let _ = reply.send(ReplySlot(Some(self.start(order))));
            }
        }
    }

    fn start(&mut self, order: SpawnRequest) -> Result<Arc<Child>> {
        let SpawnRequest { name, socket, lifeline, timeout, .. } = order;
        let (pid, pidfd) = process::exec_self(socket)?;
        let is_listed = timeout.is_some();
        let child = self.shared.watch(NewChild { pid, pidfd, name, lifeline, is_listed, is_up: false })?;
        if let Some(timeout) = timeout
            && let Some(until) = Instant::now().checked_add(timeout)
        {
            self.starting.insert(child.id, Starting { until, timeout });
        }
        Ok(child)
    }

    fn mark_hung_up(&self, id: u64) {
        let Some(child) = lock(&self.shared.children).get(&id).cloned() else { return };
        let _ = self.shared.epoll.delete(child.lifeline.as_fd()); // it would be told again and again
        child.mark_hung_up();
    }

    fn reap_child(&mut self, id: u64) {
        self.starting.remove(&id);
        let Some(child) = lock(&self.shared.children).remove(&id) else { return };
        child.collect();
        // Both go with their descriptors at the latest.
        let _ = self.shared.epoll.delete(&child);
        let _ = self.shared.epoll.delete(child.lifeline.as_fd());
    }

    /// Ends those whose time to come up is over.
    fn check_starting(&mut self) {
        let now = Instant::now();
        let due: Vec<u64> =
            self.starting.iter().filter(|(_, it)| it.until <= now).map(|(&id, _)| id).collect();
        for id in due {
            let Some(Starting { timeout, .. }) = self.starting.remove(&id) else { continue };
            let Some(child) = lock(&self.shared.children).get(&id).cloned() else { continue };
            if child.is_alive() && !child.set_started() {
                child.kill_start_timeout(timeout);
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

/// A panic while one of these locks is held leaves nothing half done.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::process::Command;

    use nix::errno::Errno;

    use super::*;
    use crate::sys::poll::{PollFlags, ready};
    use crate::sys::process::Exit;
    use crate::sys::socket;

    /// A child that stays until it is killed, or this process ends; and a copy of its end of its lifeline.
    pub(crate) fn child() -> (Arc<Child>, OwnedFd) {
        let (lifeline, theirs) = socket::pair().unwrap();
        let copy = theirs.try_clone().unwrap();
        #[allow(clippy::zombie_processes)] // it is waited for by its number
        let pid = Command::new("cat").stdin(theirs).spawn().unwrap().id();
        let pidfd = PidFd::of_child(pid).unwrap();
        (adopt(pid, pidfd, "cat".to_owned(), lifeline.into()).unwrap(), copy)
    }

    /// Else the supervisor would be told of it for ever.
    fn is_watched(child: &Child) -> bool {
        let supervisor = child.supervisor().unwrap();
        supervisor.epoll.delete(child.lifeline.as_fd()) != Err(Errno::ENOENT)
    }

    #[test]
    fn the_lifeline_of_one_that_has_ended_is_not_watched() {
        let (child, _other) = child();
        child.watch(Arc::new(|| ()));
        child.kill();
        assert_eq!(child.wait(Deadline::Never), Some(Exit::Signal(Signal::SIGKILL as i32)));
        assert!(!is_watched(&child));
        child.watch(Arc::new(|| ()));
        assert!(!is_watched(&child));
    }

    #[test]
    fn an_order_is_waited_for_no_longer_than_it_may_take() {
        let (child, _other) = child();
        let supervisor = Supervisor::get().unwrap();
        let children = lock(&supervisor.children); // the thread comes no further than this
        child.kill();
        assert!(ready(child.as_fd(), PollFlags::POLLIN, Deadline::Never).unwrap());
        let (lifeline, socket) = socket::pair().unwrap();
        let deadline = Deadline::after(Duration::from_millis(50));
        let name = "late".to_owned();
        let order = SpawnRequest { name, socket, lifeline: lifeline.into(), timeout: None, deadline };
        let error = start(order).unwrap_err();
        assert!(error.to_string().contains("has not executed the program in time"), "{error}");
        drop(children);
        assert_eq!(child.wait(Deadline::Never), Some(Exit::Signal(Signal::SIGKILL as i32)));
    }
}
