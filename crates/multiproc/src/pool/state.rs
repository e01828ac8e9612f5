//! Who does what: the chunks that wait, the workers, and what each of them has in hand.
//!
//! One state, changed by one event at a time; whoever holds the lock around it may hand out work.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::call::Call;
use super::chunk::Chunk;
use super::crew::{Death, Event, Given, Worker};
use super::worker::Initializer;
use crate::error::{Cause, Error, Result};

pub(crate) struct State {
    waiting: VecDeque<Chunk>,
    workers: Vec<Worker>,
    phase: Phase,
    /// Why workers cannot be had, if that is so: every call gets this error.
    broken: Option<Error>,
    policy: Policy,
    /// The system had no room for a chunk; when to try again.
    stalled: Option<Instant>,
    /// Since when the system has refused new workers.
    refused: Option<Instant>,
    /// How many workers in a row have died before they were ready.
    stillborn: u32,
    next_id: u64,
}

/// What the pool was told about its workers.
#[derive(Clone)]
pub(crate) struct Policy {
    /// How many there should be.
    pub(crate) workers: usize,
    /// After how many tasks each is replaced.
    pub(crate) max_tasks: Option<u64>,
    /// How long one may take to end.
    pub(crate) shutdown_timeout: Duration,
    /// What each runs first. It may hold ends of queues, so it goes when the pool does.
    pub(crate) initializer: Option<Initializer>,
}

enum Phase {
    Open,
    /// No new work; ends when there is none left.
    Closed,
    /// No work at all; whoever is still there is asked to end at the first time, and killed at the second. A time so
    /// far away that the clock cannot say it never comes.
    Ending {
        ask: Option<Instant>,
        kill: Option<Instant>,
    },
}

/// So many workers in a row may die before they are ready; then it is no accident. (Somebody who kills workers at
/// random hits a new one now and then; a worker that crashes at birth does so every time.)
const STILLBORN: u32 = 20;
/// So often a chunk may go to a worker that dies before it begins with it; then its first item is what kills them,
/// by being too large for the memory there is.
const ATTEMPTS: u32 = 20;
/// After the system has refused a new worker, how long until the next try; and how long a pool that has no other
/// worker tries before it gives up.
const RETRY: Duration = Duration::from_millis(100);
const GIVE_UP: Duration = Duration::from_secs(3);
/// After the system had no room for a chunk, how long until the next try. (Nothing announces that there is room.)
const STALL: Duration = Duration::from_millis(2);

/// What callers cause.
impl State {
    pub(crate) fn new(policy: Policy) -> Self {
        Self {
            waiting: VecDeque::new(),
            workers: Vec::new(),
            phase: Phase::Open,
            broken: None,
            policy,
            stalled: None,
            refused: None,
            stillborn: 0,
            next_id: 0,
        }
    }

    pub(crate) fn check_open(&self) -> Result<()> {
        match (&self.broken, &self.phase) {
            (Some(error), _) => Err(error.clone()),
            (None, Phase::Open) => Ok(()),
            (None, Phase::Closed | Phase::Ending { .. }) => Err(Error::new(Cause::Closed)),
        }
    }

    pub(crate) fn submit(&mut self, chunks: Vec<Chunk>) -> Result<()> {
        self.check_open()?;
        self.waiting.extend(chunks);
        self.hand_out();
        Ok(())
    }

    pub(crate) fn withdraw(&mut self, call: &Arc<Call>) -> bool {
        let error = Error::new(Cause::Cancelled);
        let before = self.waiting.len();
        self.waiting.retain(|chunk| {
            let is_its = Arc::ptr_eq(&chunk.call, call);
            if is_its {
                chunk.lose(&error);
            }
            !is_its
        });
        self.waiting.len() < before
    }

    pub(crate) fn close(&mut self) {
        if matches!(self.phase, Phase::Open) {
            self.phase = Phase::Closed;
        }
    }

    pub(crate) fn end(&mut self, ask: Option<Instant>, kill: Option<Instant>) {
        self.phase = Phase::Ending { ask, kill };
        self.lose_waiting(&Error::new(Cause::Cancelled));
    }

    pub(crate) fn worker_pids(&self) -> Vec<u32> {
        self.workers.iter().filter(|worker| worker.is_staying()).map(Worker::pid).collect()
    }
}

/// What the pool's thread does.
impl State {
    /// If a worker is missing: the number that it gets, and what it runs first.
    pub(crate) fn vacancy(&mut self) -> Option<(u64, Option<Initializer>)> {
        if !self.lacks_workers() {
            return None;
        }
        self.next_id += 1;
        Some((self.next_id, self.policy.initializer.clone()))
    }

    fn lacks_workers(&self) -> bool {
        let staying = || self.workers.iter().filter(|worker| worker.is_staying());
        let wanted = match self.phase {
            Phase::Ending { .. } => 0,
            _ if self.broken.is_some() => 0,
            Phase::Open => self.policy.workers,
            Phase::Closed => {
                let busy = staying().filter(|worker| worker.is_busy()).count();
                self.policy.workers.min(busy + self.waiting.len())
            }
        };
        staying().count() < wanted
    }

    pub(crate) fn add(&mut self, worker: Worker) {
        self.refused = None;
        self.workers.push(worker);
    }

    /// Does all that can be done now; says whether there is anything left to wait for.
    pub(crate) fn move_along(&mut self) -> bool {
        self.hand_out();
        self.end_workers();
        let may_end = match self.phase {
            Phase::Open => false,
            Phase::Closed => self.waiting.is_empty(), // as it always is in a broken pool
            Phase::Ending { .. } => true,
        };
        let is_over = may_end && self.workers.is_empty();
        if is_over {
            self.policy.initializer = None;
        }
        !is_over
    }

    /// Gives waiting chunks to workers that are free.
    fn hand_out(&mut self) {
        self.stalled = None;
        while !self.waiting.is_empty() {
            let Some(worker) = self.workers.iter_mut().find(|worker| worker.is_free()) else { return };
            let Some(mut chunk) = self.waiting.pop_front() else { return };
            let left = self.policy.max_tasks.map_or(u64::MAX, |most| most - worker.served());
            if let Some(rest) = chunk.split_off(u32::try_from(left).unwrap_or(u32::MAX)) {
                self.waiting.push_front(rest);
            }
            match worker.give(chunk) {
                Given::Taken => {}
                Given::Dying(chunk) => self.waiting.push_front(chunk), // another will take it
                Given::Unsendable(chunk, error) => chunk.lose(&error),
                Given::NotNow(chunk) => {
                    self.waiting.push_front(chunk);
                    self.stalled = Some(Instant::now() + STALL);
                    return;
                }
            }
        }
    }

    /// Lets go of workers that will not be needed, and presses those that should be gone.
    fn end_workers(&mut self) {
        let now = Instant::now();
        let is_over = |time: Option<Instant>| time.is_some_and(|time| now >= time);
        for worker in &mut self.workers {
            if is_over(worker.doom(self.policy.shutdown_timeout)) {
                worker.press(false, true);
            }
            match self.phase {
                Phase::Ending { ask, kill } => {
                    worker.dismiss();
                    worker.press(is_over(ask), is_over(kill));
                }
                _ if self.broken.is_some() => worker.dismiss(),
                Phase::Closed if self.waiting.is_empty() => worker.dismiss_if_free(),
                Phase::Open | Phase::Closed => {}
            }
        }
    }

    /// When [`State::move_along`] will have something to do that no event announces.
    pub(crate) fn next_step(&self) -> Option<Instant> {
        let (ask, kill) = match self.phase {
            Phase::Ending { ask, kill } => (ask, kill),
            _ => (None, None),
        };
        let now = Instant::now();
        let dooms = self.workers.iter().filter_map(|worker| worker.doom(self.policy.shutdown_timeout));
        let times = [ask, kill].into_iter().flatten().filter(|&time| time > now);
        dooms.chain(times).chain(self.stalled).min()
    }

    /// Takes in what a worker has said, and its death, if it has died.
    pub(crate) fn take_in(&mut self, id: u64) {
        let Some(place) = self.workers.iter().position(|worker| worker.id() == id) else { return };
        let worker = &mut self.workers[place];
        let has_died = !worker.is_alive(); // looked at first: then all that the dead has said is there to be heard
        while let Some(event) = worker.hear() {
            match event {
                Event::Ready => self.stillborn = 0,
                Event::GaveBack(rest) => requeue(&mut self.waiting, rest),
                Event::Results => {}
            }
        }
        if self.policy.max_tasks.is_some_and(|most| worker.served() >= most) {
            worker.dismiss_if_free();
        }
        if has_died {
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
                rest.lose(&error);
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
        if self.broken.is_some() || matches!(self.phase, Phase::Ending { .. }) {
            let error = self.broken.clone().unwrap_or_else(|| Error::new(Cause::Cancelled));
            self.lose_waiting(&error); // what was given back, or what the dead had not begun
        }
    }

    /// The system refuses a new worker. If others live, the pool goes on with them; says when to try again.
    pub(crate) fn cannot_hire(&mut self, error: &Error) -> Instant {
        let now = Instant::now();
        let since = *self.refused.get_or_insert(now);
        if self.workers.is_empty() && now.duration_since(since) >= GIVE_UP {
            self.fail(error);
        }
        now + RETRY
    }

    fn fail(&mut self, error: &Error) {
        self.broken.get_or_insert_with(|| error.clone());
        self.lose_waiting(error);
    }

    fn lose_waiting(&mut self, error: &Error) {
        self.waiting.drain(..).for_each(|chunk| chunk.lose(error));
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
