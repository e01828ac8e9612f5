//! A worker as the pool sees it: its process, its link, and the chunk that it has in hand.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::call::Parcel;
use super::chunk::Chunk;
use super::outbox::{Estate, Outbox};
use super::protocol::{Frames, Order, Word};
use super::worker::{Initializer, serve};
use crate::error::{Cause, Culprit, Error, Result};
use crate::link::{Incoming, Link, Sent};
use crate::start::{self, Started};
use crate::supervisor::Child;
use crate::sys::poll::Deadline;
use crate::wire;

/// How long a worker that has lost its link may take to die of itself.
const LAST_GASP: Duration = Duration::from_secs(1);

pub(crate) struct Worker {
    id: u64,
    started: Started,
    /// Closing it is how a worker is told to go.
    link: Option<Link>,
    outbox: Outbox,
    /// It has come up and run its initializer.
    ready: bool,
    /// Its link is broken, since when, and by what.
    broken: Option<(Instant, Error)>,
    job: Option<Job>,
    /// How many chunks it got.
    serial: u32,
    /// How many items it has run.
    served: u64,
    /// It was told to go, by closing the link or by a signal.
    leaving: bool,
    pressed: Pressed,
}

/// What has been done to make it end.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
enum Pressed {
    No,
    Asked,
    Killed,
}

/// A chunk in a worker's hands.
struct Job {
    chunk: Chunk,
    /// How many of its items have a result.
    done: u32,
}

/// What a worker has said.
pub(crate) enum Event {
    Ready,
    Results,
    /// It has finished with a chunk before the end of it; the rest it has not begun.
    GaveBack(Chunk),
}

/// What a worker's death leaves to settle.
pub(crate) struct Death {
    pub(crate) error: Error,
    /// It had not even come up, and nobody had told it to go.
    pub(crate) stillborn: bool,
    pub(crate) initializer_failed: bool,
    /// Items that it had not begun.
    pub(crate) rest: Option<Chunk>,
}

impl Worker {
    pub(crate) fn start(initializer: Option<&Initializer>, patience: Duration) -> Result<Self> {
        let (ours, theirs) = Link::pair()?;
        let outbox = Outbox::create()?;
        let args = (theirs, outbox.share(), initializer.cloned());
        let started = start::call("pool-worker".to_owned(), serve, &args, patience)?;
        Ok(Self {
            id: 0,
            started,
            link: Some(ours),
            outbox,
            ready: false,
            broken: None,
            job: None,
            serial: 0,
            served: 0,
            leaving: false,
            pressed: Pressed::No,
        })
    }

    pub(crate) fn with_id(self, id: u64) -> Self {
        Self { id, ..self }
    }

    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn pid(&self) -> u32 {
        self.started.child.pid()
    }

    pub(crate) fn child(&self) -> Arc<Child> {
        Arc::clone(&self.started.child)
    }

    pub(crate) fn link(&self) -> Option<&Link> {
        self.link.as_ref()
    }

    pub(crate) fn served(&self) -> u64 {
        self.served
    }

    /// Can it still be counted on for work?
    pub(crate) fn is_staying(&self) -> bool {
        !self.leaving && self.broken.is_none()
    }

    pub(crate) fn is_free(&self) -> bool {
        self.ready && self.job.is_none() && self.is_staying()
    }

    /// Gives it a chunk. It comes back when the worker is dying, or with an error when it cannot be sent at all.
    pub(crate) fn give(&mut self, chunk: Chunk) -> Result<Option<Chunk>, (Chunk, Error)> {
        let Some(link) = &self.link else { return Ok(Some(chunk)) };
        let order = Order { serial: self.serial + 1, count: chunk.count, task: chunk.call.task };
        let mut prefix = Vec::new();
        let sent = wire::encode(&order, &mut prefix, "an order")
            .and_then(|()| link.send_with_prefix(&prefix, &chunk.message, Deadline::now()));
        match sent {
            Ok(Sent::Yes) => {
                self.serial += 1;
                self.job = Some(Job { chunk, done: 0 });
                Ok(None)
            }
            Ok(Sent::Gone | Sent::NotYet) => {
                self.lose_link(Error::new(Cause::LinkLost));
                Ok(Some(chunk))
            }
            Err(error) => Err((chunk, error)),
        }
    }

    /// Takes in one thing that it has said, if there is one.
    pub(crate) fn hear(&mut self) -> Option<Event> {
        loop {
            match self.link.as_ref()?.receive(Deadline::now()) {
                Ok(Incoming::Message(bytes, _)) => {
                    if let Some(event) = self.understand(bytes) {
                        return Some(event);
                    }
                }
                Ok(Incoming::NotYet) => return None,
                Ok(Incoming::Gone) => self.lose_link(Error::new(Cause::LinkLost)),
                Err(error) => self.lose_link(error),
            }
        }
    }

    /// One whose link is broken can do no good any more. Mostly it is dying already, and the kernel has closed its
    /// descriptors first; but a task can have closed descriptors that are not its own.
    fn lose_link(&mut self, why: Error) {
        self.link = None;
        self.broken = Some((Instant::now(), why));
    }

    /// When it must be killed, because it has lost its link and has not died of itself.
    pub(crate) fn doom(&self) -> Option<Instant> {
        self.broken.as_ref().filter(|_| self.pressed < Pressed::Killed).map(|(since, _)| *since + LAST_GASP)
    }

    fn understand(&mut self, bytes: Vec<u8>) -> Option<Event> {
        let (word, results): (Word, &[u8]) =
            wire::decode_front(&bytes, Vec::new(), "a worker's report").ok()?;
        let start = bytes.len() - results.len();
        match word {
            Word::Ready => {
                self.ready = true;
                Some(Event::Ready)
            }
            Word::Report { serial, first, count, end, nanos } if serial == self.serial => {
                self.settle(first, count, bytes, start);
                if !end {
                    return Some(Event::Results);
                }
                let Job { mut chunk, done } = self.job.take()?;
                chunk.call.learn_cost(done, nanos);
                Some(chunk.split_off(done).map_or(Event::Results, Event::GaveBack))
            }
            Word::Report { .. } => None, // of a chunk that was settled already
        }
    }

    /// Delivers the results of the next `count` items, which begin with item `first`; not twice.
    fn settle(&mut self, first: u32, count: u32, bytes: Vec<u8>, start: usize) {
        let Some(job) = &mut self.job else { return };
        if first != job.done || count == 0 || count > job.chunk.count - job.done {
            return;
        }
        job.done += count;
        self.served += u64::from(count);
        let first = job.chunk.first + u64::from(first);
        job.chunk.call.deliver(Parcel::Results { first, count, bytes, start });
    }

    /// Tells it to go when it has done what it has in hand.
    pub(crate) fn dismiss(&mut self) {
        if self.job.is_none() {
            self.leaving = true;
            self.link = None;
        }
    }

    pub(crate) fn dismiss_if_free(&mut self) {
        if self.ready {
            self.dismiss();
        }
    }

    /// Asks it to end, or kills it, if that has not been done before.
    pub(crate) fn press(&mut self, ask: bool, kill: bool) {
        self.leaving |= ask;
        // A signal that the system refuses leaves nothing better to do than the next one.
        if kill && self.pressed < Pressed::Killed {
            self.pressed = Pressed::Killed;
            let _ = self.started.child.kill();
        } else if ask && self.pressed < Pressed::Asked {
            self.pressed = Pressed::Asked;
            let _ = self.started.child.terminate();
        }
    }

    pub(crate) fn dismiss_at_once(self) {
        let _ = self.started.child.kill();
        self.started.child.wait(Deadline::Never);
    }

    /// Settles the death of a worker: all that it has said must have been heard before.
    pub(crate) fn bury(mut self) -> Death {
        self.started.child.wait(Deadline::Never); // a moment, until the supervisor has learnt of it, too
        let (error, initializer_failed) = self.cause_of_death();
        let error = if self.ready { error } else { error.at_birth() };
        let Estate { serial, started, first, results } = self.outbox.estate();
        let begun = serial == self.serial;
        if begun {
            let count = u32::try_from(Frames(&results).count()).unwrap_or(0);
            self.settle(first, count, results, 0); // what it had finished and not reported
        }
        let rest = self.job.take().and_then(|Job { mut chunk, done }| {
            if !begun || started <= done {
                return if done == 0 { Some(chunk) } else { chunk.split_off(done) };
            }
            let first = chunk.first + u64::from(done);
            chunk.call.deliver(Parcel::Lost { first, count: 1, error: error.clone() });
            chunk.split_off(done + 1)
        });
        Death { error, stillborn: !self.ready && !self.leaving, initializer_failed, rest }
    }

    /// Why it died, and whether that was its initializer's doing.
    fn cause_of_death(&mut self) -> (Error, bool) {
        let broken = self.broken.take().filter(|_| self.pressed == Pressed::Killed && !self.leaving);
        let culprit = || Culprit::Worker { pid: self.pid() };
        let ended = self.started.outcome(&culprit);
        match ended.and_then(|outcome| wire::decode::<Result<()>>(&outcome, Vec::new(), "a worker's end")) {
            Ok(Err(error)) => (error.or_by(culprit), !self.ready),
            Ok(Ok(())) => (self.started.child.obituary(culprit(), true), false),
            Err(error) => (broken.map_or(error, |(_, why)| why.by(culprit())), false),
        }
    }

    pub(crate) fn lose_all(mut self, error: &Error) {
        if let Some(Job { chunk, done }) = self.job.take() {
            let (first, count) = (chunk.first + u64::from(done), chunk.count - done);
            chunk.call.deliver(Parcel::Lost { first, count, error: error.clone() });
        }
        let _ = self.started.child.kill();
    }
}
