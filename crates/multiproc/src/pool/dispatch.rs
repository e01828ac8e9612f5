//! The one place that moves a pool along: a lock around its [`State`], and a thread.
//!
//! A thread that submits a chunk hands it to an idle worker itself; the pool's own thread takes in what the workers
//! report, hands out what waits, and replaces who has died.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::call::Call;
use super::chunk::Chunk;
use super::crew::Worker;
use super::state::{Policy, State};
use crate::error::{Error, Result};
use crate::method::Manner;
use crate::sys::poll::{Deadline, milliseconds};

/// What a pool was built with.
#[derive(Clone)]
pub(crate) struct Config {
    pub(crate) chunk_size: Option<u64>,
    pub(crate) manner: Manner,
    pub(crate) policy: Policy,
}

pub(crate) struct Core {
    workers: usize,
    chunk_size: Option<u64>,
    manner: Manner,
    shutdown_timeout: Duration,
    state: Mutex<State>,
    /// What the pool's thread waits for: the workers' links, their deaths, and the bell.
    epoll: Epoll,
    /// Wakes the pool's thread when the state has changed under it.
    bell: EventFd,
}

/// The number of the bell's events; all others are workers'.
const BELL: u64 = 0;

/// What callers do.
impl Core {
    /// Starts all workers. If one cannot be started, none is left.
    pub(crate) fn start(config: Config) -> Result<Arc<Self>> {
        let Config { chunk_size, manner, policy } = config;
        let refused = |errno| Error::system("create a pool's descriptor", errno);
        let bell = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).map_err(refused)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(refused)?;
        epoll.add(&bell, EpollEvent::new(EpollFlags::EPOLLIN, BELL)).map_err(refused)?;
        let core = Arc::new(Self {
            workers: policy.workers,
            chunk_size,
            manner,
            shutdown_timeout: policy.shutdown_timeout,
            state: Mutex::new(State::new(policy)),
            epoll,
            bell,
        });
        match core.hire() {
            Ok(()) => Ok(core),
            Err(error) => {
                core.abort();
                Err(error)
            }
        }
    }

    /// Undoes [`Core::start`].
    pub(crate) fn abort(&self) {
        self.lock().kill_all();
    }

    pub(crate) fn workers(&self) -> usize {
        self.workers
    }

    pub(crate) fn chunk_size(&self) -> Option<u64> {
        self.chunk_size
    }

    pub(crate) fn shutdown_timeout(&self) -> Duration {
        self.shutdown_timeout
    }

    pub(crate) fn worker_pids(&self) -> Vec<u32> {
        self.lock().worker_pids()
    }

    /// Whether the pool takes new work; else the error that says why not.
    pub(crate) fn check_open(&self) -> Result<()> {
        self.lock().check_open()
    }

    /// Hands chunks to workers that are free, or lets them wait.
    pub(crate) fn submit(&self, chunks: Vec<Chunk>) -> Result<()> {
        let mut state = self.lock();
        state.submit(chunks)?;
        let stalled = state.next_step().is_some();
        drop(state);
        if stalled {
            self.ring(); // the thread may be waiting without a time
        }
        Ok(())
    }

    /// Takes back what no worker has begun of a call; says whether that was anything.
    pub(crate) fn withdraw(&self, call: &Arc<Call>) -> bool {
        self.lock().withdraw(call)
    }

    /// Takes no new work, and ends when there is none left.
    pub(crate) fn close(&self) {
        self.lock().close();
        self.ring();
    }

    /// Drops what waits, and ends the workers: asks those who are busy after `patience`, kills them after `bound`.
    pub(crate) fn end(&self, patience: Duration, bound: Duration) {
        let now = Instant::now();
        self.lock().end(now.checked_add(patience), now.checked_add(bound));
        self.ring();
    }

    fn ring(&self) {
        let _ = self.bell.write(1); // fails only when it is ringing already
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the pool's own thread does.
impl Core {
    /// Runs until the pool has ended and its last worker is gone.
    pub(crate) fn run(&self) {
        let guard = FailOnPanic(self);
        loop {
            let retry = self.hire().err().map(|error| self.lock().cannot_hire(&error));
            if !self.lock().move_along() {
                break;
            }
            match self.wait(retry) {
                Ok(ids) => ids.into_iter().for_each(|id| self.lock().take_in(id)),
                Err(error) => return self.lock().give_up(&error),
            }
        }
        std::mem::forget(guard);
    }

    /// Starts workers until there are as many as there should be. Not under the lock, since it takes a while.
    fn hire(&self) -> Result<()> {
        loop {
            let Some((id, initializer)) = self.lock().vacancy() else { return Ok(()) };
            let worker = Worker::start(id, &self.epoll, initializer, self.manner)?;
            self.lock().add(worker);
        }
    }

    /// Waits for something to happen; gives the numbers of the workers to which it did.
    fn wait(&self, retry: Option<Instant>) -> Result<Vec<u64>> {
        let next_step = self.lock().next_step();
        let deadline = retry.into_iter().chain(next_step).min().map_or(Deadline::Never, Deadline::At);
        let timeout = milliseconds(deadline).and_then(|ms| EpollTimeout::try_from(ms).ok());
        let mut events = [EpollEvent::empty(); 64];
        let count = match self.epoll.wait(&mut events, timeout.unwrap_or(EpollTimeout::NONE)) {
            Ok(count) => count,
            Err(Errno::EINTR) => 0,
            Err(errno) => return Err(Error::system("wait for workers", errno)),
        };
        let _ = self.bell.read();
        let mut ids: Vec<u64> =
            events[..count].iter().map(EpollEvent::data).filter(|&id| id != BELL).collect();
        ids.sort_unstable();
        ids.dedup(); // one that has spoken and died comes twice
        Ok(ids)
    }
}

/// Should the pool's thread end early, by a panic inside of it, which would be our bug, then nobody waits for it.
struct FailOnPanic<'a>(&'a Core);

impl Drop for FailOnPanic<'_> {
    fn drop(&mut self) {
        self.0.lock().give_up(&Error::system("go on with a pool after a failure inside of it", Errno::EIO));
    }
}
