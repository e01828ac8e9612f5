//! Who does what: the chunks that wait, the workers, and what each of them has in hand.
//!
//! One state, changed by one event at a time; whoever holds the lock around it may hand out work.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::call::{Call, Parcel};
use super::chunk::Chunk;
use super::crew::{Death, Event, Worker};
use crate::error::{Cause, Error, Result};
use crate::link::Link;
use crate::supervisor::Child;

pub(crate) struct State {
    waiting: VecDeque<Chunk>,
    workers: Vec<Worker>,
    phase: Phase,
    /// How many workers there should be, and after how many tasks each is replaced.
    wanted: usize,
    max_tasks: Option<u64>,
    /// How many workers in a row have died before they were ready.
    stillborn: u32,
    next_id: u64,
}

enum Phase {
    Open,
    /// No new work; ends when there is none left.
    Closed,
    /// No work at all; whoever is still there is asked to end at the first time, and killed at the second.
    Ending {
        ask: Instant,
        kill: Instant,
    },
    /// Workers cannot be had; every call gets this error.
    Broken(Error),
}

/// So many workers in a row may die before they are ready; then it is no accident. (Somebody who kills workers at
/// random hits a new one now and then; a worker that crashes at birth does so every time.)
const STILLBORN: u32 = 20;
/// So often a chunk may go to a worker that dies before it begins with it; then its first item is what kills them,
/// by being too large for the memory there is.
const ATTEMPTS: u32 = 20;
/// After the system has refused a new worker while others live, how long until the next try.
const RETRY: Duration = Duration::from_millis(100);

/// What the pool's thread waits for, held so that it can wait without the lock.
pub(crate) struct Watched {
    pub(crate) id: u64,
    pub(crate) child: Arc<Child>,
    pub(crate) link: Option<Link>,
}

#[derive(Clone, Copy)]
pub(crate) enum Happened {
    Spoke,
    Died,
}

/// What callers cause.
impl State {
    pub(crate) fn new(wanted: usize, max_tasks: Option<u64>) -> Self {
        let (waiting, workers) = Default::default();
        Self { waiting, workers, phase: Phase::Open, wanted, max_tasks, stillborn: 0, next_id: 0 }
    }

    pub(crate) fn check_open(&self) -> Result<()> {
        match &self.phase {
            Phase::Open => Ok(()),
            Phase::Broken(error) => Err(error.clone()),
            Phase::Closed | Phase::Ending { .. } => Err(Error::new(Cause::Closed)),
        }
    }

    pub(crate) fn submit(&mut self, chunks: Vec<Chunk>) -> Result<()> {
        self.check_open()?;
        self.waiting.extend(chunks);
        self.hand_out();
        Ok(())
    }

    pub(crate) fn withdraw(&mut self, call: &Arc<Call>) -> bool {
        let (withdrawn, rest): (Vec<_>, Vec<_>) =
            self.waiting.drain(..).partition(|chunk| Arc::ptr_eq(&chunk.call, call));
        self.waiting = rest.into();
        let any = !withdrawn.is_empty();
        lose(withdrawn, &Error::new(Cause::Cancelled));
        any
    }

    pub(crate) fn close(&mut self) {
        if matches!(self.phase, Phase::Open) {
            self.phase = Phase::Closed;
        }
    }

    pub(crate) fn end(&mut self, ask: Instant, kill: Instant) {
        self.phase = Phase::Ending { ask, kill };
        lose(self.waiting.drain(..), &Error::new(Cause::Cancelled));
    }

    pub(crate) fn worker_pids(&self) -> Vec<u32> {
        self.workers.iter().filter(|worker| worker.is_staying()).map(Worker::pid).collect()
    }
}

/// What the pool's thread does.
impl State {
    pub(crate) fn lacks_workers(&self) -> bool {
        let wanted = match self.phase {
            Phase::Open => self.wanted,
            Phase::Closed => self.wanted.min(self.waiting.len()),
            Phase::Ending { .. } | Phase::Broken(_) => 0,
        };
        self.workers.iter().filter(|worker| worker.is_staying()).count() < wanted
    }

    pub(crate) fn add(&mut self, worker: Worker) {
        self.next_id += 1;
        self.workers.push(worker.with_id(self.next_id));
    }

    /// Does all that can be done now; gives what to wait for, or nothing when the pool has ended.
    pub(crate) fn move_along(&mut self) -> Option<Vec<Watched>> {
        self.hand_out();
        if self.is_over() {
            return None;
        }
        self.end_workers();
        let watch = |worker: &Worker| Watched {
            id: worker.id(),
            child: worker.child(),
            link: worker.link().cloned(),
        };
        Some(self.workers.iter().map(watch).collect())
    }

    fn is_over(&self) -> bool {
        let may_end = match self.phase {
            Phase::Open | Phase::Broken(_) => false,
            Phase::Closed => self.waiting.is_empty(),
            Phase::Ending { .. } => true,
        };
        may_end && self.workers.is_empty()
    }

    /// Gives waiting chunks to workers that are free.
    fn hand_out(&mut self) {
        while !self.waiting.is_empty() {
            let Some(worker) = self.workers.iter_mut().find(|worker| worker.is_free()) else { return };
            let Some(mut chunk) = self.waiting.pop_front() else { return };
            let left = self.max_tasks.map_or(u64::MAX, |most| most - worker.served());
            if let Some(rest) = chunk.split_off(u32::try_from(left).unwrap_or(u32::MAX)) {
                self.waiting.push_front(rest);
            }
            match worker.give(chunk) {
                Ok(None) => {}
                Ok(Some(chunk)) => self.waiting.push_front(chunk), // it is dying; another will take it
                Err((chunk, error)) => lose([chunk], &error),
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
    pub(crate) fn next_step(&self) -> Option<Instant> {
        let (ask, kill) = match self.phase {
            Phase::Ending { ask, kill } => (Some(ask), Some(kill)),
            _ => (None, None),
        };
        let now = Instant::now();
        let dooms = self.workers.iter().filter_map(Worker::doom);
        dooms.chain([ask, kill].into_iter().flatten().filter(|&time| time > now)).min()
    }

    /// Takes in what a worker has said, and its death, if it has died.
    pub(crate) fn take_in(&mut self, id: u64, what: Happened) {
        let Some(place) = self.workers.iter().position(|worker| worker.id() == id) else { return };
        let worker = &mut self.workers[place];
        while let Some(event) = worker.hear() {
            match event {
                Event::Ready => self.stillborn = 0,
                Event::GaveBack(rest) => requeue(&mut self.waiting, rest),
                Event::Results => {}
            }
        }
        if self.max_tasks.is_some_and(|most| worker.served() >= most) {
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
            if rest.attempts < ATTEMPTS {
                requeue(&mut self.waiting, rest);
            } else {
                let others = rest.split_off(1);
                lose([rest], &error);
                if let Some(others) = others {
                    requeue(&mut self.waiting, others);
                }
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
    pub(crate) fn cannot_hire(&mut self, error: &Error) -> Instant {
        if self.workers.is_empty() {
            self.fail(error);
        }
        Instant::now() + RETRY
    }

    fn fail(&mut self, error: &Error) {
        if matches!(self.phase, Phase::Open | Phase::Closed) {
            self.phase = Phase::Broken(error.clone());
        }
        lose(self.waiting.drain(..), error);
    }

    /// Ends everything on the spot: all that is left to do has this error.
    pub(crate) fn give_up(&mut self, error: &Error) {
        self.fail(error);
        for worker in std::mem::take(&mut self.workers) {
            worker.lose_all(error);
        }
    }

    pub(crate) fn kill_all(&mut self) {
        for worker in std::mem::take(&mut self.workers) {
            worker.dismiss_at_once();
        }
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

/// Gives every item of some chunks the same error.
fn lose(chunks: impl IntoIterator<Item = Chunk>, error: &Error) {
    for chunk in chunks {
        chunk.call.deliver(Parcel::Lost { first: chunk.first, count: chunk.count, error: error.clone() });
    }
}
