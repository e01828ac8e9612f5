//! The supervisor: one [thread] that starts zygotes and executed children of this process, and learns of every exit, by
//! `epoll(7)` on their pidfds.
//!
//! The parent-death signal ties a child to the *thread* that started it. So that thread lives as long as the
//! program. A zygote forks with `CLONE_PARENT`, so its forks are children of this thread, too. A status is collected
//! under the child's own lock: by a thread that waits for the child, or else by the supervisor, so that no zombie
//! remains.

mod child;
mod thread;

use std::collections::HashMap;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::Signal;

pub(crate) use self::child::{Child, OnChange};
use self::child::{NewChild, SpawnPhase};
use crate::error::{Cause, Error, Result};
use crate::ipc::wire::SharedFd;
use crate::sys::environment::EnvChanges;
use crate::sys::fork_detect::OriginalProcess;
use crate::sys::pidfd::PidFd;
use crate::sys::poll::Deadline;
use crate::sys::process_local::ProcessLocal;

/// A request to start a child, which executes the program again.
pub(crate) struct SpawnRequest {
    pub(crate) name: String,
    pub(crate) environment: EnvChanges,
    /// Becomes the child's standard input.
    pub(crate) socket: OwnedFd,
    /// The other end of `socket`. It is readable once the child has reached `init`.
    pub(crate) liveness_socket: SharedFd,
    /// The time within which the child must reach `init`. `None` for a zygote.
    pub(crate) timeout: Option<Duration>,
    /// Until when the caller waits for the child to be executed.
    pub(crate) deadline: Deadline,
}

/// Starts a child, which executes the program again. Blocks until it does, or until the request's deadline.
///
/// The supervisor is held up until then: a new process that is stopped just before its exec blocks all later ones.
pub(crate) fn start(request: SpawnRequest) -> Result<Arc<Child>> {
    let supervisor = Supervisor::get()?;
    let (reply, replied) = mpsc::sync_channel(1);
    let deadline = request.deadline;
    let has_ended = || Error::internal("the supervisor thread has ended");
    supervisor.requests.send((request, reply)).map_err(|_| has_ended())?;
    supervisor.wakeup.write(1).map_err(|errno| Error::os("wake the supervisor", errno))?;
    loop {
        let received = match deadline.left() {
            None => replied.recv().map_err(RecvTimeoutError::from),
            Some(left) => replied.recv_timeout(left),
        };
        match received {
            Ok(reply) => return reply.take(),
            // The supervisor drops a request whose time is over.
            Err(_) if deadline.is_over() => {
                let why = "the kernel has not executed the program in time".to_owned();
                return Err(Error::new(Cause::Start(why)));
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Err(has_ended()),
        }
    }
}

/// Watches a child that a zygote has forked.
pub(crate) fn watch(pid: u32, pidfd: PidFd, name: String, liveness_socket: SharedFd) -> Result<Arc<Child>> {
    let phase = SpawnPhase::Ready;
    register(NewChild { pid, pidfd, name, liveness_socket, is_internal: false, phase })
}

/// Watches a forked child without a task until it has ended, to reap it.
pub(crate) fn watch_internal(pid: u32, pidfd: PidFd, liveness_socket: SharedFd) -> Result<Arc<Child>> {
    let phase = SpawnPhase::Ready;
    register(NewChild { pid, pidfd, name: String::new(), liveness_socket, is_internal: true, phase })
}

fn register(new: NewChild) -> Result<Arc<Child>> {
    match Supervisor::get() {
        Ok(supervisor) => supervisor.register(new),
        Err(error) => {
            new.pidfd.signal(Signal::SIGKILL)?;
            new.pidfd.reap(new.pid);
            Err(error)
        }
    }
}

/// Has the supervisor thread call `on_hangup` once the other end of this socket is closed. The function must not block,
/// and must be the same in all calls.
pub(crate) fn watch_preforked(socket: BorrowedFd<'_>, on_hangup: fn()) -> Result<()> {
    let _ = ON_PREFORKED_HANGUP.get().set(on_hangup);
    let event = EpollEvent::new(EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLONESHOT, PREFORKED);
    let watched = Supervisor::get()?.epoll.add(socket, event);
    watched.map_err(|errno| Error::os("watch a child process", errno))
}

/// Undoes [`watch_preforked`]: the child is taken.
pub(crate) fn forget_preforked(socket: BorrowedFd<'_>) {
    if let Ok(supervisor) = Supervisor::get() {
        let _ = supervisor.epoll.delete(socket); // fails if it was not watched
    }
}

static ON_PREFORKED_HANGUP: ProcessLocal<OnceLock<fn()>> = ProcessLocal::new(|_| OnceLock::new());

/// All living children of the program.
pub(crate) fn children() -> Vec<Arc<Child>> {
    registered(|child| !child.is_internal && child.is_alive())
}

/// All processes of the library itself that were not reaped: zygotes, and forked children without a task.
pub(crate) fn internal_processes() -> Vec<Arc<Child>> {
    registered(|child| child.is_internal)
}

fn registered(is_wanted: impl Fn(&Child) -> bool) -> Vec<Arc<Child>> {
    let Ok(supervisor) = Supervisor::get() else { return Vec::new() };
    let children = lock(&supervisor.children);
    children.values().filter(|child| is_wanted(child)).cloned().collect()
}

/// The error of a forked copy that uses a child of the original.
pub(crate) fn forked_copy_error() -> Error {
    Error::invalid("only the process that started a child can use it; this is a forked copy")
}

type SpawnReply = mpsc::SyncSender<ReplySlot>;

/// The reply to a request. If the caller has given up waiting, dropping it kills the child.
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

/// The state that the supervisor thread shares with the others.
struct Supervisor {
    /// The process that the thread is in. A forked copy of that process has no thread, and starts its own.
    original: OriginalProcess,
    requests: mpsc::Sender<(SpawnRequest, SpawnReply)>,
    wakeup: EventFd,
    /// The events of the thread: `wakeup`, every child's exit, and the hang-ups that are watched.
    epoll: Epoll,
    children: Mutex<HashMap<u64, Arc<Child>>>,
    next_id: AtomicU64,
}

/// The epoll events: a request, a pre-forked child's hang-up, otherwise a child's id.
const WAKEUP: u64 = 0;
const PREFORKED: u64 = 1;
const FIRST_CHILD: u64 = 2;
/// With this bit, the hang-up of the child's liveness socket.
const HUNG_UP: u64 = 1 << 63;

static SUPERVISOR: ProcessLocal<Mutex<Option<Arc<Supervisor>>>> = ProcessLocal::new(|_| Mutex::default());

impl Supervisor {
    /// This process's supervisor. Starts the thread if there is none.
    fn get() -> Result<Arc<Self>> {
        let mut supervisor = lock(SUPERVISOR.get());
        match &*supervisor {
            Some(running) => Ok(Arc::clone(running)),
            None => Ok(Arc::clone(supervisor.insert(Self::begin()?))),
        }
    }

    fn begin() -> Result<Arc<Self>> {
        let (requests, received) = mpsc::channel();
        let wakeup = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map_err(|errno| Error::os("create a descriptor for the supervisor", errno))?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)
            .and_then(|epoll| {
                epoll.add(&wakeup, EpollEvent::new(EpollFlags::EPOLLIN, WAKEUP)).map(|()| epoll)
            })
            .map_err(|errno| Error::os("create a descriptor for the supervisor", errno))?;
        let (children, next_id) = (Mutex::default(), AtomicU64::new(FIRST_CHILD));
        let original = OriginalProcess::current();
        let shared = Arc::new(Self { original, requests, wakeup, epoll, children, next_id });
        thread::start(Arc::clone(&shared), received)?;
        Ok(shared)
    }

    /// Registers a child, so that the thread learns of its end. Kills a child that cannot be registered.
    fn register(self: &Arc<Self>, new: NewChild) -> Result<Arc<Child>> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let child = Arc::new(Child::new(id, Arc::downgrade(self), new));
        lock(&self.children).insert(id, Arc::clone(&child)); // first: it may end at once
        if let Err(errno) = self.epoll.add(&child, EpollEvent::new(EpollFlags::EPOLLIN, id)) {
            child.kill();
            child.wait(Deadline::Never);
            return Err(Error::os("watch a child process", errno));
        }
        Ok(child)
    }

    fn child(&self, id: u64) -> Option<Arc<Child>> {
        lock(&self.children).get(&id).cloned()
    }
}

/// Locks a mutex whose data is consistent also after a panic of its holder.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
pub(crate) mod tests;
