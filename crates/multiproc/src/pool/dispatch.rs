//! Who does what: the chunks that wait, the workers, and what each of them has in hand.
//!
//! All of it is one state under one lock. A thread that submits a chunk hands it to an idle worker itself; the pool's
//! own thread takes in what the workers report, hands out what waits, and replaces who has died.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::call::{Call, Parcel};
use super::chunk::Chunk;
use super::crew::{Death, Event, Worker};
use super::worker::Initializer;
use crate::error::{Cause, Error, Result};
use crate::link::Link;
use crate::supervisor::Child;
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

#[derive(Default)]
struct State {
    waiting: VecDeque<Chunk>,
    workers: Vec<Worker>,
    phase: Phase,
    /// How many workers in a row have died before they were ready.
    stillborn: u32,
    next_id: u64,
}

#[derive(Default)]
enum Phase {
    #[default]
    Open,
    /// No new work; ends when there is none left.
    Closed,
    /// No work at all; whoever is still there is asked to end at the first time, and killed at the second.
    Ending { ask: Instant, kill: Instant },
    /// Workers cannot be had; every call gets this error.
    Broken(Error),
}

/// So many workers in a row may die before they are ready; then it is no accident. (Somebody who kills workers at
/// random hits a new one now and then; a worker that crashes at birth does so every time.)
const STILLBORN: u32 = 20;
/// So often a chunk may go to a worker that dies before it begins with it.
const ATTEMPTS: u32 = 5;
/// After the system has refused a new worker while others live, how long until the next try.
const RETRY: Duration = Duration::from_millis(100);

/// What callers do.
impl Core {
    /// Starts all workers. If one cannot be started, none is left.
    pub(crate) fn start(config: Config) -> Result<Arc<Self>> {
        let bell = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map_err(|errno| Error::system("create a pool's descriptor", errno))?;
        let core = Arc::new(Self { config, state: Mutex::default(), bell });
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
        for worker in std::mem::take(&mut self.lock().workers) {
            worker.dismiss_at_once();
        }
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
        self.lock().workers.iter().filter(|worker| worker.is_staying()).map(Worker::pid).collect()
    }

    /// Whether the pool takes new work; else the error that says why not.
    pub(crate) fn check_open(&self) -> Result<()> {
        self.lock().check_open()
    }

    /// Hands chunks to workers that are free, or lets them wait.
    pub(crate) fn submit(&self, chunks: Vec<Chunk>) -> Result<()> {
        let mut state = self.lock();
        state.check_open()?;
        state.waiting.extend(chunks);
        state.hand_out(self.config.max_tasks);
        Ok(())
    }

    /// Takes back what no worker has begun of a call; says whether that was anything.
    pub(crate) fn withdraw(&self, call: &Arc<Call>) -> bool {
        let mut state = self.lock();
        let (withdrawn, rest): (Vec<_>, Vec<_>) =
            state.waiting.drain(..).partition(|chunk| Arc::ptr_eq(&chunk.call, call));
        state.waiting = rest.into();
        drop(state);
        lose(withdrawn, &Error::new(Cause::Cancelled))
    }

    pub(crate) fn close(&self) {
        let mut state = self.lock();
        if matches!(state.phase, Phase::Open) {
            state.phase = Phase::Closed;
        }
        drop(state);
        self.ring();
    }

    /// Drops what waits, and ends the workers: asks those who are busy after `patience`, kills them after `bound`.
    pub(crate) fn end(&self, patience: Duration, bound: Duration) {
        let mut state = self.lock();
        let now = Instant::now();
        state.phase = Phase::Ending { ask: now + patience, kill: now + bound };
        let waiting = state.waiting.drain(..).collect();
        drop(state);
        lose(waiting, &Error::new(Cause::Cancelled));
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
    pub(crate) fn run(self: &Arc<Self>) {
        let guard = FailOnPanic(self);
        loop {
            let retry = self.hire().err().map(|error| self.lock().cannot_hire(&error));
            let watched = {
                let mut state = self.lock();
                state.hand_out(self.config.max_tasks);
                if state.is_over() {
                    break;
                }
                state.end_workers();
                state.watched()
            };
            let events = self.wait(&watched, retry);
            let mut state = self.lock();
            for (id, what) in events {
                state.take_in(id, what, self.config.max_tasks);
            }
        }
        std::mem::forget(guard);
    }

    /// Starts workers until there are as many as there should be. Not under the lock, since it takes a while.
    fn hire(&self) -> Result<()> {
        while self.lock().lacks_workers(self.config.workers) {
            let worker = Worker::start(self.config.initializer.as_ref(), self.config.start_timeout)?;
            let mut state = self.lock();
            state.next_id += 1;
            let id = state.next_id;
            state.workers.push(worker.with_id(id));
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

/// What the pool's thread waits for, held so that it can wait without the lock.
struct Watched {
    id: u64,
    child: Arc<Child>,
    link: Option<Link>,
}

#[derive(Clone, Copy)]
enum Happened {
    Spoke,
    Died,
}

impl State {
    fn check_open(&self) -> Result<()> {
        match &self.phase {
            Phase::Open => Ok(()),
            Phase::Broken(error) => Err(error.clone()),
            Phase::Closed | Phase::Ending { .. } => Err(Error::new(Cause::Closed)),
        }
    }

    fn lacks_workers(&self, wanted: usize) -> bool {
        let wanted = match self.phase {
            Phase::Open => wanted,
            Phase::Closed => wanted.min(self.waiting.len()),
            Phase::Ending { .. } | Phase::Broken(_) => 0,
        };
        self.workers.iter().filter(|worker| worker.is_staying()).count() < wanted
    }

    fn is_over(&self) -> bool {
        let may_end = match self.phase {
            Phase::Open | Phase::Broken(_) => false,
            Phase::Closed => self.waiting.is_empty(),
            Phase::Ending { .. } => true,
        };
        may_end && self.workers.is_empty()
    }

    fn watched(&self) -> Vec<Watched> {
        let watch = |worker: &Worker| Watched {
            id: worker.id(),
            child: worker.child(),
            link: worker.link().cloned(),
        };
        self.workers.iter().map(watch).collect()
    }

    /// Gives waiting chunks to workers that are free.
    fn hand_out(&mut self, max_tasks: Option<u64>) {
        while !self.waiting.is_empty() {
            let Some(worker) = self.workers.iter_mut().find(|worker| worker.is_free()) else { return };
            let Some(mut chunk) = self.waiting.pop_front() else { return };
            let left =
                max_tasks.map_or(u32::MAX, |most| u32::try_from(most - worker.served()).unwrap_or(u32::MAX));
            if let Some(rest) = chunk.split_off(left) {
                self.waiting.push_front(rest);
            }
            match worker.give(chunk) {
                Ok(None) => {}
                Ok(Some(chunk)) => self.waiting.push_front(chunk), // it is dying; another will take it
                Err((chunk, error)) => {
                    lose(vec![chunk], &error);
                }
            }
        }
    }

    /// Lets go of workers that will not be needed, and presses those that should be gone.
    fn end_workers(&mut self) {
        let now = Instant::now();
        for worker in &mut self.workers {
            if worker.doom().is_some_and(|doom| now >= doom) {
                worker.press(false, true);
            }
            match self.phase {
                Phase::Open => {}
                Phase::Closed if !self.waiting.is_empty() => {}
                Phase::Closed => worker.dismiss_if_free(),
                Phase::Broken(_) => worker.dismiss(),
                Phase::Ending { ask, kill } => {
                    worker.dismiss();
                    worker.press(now >= ask, now >= kill);
                }
            }
        }
    }

    /// When [`State::end_workers`] will have something to do that no event announces.
    fn next_step(&self) -> Option<Instant> {
        let (ask, kill) = match self.phase {
            Phase::Ending { ask, kill } => (Some(ask), Some(kill)),
            _ => (None, None),
        };
        let now = Instant::now();
        let dooms = self.workers.iter().filter_map(Worker::doom);
        dooms.chain([ask, kill].into_iter().flatten().filter(|&time| time > now)).min()
    }

    fn take_in(&mut self, id: u64, what: Happened, max_tasks: Option<u64>) {
        let Some(place) = self.workers.iter().position(|worker| worker.id() == id) else { return };
        let worker = &mut self.workers[place];
        while let Some(event) = worker.hear() {
            match event {
                Event::Ready => self.stillborn = 0,
                Event::GaveBack(rest) => requeue(&mut self.waiting, rest),
                Event::Results => {}
            }
        }
        if max_tasks.is_some_and(|most| worker.served() >= most) {
            worker.dismiss_if_free();
        }
        if matches!(what, Happened::Died) {
            let worker = self.workers.swap_remove(place);
            self.bury(worker);
        }
    }

    /// Settles what a dead worker had in hand: only the item that it was running fails.
    fn bury(&mut self, worker: Worker) {
        let Death { error, stillborn, initializer_failed, rest } = worker.bury();
        if let Some(mut rest) = rest {
            rest.attempts += 1;
            if rest.attempts > ATTEMPTS {
                lose(vec![rest], &error);
            } else {
                requeue(&mut self.waiting, rest);
            }
        }
        if stillborn {
            self.stillborn += 1;
            if initializer_failed || error.is_start() || self.stillborn >= STILLBORN {
                self.fail(&error);
            }
        }
    }

    /// The system refuses a new worker. If others live, the pool goes on with them; says when to try again.
    fn cannot_hire(&mut self, error: &Error) -> Instant {
        if self.workers.is_empty() {
            self.fail(error);
        }
        Instant::now() + RETRY
    }

    fn fail(&mut self, error: &Error) {
        if matches!(self.phase, Phase::Open | Phase::Closed) {
            self.phase = Phase::Broken(error.clone());
        }
        lose(self.waiting.drain(..).collect(), error);
    }
}

/// Puts items back in front of all others, in chunks of a size that suits what they have turned out to cost.
fn requeue(waiting: &mut VecDeque<Chunk>, mut rest: Chunk) {
    let size = u32::try_from(rest.call.worthwhile()).unwrap_or(u32::MAX);
    let mut pieces = Vec::new();
    while let Some(more) = rest.split_off(size) {
        pieces.push(std::mem::replace(&mut rest, more));
    }
    pieces.push(rest);
    for piece in pieces.into_iter().rev() {
        waiting.push_front(piece);
    }
}

/// Gives every item of some chunks the same error; says whether there was any.
fn lose(chunks: Vec<Chunk>, error: &Error) -> bool {
    let any = !chunks.is_empty();
    for chunk in chunks {
        chunk.call.deliver(Parcel::Lost { first: chunk.first, count: chunk.count, error: error.clone() });
    }
    any
}

/// Should the pool's thread itself panic, which would be our bug, then nobody waits for it.
struct FailOnPanic<'a>(&'a Core);

impl Drop for FailOnPanic<'_> {
    fn drop(&mut self) {
        let error = Error::system("go on with a pool after a panic inside of it", Errno::EIO);
        let mut state = self.0.lock();
        state.fail(&error);
        for worker in std::mem::take(&mut state.workers) {
            worker.lose_all(&error);
        }
    }
}
