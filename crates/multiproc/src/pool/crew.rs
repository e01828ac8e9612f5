//! A worker as the pool sees it: its process, its mailbox, and the items that it has in hand.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::call::{Call, Parcel};
use super::chunk::{Body, Chunk};
use super::worker::{Initializer, Place, serve};
use crate::error::{Cause, Culprit, Error, Result};
use crate::frames::{Frames, add_frame};
use crate::link::{Content, Link, Message, Sent};
use crate::mailbox::{Lobby, Mailbox, POSTED, PoolEnd, TASK};
use crate::method::Manner;
use crate::start::Started;
use crate::sys::poll::Deadline;
use crate::task::TaskId;
use crate::wire;

/// How long a worker that has cut its lifeline may take to die of itself.
const LAST_GASP: Duration = Duration::from_secs(1);

pub(crate) struct Worker {
    started: Started,
    mailbox: PoolEnd,
    /// It has come up and run its initializer.
    ready: bool,
    /// What it has in hand, in its order.
    jobs: VecDeque<Job>,
    /// How many items that is.
    in_hand: u32,
    /// How many items it has run.
    served: u64,
    /// What the items that were written last are for.
    task: Option<TaskId>,
    /// There was no room in the mailbox, and no results have come since.
    full: bool,
    /// It was asleep when it was given something.
    woken: bool,
    /// Something about it is broken, which is why it was killed.
    broken: Option<Error>,
    /// Since when it has no lifeline.
    cut: Option<Instant>,
    /// Since when it is told to go, by closing the mailbox or by a signal.
    leaving: Option<Instant>,
    pressed: Pressed,
}

/// Consecutive items of one call in a worker's mailbox.
struct Job {
    call: Arc<Call>,
    /// The place of the first of them in the call's input.
    first: u64,
    count: u32,
    /// How many of them have a result.
    done: u32,
    /// Where they begin in the mailbox.
    start: u32,
    /// The one item, if it was too large for the mailbox or holds descriptors.
    message: Option<Message>,
}

/// What has been done to make it end.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
enum Pressed {
    No,
    Asked,
    Killed,
}

/// What became of a chunk that a worker was given.
pub(crate) enum Given {
    /// It has taken all or some of it.
    Taken,
    /// It has no room, or is dying.
    Nothing,
    /// The system has no room at the moment.
    NotNow,
    /// It cannot be sent at all.
    Unsendable(Error),
}

/// What a worker's death leaves to settle.
pub(crate) struct Death {
    pub(crate) error: Error,
    /// It had not even come up, and nobody had told it to go.
    pub(crate) stillborn: bool,
    pub(crate) initializer_failed: bool,
    /// Items that it had not begun.
    pub(crate) rest: Vec<Chunk>,
}

impl Worker {
    /// Starts a worker.
    pub(crate) fn start(
        lobby: &Lobby,
        spin: Duration,
        initializer: Option<Initializer>,
        manner: Manner,
    ) -> Result<Self> {
        let (ours, theirs) = Link::pair()?;
        let mailbox = Mailbox::create()?;
        let place = Place { mailbox: mailbox.clone(), link: theirs, lobby: lobby.clone(), spin };
        let started = manner.call("pool-worker".to_owned(), serve, &(place, initializer))?;
        let pool = lobby.clone();
        started.child.watch(Arc::new(move || {
            pool.thread().ring();
        }));
        Ok(Self {
            started,
            mailbox: PoolEnd::new(mailbox, ours),
            ready: false,
            jobs: VecDeque::new(),
            in_hand: 0,
            served: 0,
            task: None,
            full: false,
            woken: false,
            broken: None,
            cut: None,
            leaving: None,
            pressed: Pressed::No,
        })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.started.child.pid()
    }

    /// How many items it has run or has in hand.
    pub(crate) fn given(&self) -> u64 {
        self.served + u64::from(self.in_hand)
    }

    pub(crate) fn in_hand(&self) -> u32 {
        self.in_hand
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.started.child.has_ended()
    }

    /// Can it still be counted on for work?
    pub(crate) fn is_staying(&self) -> bool {
        self.leaving.is_none() && self.broken.is_none() && self.cut.is_none()
    }

    /// Can it be given a chunk, where no worker is to have more than `most` items in hand?
    pub(crate) fn has_room(&self, chunk: &Chunk, most: u32) -> bool {
        let most = if matches!(chunk.body, Body::Message(_)) { 1 } else { most };
        self.ready && self.is_staying() && !self.full && self.in_hand < most
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.ready && self.is_staying() && self.in_hand == 0
    }

    /// Gives it up to `most` items of a chunk, which then has so many less.
    pub(crate) fn give(&mut self, chunk: &mut Chunk, most: u32) -> Given {
        let start = self.mailbox.position();
        if self.task != Some(chunk.call.task) {
            let mut id = Vec::new();
            let _ = wire::encode(&chunk.call.task, &mut id, "a task"); // two numbers
            if !self.mailbox.write_note(TASK, &id) {
                self.full = true;
                return Given::Nothing;
            }
            self.task = Some(chunk.call.task);
        }
        let given = match &chunk.body {
            Body::Frames { .. } => self.give_frames(chunk, most, start),
            Body::Message(message) => {
                let posted = self.mailbox.post(message);
                self.give_message(posted, chunk, start)
            }
        };
        if !matches!(given, Given::Taken) {
            self.mailbox.rewind(start, 0);
            self.task = None;
        }
        given
    }

    fn give_message(&mut self, posted: Result<Sent>, chunk: &mut Chunk, start: u32) -> Given {
        match posted {
            Ok(Sent::Yes) => {
                self.hand_in(Job::new(chunk, 1, start));
                Given::Taken
            }
            Ok(Sent::NotYet) => Given::NotNow,
            Ok(Sent::Gone) => {
                self.give_up_on(Error::new(Cause::LinkLost));
                Given::Nothing
            }
            Err(error) => Given::Unsendable(error),
        }
    }

    fn give_frames(&mut self, chunk: &mut Chunk, most: u32, start: u32) -> Given {
        let (frames, count) = chunk.front(most);
        let before = self.mailbox.written();
        let left = self.mailbox.write(frames, count).len();
        let written = self.mailbox.written().wrapping_sub(before);
        self.full = left > 0;
        if written == 0 {
            return Given::Nothing;
        }
        let length = frames.len() - left;
        self.hand_in(Job::new(chunk, written, start));
        chunk.advance(written, length);
        Given::Taken
    }

    fn hand_in(&mut self, job: Job) {
        let count = job.count;
        self.in_hand += count;
        match self.jobs.back_mut() {
            Some(last) if last.goes_on_with(&job) => last.count += count,
            _ => self.jobs.push_back(job),
        }
        self.woken |= self.mailbox.hand_in(count);
    }

    /// Takes back up to `most` items that it has not begun; those that come first in their input are first.
    ///
    /// Not one that came as a message: its descriptors are on their way, and would keep a queue open there. It is given
    /// to a worker that has nothing else to do, so it is begun at once.
    pub(crate) fn take_back(&mut self, most: u32) -> Vec<Chunk> {
        let messages = self.jobs.iter().filter(|job| job.message.is_some() && job.done < job.count).count();
        let divisible = self.in_hand.saturating_sub(u32::try_from(messages).unwrap_or(u32::MAX));
        let count = self.mailbox.take_back(most.min(divisible));
        self.reclaim(count)
    }

    /// How many items it has not begun.
    pub(crate) fn unbegun(&self) -> u32 {
        if self.in_hand < 2 { 0 } else { self.mailbox.unbegun().min(self.in_hand) }
    }

    /// How long it will need for its last `count` items, by what such have cost.
    pub(crate) fn time_for(&self, count: u32) -> Duration {
        self.jobs.back().map_or(Duration::ZERO, |job| job.call.time_for(count))
    }

    pub(crate) fn has_work_of(&self, call: &Arc<Call>) -> bool {
        self.jobs.iter().any(|job| Arc::ptr_eq(&job.call, call))
    }

    /// Makes chunks of the last `count` items in the mailbox again.
    fn reclaim(&mut self, count: u32) -> Vec<Chunk> {
        let mut chunks = VecDeque::new();
        let mut left = count;
        let mut position = self.mailbox.position();
        while let Some(job) = self.jobs.back_mut().filter(|_| left > 0) {
            let some = left.min(job.count - job.done);
            let (chunk, start) = job.cut(some, &self.mailbox);
            chunks.push_front(chunk);
            position = start;
            left -= some;
            if job.count == job.done {
                self.jobs.pop_back();
            }
        }
        self.in_hand -= count;
        self.mailbox.rewind(position, count);
        self.task = None;
        chunks.into()
    }

    /// Takes in what it has said: that it is ready, and results. Says whether there was anything.
    pub(crate) fn take_in(&mut self) -> bool {
        let is_new = !self.ready && self.mailbox.is_ready();
        self.ready |= is_new;
        self.drop_descriptors();
        self.take_results(false) || is_new
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.ready
    }

    /// Whether it has been woken since this was asked last.
    pub(crate) fn was_woken(&mut self) -> bool {
        std::mem::take(&mut self.woken)
    }

    /// May it hold results back that are finished?
    pub(crate) fn may_hold_results(&self) -> bool {
        self.in_hand > 0 && self.mailbox.may_hold_results()
    }

    /// Takes results that it holds back, if there are any; and then makes it look at the clock.
    pub(crate) fn take_held(&mut self) -> bool {
        let held = self.may_hold_results() && self.take_results(true);
        if held {
            self.mailbox.hurry();
        }
        held
    }

    fn take_results(&mut self, all: bool) -> bool {
        let number = self.mailbox.results_taken();
        let finished = match self.mailbox.take_results(all) {
            Ok(Some(finished)) if finished.count <= self.in_hand => finished,
            Ok(None) => return false,
            Ok(Some(_)) => return self.is_mad(Error::decode("results", "there are more of them than items")),
            Err(error) => return self.is_mad(error),
        };
        let count = finished.count;
        if let (Some(job), false) = (self.jobs.front(), all) {
            job.call.learn_cost(count, finished.nanos);
        }
        if finished.may_be_posted || !self.are_of_one_call(count) {
            self.deliver_singly(finished.results, number);
        } else {
            self.deliver(finished.results, count);
        }
        self.full = false;
        self.mailbox.free(self.jobs.front().map_or(self.mailbox.position(), |job| job.start));
        true
    }

    /// It writes nonsense: a task has written over what is not its own.
    fn is_mad(&mut self, why: Error) -> bool {
        self.give_up_on(why);
        false
    }

    fn are_of_one_call(&self, count: u32) -> bool {
        let Some(first) = self.jobs.front() else { return true };
        let mut left = count;
        for job in &self.jobs {
            if left == 0 {
                break;
            }
            if !Arc::ptr_eq(&job.call, &first.call) {
                return false;
            }
            left = left.saturating_sub(job.count - job.done);
        }
        true
    }

    /// Delivers the results of the first `count` items in hand, which are of one call.
    fn deliver(&mut self, mut results: Frames, count: u32) {
        let Some(call) = self.jobs.front().map(|job| Arc::clone(&job.call)) else { return };
        let runs: Vec<_> = self.settle(count).into_iter().map(|(_, first, count)| (first, count)).collect();
        if runs.is_sorted() {
            return call.deliver(Parcel::Results { runs, results });
        }
        // Some were taken back from a worker, and came here after others that are behind them.
        for (first, count) in runs {
            let mut run = Vec::new();
            for _ in 0..count {
                if let Some((kind, frame)) = results.next() {
                    add_frame(&mut run, kind, frame);
                }
            }
            call.deliver(Parcel::Results { runs: vec![(first, count)], results: Frames::of(run) });
        }
    }

    /// Delivers results of several calls, or some that came as messages; the first is that of item `number` of the mailbox.
    fn deliver_singly(&mut self, mut results: Frames, mut number: u32) {
        while let Some((kind, frame)) = results.next() {
            let Some((call, place, _)) = self.settle(1).pop() else { return };
            let parcel = if kind == POSTED {
                match self.mailbox.receive(number) {
                    Ok((kind, content)) => Parcel::Result { place, kind, content },
                    Err(error) => {
                        self.give_up_on(error.clone());
                        let error = error.by(Culprit::Worker { pid: self.pid() });
                        Parcel::Lost { first: place, count: 1, error }
                    }
                }
            } else {
                Parcel::Result { place, kind, content: Content::Here(frame.to_vec(), 0) }
            };
            call.deliver(parcel);
            number = number.wrapping_add(1);
        }
    }

    /// The first `count` items in hand have a result now: gives their calls and places.
    fn settle(&mut self, count: u32) -> Vec<(Arc<Call>, u64, u32)> {
        let mut settled = Vec::with_capacity(1);
        let mut left = count.min(self.in_hand);
        self.in_hand -= left;
        self.served += u64::from(left);
        while let Some(job) = self.jobs.front_mut().filter(|_| left > 0) {
            let some = left.min(job.count - job.done);
            settled.push((Arc::clone(&job.call), job.first + u64::from(job.done), some));
            job.done += some;
            left -= some;
            if job.done == job.count {
                let message = self.jobs.pop_front().and_then(|job| job.message);
                message.into_iter().for_each(Message::recycle);
            }
        }
        settled
    }

    /// Lets go of descriptors that the worker has received by now, lest they keep a queue open.
    fn drop_descriptors(&mut self) {
        let Some(message) = self.jobs.front_mut().and_then(|job| job.message.as_mut()) else { return };
        if self.mailbox.unbegun() == 0 {
            message.drop_descriptors();
        }
    }

    /// Something about it is broken: it can do no good any more.
    fn give_up_on(&mut self, why: Error) {
        self.broken.get_or_insert(why);
        self.press(false, true);
    }

    /// When it must be killed, because it was told to go and has not died of itself.
    pub(crate) fn doom(&self, patience: Duration) -> Option<Instant> {
        if self.pressed == Pressed::Killed {
            return None;
        }
        let leaving = self.leaving.and_then(|since| since.checked_add(patience));
        self.cut.map(|since| since + LAST_GASP).into_iter().chain(leaving).min()
    }

    /// Ends one whose time is over.
    pub(crate) fn end(&mut self) {
        if self.cut.is_some() && self.leaving.is_none() {
            self.broken.get_or_insert_with(|| Error::new(Cause::LinkLost));
        }
        self.press(false, true);
    }

    /// Looks whether it has cut its lifeline, which mostly means that it is dying. But a task can have executed another
    /// program, or closed descriptors that are not its own.
    pub(crate) fn check_lifeline(&mut self) {
        if self.cut.is_none() && self.started.child.is_cut() {
            self.cut = Some(Instant::now());
        }
    }

    /// Tells it to go when it has done what it has in hand.
    pub(crate) fn dismiss(&mut self) {
        if self.in_hand == 0 {
            self.leave();
            self.mailbox.close();
        }
    }

    fn leave(&mut self) {
        self.leaving.get_or_insert_with(Instant::now);
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

    /// Settles the death of a worker.
    pub(crate) fn bury(mut self) -> Death {
        let (error, initializer_failed) = self.cause_of_death();
        let error = if self.ready { error } else { error.at_birth() };
        while self.take_results(true) {}
        let unbegun = self.mailbox.unbegun().min(self.in_hand);
        // What was begun and has no result has failed: mostly that is one item, or none.
        for (call, first, count) in self.settle(self.in_hand - unbegun) {
            call.deliver(Parcel::Lost { first, count, error: error.clone() });
        }
        let rest = self.reclaim(unbegun);
        Death { error, stillborn: !self.ready && self.leaving.is_none(), initializer_failed, rest }
    }

    /// Why it died, and whether that was its initializer's doing.
    fn cause_of_death(&mut self) -> (Error, bool) {
        let culprit = || Culprit::Worker { pid: self.pid() };
        if let Some(why) = &self.broken {
            return (why.clone().by(culprit()), false);
        }
        let ended = self.started.outcome(&culprit);
        match ended.and_then(|outcome| wire::decode::<Result<()>>(&outcome, Vec::new(), "a worker's end")) {
            Ok(Err(error)) => (error.or_by(culprit), !self.ready),
            Ok(Ok(())) => (self.started.child.obituary(culprit()), false),
            Err(error) => (error, false),
        }
    }

    pub(crate) fn lose_all(mut self, error: &Error) {
        for (call, first, count) in self.settle(self.in_hand) {
            call.deliver(Parcel::Lost { first, count, error: error.clone() });
        }
        self.started.child.kill();
    }
}

impl Job {
    /// For the first `count` items of a chunk; takes its message, if it is one.
    fn new(chunk: &mut Chunk, count: u32, start: u32) -> Self {
        let (call, first) = (Arc::clone(&chunk.call), chunk.first);
        let message = match &mut chunk.body {
            Body::Frames { .. } => None,
            body @ Body::Message(_) => {
                chunk.count = 0;
                match std::mem::replace(body, Body::Frames { bytes: Vec::new(), start: 0 }) {
                    Body::Message(message) => Some(message),
                    Body::Frames { .. } => None,
                }
            }
        };
        Self { call, first, count, done: 0, start, message }
    }

    /// Do these items continue this job? Not for ever, since its bytes in the mailbox are freed only when all is done.
    fn goes_on_with(&self, next: &Self) -> bool {
        let is_message = self.message.is_some() || next.message.is_some();
        let is_small = next.start.wrapping_sub(self.start) < 16 * 1024;
        let is_next = self.first + u64::from(self.count) == next.first;
        is_next && is_small && !is_message && Arc::ptr_eq(&self.call, &next.call)
    }

    /// Takes the last `count` items off; gives them, and where they began in the mailbox.
    fn cut(&mut self, count: u32, mailbox: &PoolEnd) -> (Chunk, u32) {
        let kept = self.count - count;
        let first = self.first + u64::from(kept);
        let mut frames = Vec::new();
        let start = match self.message {
            Some(_) => self.start,
            None => mailbox.copy_items(self.start, kept, count, &mut frames),
        };
        self.count = kept;
        let body = self.message.take().map_or(Body::Frames { bytes: frames, start: 0 }, Body::Message);
        (Chunk { call: Arc::clone(&self.call), first, count, body }, start)
    }
}
