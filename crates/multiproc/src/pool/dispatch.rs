//! The one place that moves a pool along: a lock around its [`State`], and a thread.
//!
//! A thread that submits a chunk hands it to an idle worker itself; the pool's own thread takes in what the workers
//! report, hands out what waits, and replaces who has died.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::call::Call;
use super::chunk::Chunk;
use super::crew::Worker;
use super::state::{Happened, State, Watched};
use super::worker::Initializer;
use crate::error::{Error, Result};
use crate::sys::poll::{Deadline, PollFlags, any_ready};

/// What a pool was built with.
pub(crate) struct Config {
    pub(crate) workers: usize,
    pub(crate) chunk_size: Option<u64>,
    pub(crate) max_tasks: Option<u64>,
    pub(crate) initializer: Option<Initializer>,
    pub(crate) start_timeout: Duration,
    pub(crate) shutdown_timeout: Duration,
}

pub(crate) struct Core {
    config: Config,
    state: Mutex<State>,
    /// Wakes the pool's thread when the state has changed under it.
    bell: EventFd,
}

/// What callers do.
impl Core {
    /// Starts all workers. If one cannot be started, none is left.
    pub(crate) fn start(config: Config) -> Result<Arc<Self>> {
        let bell = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map_err(|errno| Error::system("create a pool's descriptor", errno))?;
        let state = Mutex::new(State::new(config.workers, config.max_tasks));
        let core = Arc::new(Self { config, state, bell });
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
        self.config.workers
    }

    pub(crate) fn chunk_size(&self) -> Option<u64> {
        self.config.chunk_size
    }

    pub(crate) fn shutdown_timeout(&self) -> Duration {
        self.config.shutdown_timeout
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
        self.lock().submit(chunks)
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
        self.lock().end(now + patience, now + bound);
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
            let Some(watched) = self.lock().move_along() else { break };
            for (id, what) in self.wait(&watched, retry) {
                self.lock().take_in(id, what);
            }
        }
        std::mem::forget(guard);
    }

    /// Starts workers until there are as many as there should be. Not under the lock, since it takes a while.
    fn hire(&self) -> Result<()> {
        while self.lock().lacks_workers() {
            let worker = Worker::start(self.config.initializer.as_ref(), self.config.start_timeout)?;
            self.lock().add(worker);
        }
        Ok(())
    }

    /// Waits for something to happen; gives which workers said something, and which died.
    fn wait(&self, watched: &[Watched], retry: Option<Instant>) -> Vec<(u64, Happened)> {
        let mut fds: Vec<(BorrowedFd<'_>, PollFlags)> = vec![(self.bell.as_fd(), PollFlags::POLLIN)];
        for worker in watched {
            fds.push((worker.child.as_fd(), PollFlags::POLLIN));
            fds.extend(worker.link.as_ref().map(|link| (link.as_fd(), PollFlags::POLLIN)));
        }
        let deadline =
            retry.into_iter().chain(self.lock().next_step()).min().map_or(Deadline::Never, Deadline::At);
        let Ok(ready) = any_ready(&fds, deadline) else { return Vec::new() };
        let _ = self.bell.read();
        let mut ready = ready.into_iter().skip(1);
        let mut happened = Vec::new();
        for worker in watched {
            let died = ready.next() == Some(true);
            let spoke = worker.link.is_some() && ready.next() == Some(true);
            if died {
                happened.push((worker.id, Happened::Died));
            } else if spoke {
                happened.push((worker.id, Happened::Spoke));
            }
        }
        happened
    }
}

/// Should the pool's thread itself panic, which would be our bug, then nobody waits for it.
struct FailOnPanic<'a>(&'a Core);

impl Drop for FailOnPanic<'_> {
    fn drop(&mut self) {
        self.0.lock().give_up(&Error::system("go on with a pool after a panic inside of it", Errno::EIO));
    }
}
