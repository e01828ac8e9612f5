//! The one place that moves a pool along: a lock around its [`State`], and who holds it.
//!
//! Threads that wait for results of their own take in what the workers have finished and hand out what waits, for all.
//! Where no thread waits, the pool's own thread does; and it alone settles deaths and replaces the dead.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::call::Call;
use super::chunk::Chunk;
use super::crew::Worker;
use super::state::{Policy, State, Turn};
use crate::error::{Error, Result};
use crate::mailbox::{Lobby, spin};
use crate::method::Manner;
use crate::sys::poll::Deadline;

/// What a pool was built with.
#[derive(Clone)]
pub(crate) struct Config {
    pub(crate) manner: Manner,
    pub(crate) policy: Policy,
}

pub(crate) struct Core {
    workers: usize,
    /// How many processors there are.
    processors: usize,
    chunk_size: Option<u32>,
    manner: Manner,
    shutdown_timeout: Duration,
    state: Mutex<State>,
    /// How many threads wait for results.
    callers: Mutex<usize>,
    lobby: Lobby,
}

/// How long to look for results, or for work, before sleeping: longer than one who hands in one task after the other
/// needs in between.
const SPIN: Duration = Duration::from_micros(30);

/// What callers do.
impl Core {
    /// Starts all workers. If one cannot be started, none is left.
    pub(crate) fn start(config: Config) -> Result<Arc<Self>> {
        let Config { manner, policy } = config;
        let core = Arc::new(Self {
            workers: policy.workers,
            processors: thread::available_parallelism().map_or(1, usize::from),
            chunk_size: policy.chunk_size,
            manner,
            shutdown_timeout: policy.shutdown_timeout,
            state: Mutex::new(State::new(policy)),
            callers: Mutex::new(0),
            lobby: Lobby::create()?,
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

    pub(crate) fn chunk_size(&self) -> Option<u32> {
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

    /// Hands chunks to workers that have room, or lets them wait.
    pub(crate) fn submit(&self, chunks: impl Iterator<Item = Chunk>) -> Result<()> {
        let mut state = self.lock();
        state.submit(chunks)?;
        let would_oversleep = *self.count() == 0 && state.would_oversleep();
        drop(state);
        if would_oversleep {
            self.lobby.thread().ring();
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
        self.lobby.thread().ring();
    }

    /// Drops what waits, and ends the workers: asks those who are busy after `patience`, kills them after `bound`.
    pub(crate) fn end(&self, patience: Duration, bound: Duration) {
        let now = Instant::now();
        self.lock().end(now.checked_add(patience), now.checked_add(bound));
        self.lobby.thread().ring();
        self.lobby.callers().ring();
    }

    /// Takes in what workers have finished, and hands out what waits.
    pub(crate) fn turn(&self, is_late: bool) -> Turn {
        let turn = self.lock().turn(is_late);
        if turn.news && *self.count() > 1 {
            self.lobby.callers().ring(); // it may be another one's
        }
        turn
    }

    /// Says that this thread sees to the pool from now on.
    pub(crate) fn attend(&self) -> Caller<'_> {
        let mut callers = self.count();
        *callers += 1;
        if *callers == 1 {
            self.lobby.attendance().set(true);
        }
        Caller(self)
    }

    fn count(&self) -> MutexGuard<'_, usize> {
        self.callers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A thread that waits for results of its own, and sees to those of others.
pub(crate) struct Caller<'a>(&'a Core);

impl Caller<'_> {
    /// Blocks until `has_come` or the deadline, and keeps the workers busy meanwhile; says whether it has.
    pub(crate) fn wait_until(&self, deadline: Deadline, has_come: impl Fn() -> bool) -> bool {
        let core = self.0;
        let mut is_late = false;
        loop {
            let turn = core.turn(is_late);
            if has_come() {
                return true;
            }
            if turn.woken {
                thread::yield_now(); // the kernel may have put it behind this thread, on the same processor
            }
            let mut look = || {
                core.turn(false);
                has_come()
            };
            // Where workers keep all processors busy, this one had better go to one of them.
            if turn.busy < core.processors && spin(SPIN, 6, &mut look) {
                return true;
            }
            let armed = core.lobby.callers().arm();
            let turn = core.turn(false);
            if has_come() {
                return true;
            }
            if deadline.is_over() {
                return false;
            }
            is_late = false;
            if !turn.news {
                let look = turn.next_look.map(|time| time.saturating_duration_since(Instant::now()));
                core.lobby.callers().wait(armed, look.into_iter().chain(deadline.left()).min());
                is_late = turn.next_look.is_some_and(|time| time <= Instant::now());
            }
        }
    }
}

impl Drop for Caller<'_> {
    fn drop(&mut self) {
        let core = self.0;
        let mut callers = core.count();
        *callers -= 1;
        if *callers == 0 {
            core.lobby.attendance().set(false);
            drop(callers);
            // What came before that line has woken nobody, and may be what the pool's thread should see to.
            core.turn(false);
            if core.lock().would_oversleep() {
                core.lobby.thread().ring();
            }
        }
    }
}

/// What the pool's own thread does.
impl Core {
    /// Runs until the pool has ended and its last worker is gone.
    pub(crate) fn run(&self) {
        let guard = FailOnPanic(self);
        loop {
            let armed = self.lobby.thread().arm();
            let retry = self.hire().err().map(|error| self.lock().cannot_hire(error));
            let goes_on = self.lock().move_along();
            self.lobby.callers().ring();
            if !goes_on {
                break;
            }
            let until = self.lock().go_to_sleep(retry);
            let left = until.map(|time| time.saturating_duration_since(Instant::now()));
            if !self.lock().lacks_workers() || retry.is_some() {
                self.lobby.thread().wait(armed, left);
            }
        }
        std::mem::forget(guard);
    }

    /// Starts workers until there are as many as there should be. Not under the lock, since it takes a while.
    fn hire(&self) -> Result<()> {
        loop {
            let state = self.lock();
            if !state.lacks_workers() {
                return Ok(());
            }
            let initializer = state.initializer();
            drop(state);
            let spin =
                if self.workers <= self.processors && self.processors > 1 { SPIN } else { Duration::ZERO };
            let worker = Worker::start(&self.lobby, spin, initializer, self.manner)?;
            self.lock().add(worker);
        }
    }
}

/// Should the pool's thread end early, by a panic inside of it, which would be our bug, then nobody waits for it.
struct FailOnPanic<'a>(&'a Core);

impl Drop for FailOnPanic<'_> {
    fn drop(&mut self) {
        self.0.lock().give_up(&Error::system(
            "go on with a pool after a failure inside of it",
            nix::errno::Errno::EIO,
        ));
        self.0.lobby.callers().ring();
    }
}
