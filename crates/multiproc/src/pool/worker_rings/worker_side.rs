//! The worker's end of a mailbox: begins items, leaves results.

// See `ring`.
#![allow(clippy::inline_always)]

use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use crate::codec::raw;
use crate::error::{Culprit, Error, Result};
use crate::ipc::event_count::Bell;
use crate::ipc::packet::{Content, INLINE, Link, Message, OnShortage, Sent};
use crate::ipc::ring::Mark;
use crate::ipc::wire;
use crate::pool::worker_rings::claim_word;
use crate::sys::atomic::{Acquire, AtomicU32, Relaxed, Release};
use crate::sys::clock;
use crate::sys::cpus::pays_to_look;
use crate::sys::failpoint::{self, Failpoint};
use crate::sys::fork_detect::Original;
use crate::sys::output::Output;
use crate::sys::poll::Deadline;
use crate::sys::process::{leave, own_pid};

use super::progress;
use super::{
    BUSY, CLOSED, ERROR, FINISHED, HURRY, Lobby, Mailbox, POSTED, POSTS, PREFIX, PUBLISHED, Posted, READY,
    RESULTS, RING, RUNNING, STRIDE, TASK, TASKS, VALUE, spin,
};

/// The worker's end of a mailbox.
#[derive(Debug)]
pub(crate) struct WorkerEnd {
    pub(super) mailbox: Mailbox,
    /// For what a ring cannot carry.
    pub(super) link: Link,
    lobby: Lobby,
    /// How long to look for items before sleeping.
    spin: Duration,
    /// How many times in a row that was in vain.
    vain: u32,
    /// Whether this process is the worker, and not a copy of it.
    original: Original,
    /// At the next item.
    cursor: Mark,
    /// An item was begun and not read yet.
    begun: bool,
    /// Behind the last result; and with the result of the item that runs.
    finished: Mark,
    written: Mark,
    published: Mark,
    taken: u32,
    /// What in the mailbox is nonsense. Then this end does no more.
    broken: Option<Error>,
    clock: Clock,
    output: Output,
    /// Up to how many items all has been flushed that they have printed.
    flushed: u32,
}

/// When to publish. To look at the time costs more than a small item does, so that is done once in so many items as
/// take some microseconds together.
#[derive(Debug)]
struct Clock {
    stride: u32,
    left: u32,
    seen: Instant,
    published: Instant,
    busy: Duration,
    /// How long it had been busy when output was flushed last.
    flushed: Duration,
}

/// How long a stride should take, at least and at most.
const STRIDE_LEAST: Duration = Duration::from_micros(5);
const STRIDE_MOST: Duration = Duration::from_micros(20);
const LONGEST_STRIDE: u32 = 256;
/// In which strides output is flushed after each item. (Where a stride is one item, its end does that.) Items
/// in longer ones are so small (150 ns) that it would take more than a twentieth of their time, so it is
/// flushed once in a stride. An item whose output is flushed is not that small: the system call alone takes
/// longer.
const FLUSHED_SINGLY: RangeInclusive<u32> = 2..=32;
/// How often results are published while there are items to run.
const PUBLISH: Duration = Duration::from_micros(500);

impl WorkerEnd {
    pub(crate) fn new(mailbox: Mailbox, link: Link, lobby: Lobby, spin: Duration) -> Result<Self> {
        let now = Instant::now();
        let clock = Clock {
            stride: 1,
            left: 1,
            seen: now,
            published: now,
            busy: Duration::ZERO,
            flushed: Duration::ZERO,
        };
        Ok(Self {
            mailbox,
            link,
            lobby,
            spin,
            vain: 0,
            original: Original::new()?,
            cursor: Mark::START,
            begun: false,
            finished: Mark::START,
            written: Mark::START,
            published: Mark::START,
            taken: Mark::START.bytes,
            broken: None,
            clock,
            output: Output::default(),
            flushed: Mark::START.frames,
        })
    }

    /// Says that this worker is ready for work. What its initializer has printed is out before, or, where
    /// that would have to wait, before the first result.
    pub(crate) fn be_ready(&mut self) {
        failpoint::hit(Failpoint::WorkerStarted);
        self.output.flush_if_writable();
        self.mailbox.0.word32(READY).store(1, Release);
        failpoint::hit(Failpoint::WorkerReady);
        self.lobby.call();
    }

    /// Begins the next item, if there is one; says what it is. It is then to be [read](WorkerEnd::read), and to be
    /// [finished](WorkerEnd::finish) with a result.
    #[inline(always)]
    pub(crate) fn next(&mut self) -> Option<u32> {
        self.begin().then(|| TASKS.kind(&self.mailbox.0, self.cursor))
    }

    /// Shows the item's bytes, or those of a note in front of it. They stay where they are until its result has been
    /// taken.
    #[inline(always)]
    pub(crate) fn read<R>(&mut self, look: impl FnOnce(&[u8]) -> Result<R>) -> Result<R> {
        let begun = &mut self.begun;
        let taken = TASKS.take(&self.mailbox.0, &mut self.cursor, |kind, bytes| {
            *begun = kind == TASK;
            look(bytes)
        });
        taken.unwrap_or_else(|| Err(self.break_off("an item", "there is none where it should be")))
    }

    /// What only a task can have done that has written over what is not its own. Where the next item is, nobody knows.
    #[cold]
    fn break_off(&mut self, what: &str, why: &str) -> Error {
        let error = Error::decode(what, why);
        self.begun = false;
        self.broken.get_or_insert(error).clone()
    }

    /// Writes the result of the item that runs; another call writes it anew. Waits while the pool has no room.
    ///
    /// # Errors
    /// When it is large, and there is no memory for it; and when this end is broken.
    #[inline(always)]
    pub(crate) fn write(&mut self, kind: u32, result: &[u8]) -> Result<()> {
        self.stay_only_one();
        if result.len() > INLINE {
            return self.post(kind, result);
        }
        self.write_frame(kind, result)
    }

    #[inline(always)]
    fn write_frame(&mut self, kind: u32, result: &[u8]) -> Result<()> {
        self.written = self.finished;
        failpoint::hit(Failpoint::ResultEncoded);
        while !RESULTS.put(&self.mailbox.0, &mut self.written, self.taken, kind, &[result]) {
            self.wait_for_room()?;
        }
        Ok(())
    }

    /// Begins and ends items of `item` bytes each whose results have `result` bytes, as many as lie in one piece before it
    /// is time to look at the clock, and says how many that were. What [`next`](WorkerEnd::next), [`read`](WorkerEnd::read),
    /// [`write`](WorkerEnd::write) and [`finish`](WorkerEnd::finish) do together, without asking each time what can be
    /// asked once.
    #[inline(always)]
    pub(crate) fn run_alike<T>(
        &mut self,
        (item, result): (usize, usize),
        mut run: impl FnMut(&[u8]) -> Result<T>,
    ) -> u32 {
        let room = RESULTS.room(self.finished, self.taken, result);
        let is_flushed_singly = FLUSHED_SINGLY.contains(&self.clock.stride);
        let at_once = if is_flushed_singly { 1 } else { self.clock.left };
        let most = at_once.min(room).min(TASKS.fit(self.cursor, item));
        let mut count = 0;
        while count < most && self.hurry().load(Relaxed) == 0 && self.begin() {
            let Some(ran) = TASKS.take_like(&self.mailbox.0, &mut self.cursor, VALUE, item, &mut run) else {
                break;
            };
            self.begun = false;
            self.stay_only_one();
            match ran {
                Ok(value) => {
                    let bytes = raw::view(&value).unwrap_or_default();
                    failpoint::hit(Failpoint::ResultEncoded);
                    RESULTS.put_here(&self.mailbox.0, &mut self.finished, VALUE, bytes);
                    progress::finish(self.mailbox.0.word64(FINISHED), self.finished);
                }
                Err(error) => {
                    self.fail(error);
                    return count + 1;
                }
            }
            count += 1;
        }
        self.clock.left -= count;
        if self.clock.left == 0 || (count > 0 && self.hurry().load(Relaxed) != 0) {
            self.end_stride();
        } else if is_flushed_singly && count > 0 {
            self.flush_between();
        }
        count
    }

    #[inline(always)]
    fn begin(&mut self) -> bool {
        if !self.begun && self.broken.is_none() && claim_word::begin(self.mailbox.claims()) {
            self.begun = true;
            failpoint::hit(Failpoint::ItemBegun);
        }
        self.begun
    }

    /// Sends a large result as a message; in its place stands a note.
    fn post(&mut self, kind: u32, result: &[u8]) -> Result<()> {
        let prefix = Posted { number: self.finished.frames, kind }.bytes();
        let message = Message::parked(result)?;
        failpoint::hit(Failpoint::ResultSpilled);
        if self.link.send_with_prefix(&prefix, &message, Deadline::now())? == Sent::NotYet {
            self.show(); // the pool takes messages as it takes the results that they belong to
            self.lobby.call();
            self.link.send_with_prefix(&prefix, &message, Deadline::Never)?;
        }
        failpoint::hit(Failpoint::ResultSent);
        self.write_frame(POSTED, &[])?;
        self.mailbox.0.word32(POSTS).fetch_add(1, Relaxed);
        Ok(())
    }

    /// Ends the item whose result was written.
    #[inline(always)]
    pub(crate) fn finish(&mut self) {
        self.finished = self.written;
        progress::finish(self.mailbox.0.word64(FINISHED), self.finished);
        self.clock.left -= 1;
        if self.clock.left == 0 || self.hurry().load(Relaxed) != 0 {
            self.end_stride();
        } else if FLUSHED_SINGLY.contains(&self.clock.stride) {
            self.flush_between();
        }
    }

    /// Ends the item with an error.
    #[cold]
    pub(crate) fn fail(&mut self, error: Error) {
        let error = error.or_by(|| Culprit::Worker { pid: own_pid() });
        let mut bytes = Vec::new();
        let _ = wire::encode_own(&error, &mut bytes, "an error"); // of strings and numbers: nothing can refuse
        // If there is no memory even for the error: one that does not decode says as much.
        if self.write(ERROR, &bytes).or_else(|_| self.write_frame(ERROR, &[])).is_ok() {
            self.finish();
        }
    }

    /// Receives the message that belongs to the item at the cursor: its bytes and its descriptors.
    pub(crate) fn receive(&mut self) -> Result<(Content, Vec<OwnedFd>)> {
        let number = self.read(|note| {
            let number = note.first_chunk().copied().map(u32::from_ne_bytes);
            number.ok_or_else(|| Error::decode("an item", "its message has no number"))
        })?;
        let (_, packet, mut descriptors) = Posted::receive(&self.link, number, OnShortage::Lose)?;
        let content = Content::of(packet, PREFIX, &mut descriptors)?;
        if !descriptors.is_empty() {
            self.lobby.call(); // the pool must let go of them, lest it keep a queue open
        }
        Ok((content, descriptors))
    }

    /// From now on the time of the item that was begun is counted, for the pool to see.
    pub(crate) fn start_clock(&self) {
        self.mailbox.0.word64(RUNNING).store(clock::nanos().max(1), Relaxed);
    }

    /// The item that was begun is all but finished. What follows shows it to be finished, and this before.
    pub(crate) fn stop_clock(&self) {
        self.stay_only_one();
        self.mailbox.0.word64(RUNNING).store(0, Relaxed);
    }

    /// Where a task has forked and both return, only the worker itself goes on.
    #[inline]
    pub(crate) fn stay_only_one(&self) {
        if !self.original.is_here() {
            leave(0);
        }
    }

    /// Waits until there is an item; says whether there is, or that there will be none any more.
    ///
    /// # Errors
    /// When this end is broken.
    pub(crate) fn wait(&mut self) -> Result<bool> {
        self.look_at_clock();
        self.show();
        self.lobby.call();
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        self.wait_until(Mailbox::bell, |end| end.has_item() || end.is_closed());
        if claim_word::begun(self.mailbox.claims()) != self.finished.frames {
            return Err(self.break_off("which items were begun", "it was overwritten"));
        }
        self.clock.seen = Instant::now();
        Ok(self.has_item())
    }

    /// Whether there is something to begin, or what was begun is not what this end has begun.
    fn has_item(&self) -> bool {
        let claims = self.mailbox.claims();
        claim_word::left(claims) > 0 || claim_word::begun(claims) != self.finished.frames
    }

    fn is_closed(&self) -> bool {
        self.mailbox.0.word32(CLOSED).load(Acquire) != 0
    }

    #[cold]
    fn wait_for_room(&mut self) -> Result<()> {
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        self.show();
        self.lobby.call();
        let before = self.taken;
        self.wait_until(Mailbox::room, |end| end.mailbox.taken().load(Acquire) != before);
        self.taken = self.mailbox.taken().load(Acquire);
        if self.finished.bytes.wrapping_sub(self.taken) > RING {
            return Err(self.break_off("how far results were taken", "it is further than they reach"));
        }
        Ok(())
    }

    fn wait_until(&mut self, bell: impl Fn(&Mailbox) -> Bell<'_>, mut has_come: impl FnMut(&Self) -> bool) {
        if has_come(self) {
            return;
        }
        let vain = self.vain;
        self.vain = vain.wrapping_add(1);
        if pays_to_look(vain) && spin(self.spin, 16, || has_come(self)) {
            self.vain = 0;
            return;
        }
        loop {
            let armed = bell(&self.mailbox).arm();
            if has_come(self) {
                return;
            }
            failpoint::hit(Failpoint::WorkerSleeps);
            bell(&self.mailbox).wait(armed, None);
            if !has_come(self) {
                self.repeat();
            }
        }
    }

    /// Says once more what the pool may not know, since something was overwritten: it has woken this worker,
    /// and there is nothing to do.
    #[cold]
    fn repeat(&self) {
        self.mailbox.0.word32(READY).store(1, Release);
        self.finished.publish(self.mailbox.0.word64(FINISHED));
        self.published.publish(self.mailbox.0.word64(PUBLISHED));
        self.lobby.call();
    }

    #[inline]
    fn hurry(&self) -> &AtomicU32 {
        self.mailbox.0.word32(HURRY)
    }

    fn publish(&mut self) {
        if self.published != self.finished {
            self.show();
            self.lobby.announce();
        }
    }

    /// Flushes what the item that runs has printed. While its time is counted, that counts, too.
    pub(crate) fn flush_running(&mut self) {
        self.flush_up_to(self.finished.frames.wrapping_add(1));
    }

    /// Flushes what the items up to this one have printed, unless that is done.
    #[inline(never)]
    fn flush_up_to(&mut self, frames: u32) {
        if self.flushed == frames {
            return;
        }
        self.mailbox.0.word32(STRIDE).store(2, Relaxed); // should this block, the pool must know that results are held
        let ran = self.clock.busy.saturating_sub(self.clock.flushed) + self.clock.seen.elapsed();
        self.clock.flushed = self.clock.busy;
        if self.output.flush(ran) {
            self.clock.seen = Instant::now(); // handing it to another thread is not the items' time
        }
        self.mailbox.0.word32(STRIDE).store(self.clock.stride, Relaxed);
        self.flushed = frames;
    }

    /// Flushes what the item that is finished has printed, so that it is not lost should the next one end
    /// this process.
    #[inline(never)]
    fn flush_between(&mut self) {
        if self.flushed != self.finished.frames && self.output.flush_between() {
            self.flushed = self.finished.frames;
        }
    }

    /// Shows the results to the pool. What their tasks have printed is out before, line end or not. Should
    /// that take too long, the pool [takes them](super::Which::Held) as they are.
    pub(super) fn show(&mut self) {
        if self.published != self.finished {
            self.flush_up_to(self.finished.frames);
            self.published = self.finished;
            let nanos = u64::try_from(self.clock.busy.as_nanos()).unwrap_or(u64::MAX);
            self.mailbox.0.word64(BUSY).store(nanos, Relaxed);
            progress::publish(self.mailbox.0.word64(PUBLISHED), self.published);
            self.clock.published = self.clock.seen;
        }
    }

    /// Looks at the clock, publishes if it is time, and decides when to look again.
    #[cold]
    fn end_stride(&mut self) {
        let time = self.look_at_clock();
        let clock = &mut self.clock;
        let before = clock.stride;
        if time > STRIDE_MOST {
            let too_long = u32::try_from(time.as_nanos() / STRIDE_MOST.as_nanos()).unwrap_or(u32::MAX);
            clock.stride = (before / too_long).max(1);
        } else if time < STRIDE_LEAST && clock.left == 0 {
            clock.stride = (before * 2).min(LONGEST_STRIDE);
        }
        clock.left = clock.stride;
        let is_time = clock.seen - clock.published >= PUBLISH;
        self.mailbox.0.word32(STRIDE).store(clock.stride, Relaxed);
        self.hurry().store(0, Relaxed);
        if before == 1 || self.clock.stride == 1 || is_time {
            self.publish(); // always before a stride grows: from then on the pool knows that results may be held
        } else {
            self.flush_between();
        }
    }

    fn look_at_clock(&mut self) -> Duration {
        let now = Instant::now();
        let time = now - self.clock.seen;
        self.clock.busy += time;
        self.clock.seen = now;
        time
    }
}
