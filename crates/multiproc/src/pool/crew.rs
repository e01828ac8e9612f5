//! A worker as the pool sees it: its process, its link, and the chunk that it has in hand.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};

use super::call::Parcel;
use super::chunk::Chunk;
use super::outbox::{Estate, Outbox};
use super::protocol::{Frames, Order, Word};
use super::worker::{Initializer, serve};
use crate::error::{Cause, Culprit, Error, Result};
use crate::link::{Incoming, Link, Sent};
use crate::method::Manner;
use crate::start::Started;
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
    /// Since when it is told to go, by closing the link or by a signal.
    leaving: Option<Instant>,
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

/// What became of a chunk that a worker was given.
pub(crate) enum Given {
    Taken,
    /// The system has no room at the moment.
    NotNow(Chunk),
    /// The worker is dying.
    Dying(Chunk),
    /// It cannot be sent at all.
    Unsendable(Chunk, Error),
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
    /// Starts a worker whose events at `epoll` have the number `id`.
    pub(crate) fn start(
        id: u64,
        epoll: &Epoll,
        initializer: Option<Initializer>,
        manner: Manner,
    ) -> Result<Self> {
        let (ours, theirs) = Link::pair()?;
        let outbox = Outbox::create()?;
        let args = (theirs, outbox.share(), initializer);
        let started = manner.call("pool-worker".to_owned(), serve, &args)?;
        let watch = |fd: BorrowedFd<'_>| epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, id));
        if let Err(errno) = watch(started.child.as_fd()).and_then(|()| watch(ours.as_fd())) {
            started.child.kill();
            return Err(Error::system("watch a worker", errno));
        }
        Ok(Self {
            id,
            started,
            link: Some(ours),
            outbox,
            ready: false,
            broken: None,
            job: None,
            serial: 0,
            served: 0,
            leaving: None,
            pressed: Pressed::No,
        })
    }

    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn pid(&self) -> u32 {
        self.started.child.pid()
    }

    pub(crate) fn served(&self) -> u64 {
        self.served
    }

    pub(crate) fn is_busy(&self) -> bool {
        self.job.is_some()
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.started.child.is_alive()
    }

    /// Can it still be counted on for work?
    pub(crate) fn is_staying(&self) -> bool {
        self.leaving.is_none() && self.broken.is_none()
    }

    pub(crate) fn is_free(&self) -> bool {
        self.ready && self.job.is_none() && self.is_staying()
    }

    /// Gives it a chunk.
    pub(crate) fn give(&mut self, chunk: Chunk) -> Given {
        let Some(link) = &self.link else { return Given::Dying(chunk) };
        let order = Order { serial: self.serial + 1, count: chunk.count, task: chunk.call.task };
        let mut prefix = Vec::new();
        let sent = wire::encode(&order, &mut prefix, "an order")
            .and_then(|()| link.send_with_prefix(&prefix, &chunk.message, Deadline::now()));
        match sent {
            Ok(Sent::Yes) => {
                self.serial += 1;
                self.job = Some(Job { chunk, done: 0 });
                Given::Taken
            }
            Ok(Sent::NotYet) => Given::NotNow(chunk),
            Ok(Sent::Gone) => {
                self.lose_link(Error::new(Cause::LinkLost));
                Given::Dying(chunk)
            }
            Err(error) => Given::Unsendable(chunk, error),
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

    /// When it must be killed, because it has lost its link, or was told to go, and has not died of itself.
    pub(crate) fn doom(&self, patience: Duration) -> Option<Instant> {
        if self.pressed == Pressed::Killed {
            return None;
        }
        let broken = self.broken.as_ref().map(|(since, _)| *since + LAST_GASP);
        let leaving = self.leaving.and_then(|since| since.checked_add(patience));
        broken.into_iter().chain(leaving).min()
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
            Word::Began { serial } => {
                if let Some(job) = self.job.as_mut().filter(|_| serial == self.serial) {
                    job.chunk.message.drop_descriptors();
                }
                Some(Event::Results)
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
            self.leave();
            self.link = None;
        }
    }

    fn leave(&mut self) {
        self.leaving.get_or_insert_with(Instant::now);
    }

    pub(crate) fn dismiss_if_free(&mut self) {
        if self.ready {
            self.dismiss();
        }
    }

    /// Asks it to end, or kills it, if that has not been done before.
    pub(crate) fn press(&mut self, ask: bool, kill: bool) {
        if ask {
            self.leave();
        }
        // A signal that the system refuses leaves nothing better to do than the next one.
        if kill && self.pressed < Pressed::Killed {
            self.pressed = Pressed::Killed;
            self.started.child.kill();
        } else if ask && self.pressed < Pressed::Asked {
            self.pressed = Pressed::Asked;
            let _ = self.started.child.terminate();
        }
    }

    pub(crate) fn dismiss_at_once(self) {
        self.started.child.kill();
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
            // A report that has got lost on the way leaves a gap; those items were begun, so they have failed.
            self.fail_until(first, &error);
            let count = u32::try_from(Frames(&results).count()).unwrap_or(0);
            self.settle(first, count, results, 0); // what it had finished and not reported
            self.fail_until(started, &error);
        }
        let rest = self.job.take().and_then(|Job { mut chunk, done }| match done {
            0 => Some(chunk),
            _ => chunk.split_off(done),
        });
        Death { error, stillborn: !self.ready && self.leaving.is_none(), initializer_failed, rest }
    }

    /// Why it died, and whether that was its initializer's doing.
    fn cause_of_death(&mut self) -> (Error, bool) {
        // A broken link is a cause of death only where it made us kill; one over which something has got lost always.
        let killed_by_us = self.pressed == Pressed::Killed && self.leaving.is_none();
        let broken = self.broken.take().map(|(_, why)| why).filter(|why| killed_by_us || !why.is_link_lost());
        let culprit = || Culprit::Worker { pid: self.pid() };
        if let Some(why) = broken {
            return (why.by(culprit()), false);
        }
        let ended = self.started.outcome(&culprit);
        match ended.and_then(|outcome| wire::decode::<Result<()>>(&outcome, Vec::new(), "a worker's end")) {
            Ok(Err(error)) => (error.or_by(culprit), !self.ready),
            Ok(Ok(())) => (self.started.child.obituary(culprit()), false),
            Err(error) => (error, false),
        }
    }

    /// Fails the items from the first without a result until before `until`.
    fn fail_until(&mut self, until: u32, error: &Error) {
        let Some(job) = &mut self.job else { return };
        let count = until.min(job.chunk.count).saturating_sub(job.done);
        if count > 0 {
            let first = job.chunk.first + u64::from(job.done);
            job.done += count;
            job.chunk.call.deliver(Parcel::Lost { first, count, error: error.clone() });
        }
    }

    pub(crate) fn lose_all(mut self, error: &Error) {
        if let Some(Job { chunk, done }) = self.job.take() {
            let (first, count) = (chunk.first + u64::from(done), chunk.count - done);
            chunk.call.deliver(Parcel::Lost { first, count, error: error.clone() });
        }
        self.started.child.kill();
    }
}
