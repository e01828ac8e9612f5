//! The worker's side of its rings: claims items, writes results.

// See `ring`.
#![allow(clippy::inline_always)]

use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use crate::codec::raw;
use crate::error::{Error, Origin, Result};
use crate::ipc::event_count::EventCount;
use crate::ipc::packet::{Content, INLINE, Message, OnShortage, PacketSocket, Sent};
use crate::ipc::ring::Position;
use crate::ipc::wire;
use crate::pool::worker_rings::claim_word;
use crate::sys::atomic::{Acquire, AtomicU32, Relaxed, Release};
use crate::sys::clock;
use crate::sys::cpus::should_spin;
use crate::sys::failpoint::{self, Failpoint};
use crate::sys::fork_detect::ForkDetector;
use crate::sys::output::Output;
use crate::sys::poll::Deadline;
use crate::sys::process::{exit_immediately, own_pid};

use super::progress;
use super::{
    BUSY, CLOCK_INTERVAL, CLOSED, COMPLETED, COMPLETIONS, ERROR, FLUSH_REQUESTED, MessageHeader, OUT_OF_LINE,
    OUT_OF_LINE_COUNT, PREFIX, READY, RING, RUNNING, SUBMISSIONS, TASK_HEADER, VALUE, VISIBLE, WakeupPage,
    WorkerRings, spin,
};

/// The worker's side.
#[derive(Debug)]
pub(crate) struct WorkerSide {
    pub(super) rings: WorkerRings,
    /// For out-of-line items and results.
    pub(super) link: PacketSocket,
    wakeup_page: WakeupPage,
    /// How long to spin for items before sleeping.
    spin: Duration,
    /// Consecutive spins that found nothing.
    failed_spins: u32,
    /// Detects a forked copy of the worker.
    fork_detector: ForkDetector,
    /// The next item.
    cursor: Position,
    /// An item is claimed and not read yet.
    claimed: bool,
    /// The end of the completed results; and with the result of the running item.
    finished: Position,
    written: Position,
    published: Position,
    taken: u32,
    /// The inconsistency that ended the use of these rings.
    broken: Option<Error>,
    clock: Clock,
    output: Output,
    /// The number of items whose output has been flushed.
    flushed: u32,
}

/// When to publish results. A clock read costs more than a small item, so there is one per interval: as many
/// items as take some microseconds together.
#[derive(Debug)]
struct Clock {
    interval: u32,
    left: u32,
    seen: Instant,
    published: Instant,
    busy: Duration,
    /// `busy` at the last flush of output.
    flushed: Duration,
}

/// How long an interval should take, at least and at most, and the most items of one.
const MIN_CLOCK_INTERVAL: Duration = Duration::from_micros(5);
const MAX_CLOCK_INTERVAL: Duration = Duration::from_micros(20);
const MAX_INTERVAL_LEN: u32 = 256;
/// The lengths of intervals in which output is flushed after each item. (The end of an interval of one item
/// flushes anyway.) Items of longer ones are so small (150 ns) that the flush would take over a twentieth of
/// their time, so it happens once per interval. An item with output is not that small: its system call alone
/// takes longer.
const FLUSHED_SINGLY: RangeInclusive<u32> = 2..=32;
/// How often results become visible while there are items.
const PUBLISH_AFTER: Duration = Duration::from_micros(500);

impl WorkerSide {
    pub(crate) fn new(
        rings: WorkerRings,
        link: PacketSocket,
        wakeup_page: WakeupPage,
        spin: Duration,
    ) -> Result<Self> {
        let now = Instant::now();
        let clock = Clock {
            interval: 1,
            left: 1,
            seen: now,
            published: now,
            busy: Duration::ZERO,
            flushed: Duration::ZERO,
        };
        Ok(Self {
            rings,
            link,
            wakeup_page,
            spin,
            failed_spins: 0,
            fork_detector: ForkDetector::new()?,
            cursor: Position::START,
            claimed: false,
            finished: Position::START,
            written: Position::START,
            published: Position::START,
            taken: Position::START.bytes,
            broken: None,
            clock,
            output: Output::default(),
            flushed: Position::START.frames,
        })
    }

    /// Signals that this worker is ready. The output of its initializer is flushed before, or, if that would
    /// block, before the first result.
    pub(crate) fn signal_ready(&mut self) {
        failpoint::hit(Failpoint::WorkerStarted);
        self.output.flush_if_writable();
        self.rings.0.word32(READY).store(1, Release);
        failpoint::hit(Failpoint::WorkerReady);
        self.wakeup_page.notify();
    }

    /// Claims the next item; returns its kind. [`read`](WorkerSide::read) it next, then
    /// [`finish`](WorkerSide::finish) it with a result.
    #[inline(always)]
    pub(crate) fn next(&mut self) -> Option<u32> {
        self.claim().then(|| SUBMISSIONS.kind(&self.rings.0, self.cursor))
    }

    /// Passes the bytes of the claimed item, or of a header in front of it, to `f`. They stay in the ring
    /// until its result has been taken.
    #[inline(always)]
    pub(crate) fn read<R>(&mut self, f: impl FnOnce(&[u8]) -> Result<R>) -> Result<R> {
        let claimed = &mut self.claimed;
        let taken = SUBMISSIONS.take(&self.rings.0, &mut self.cursor, |kind, bytes| {
            *claimed = kind == TASK_HEADER;
            f(bytes)
        });
        taken.unwrap_or_else(|| Err(self.poison("an item", "the ring has no frame for it")))
    }

    /// Ends the use of these rings: a task has overwritten memory that is not its own, so the position of the
    /// next item is unknown.
    #[cold]
    fn poison(&mut self, what: &str, why: &str) -> Error {
        let error = Error::decode(what, why);
        self.claimed = false;
        self.broken.get_or_insert(error).clone()
    }

    /// Writes the result of the running item, and replaces one written before. Blocks while the ring has no
    /// room.
    ///
    /// # Errors
    /// When a large result finds no memory, and when the rings are poisoned.
    #[inline(always)]
    pub(crate) fn write(&mut self, kind: u32, result: &[u8]) -> Result<()> {
        self.exit_if_forked();
        if result.len() > INLINE {
            return self.send_out_of_line(kind, result);
        }
        self.write_frame(kind, result)
    }

    #[inline(always)]
    fn write_frame(&mut self, kind: u32, result: &[u8]) -> Result<()> {
        self.written = self.finished;
        failpoint::hit(Failpoint::ResultEncoded);
        while !COMPLETIONS.put(&self.rings.0, &mut self.written, self.taken, kind, &[result]) {
            self.wait_for_room()?;
        }
        Ok(())
    }

    /// Runs items of `item` bytes with results of `result` bytes: as many as are contiguous, and fit before
    /// the next clock read; returns how many. It combines [`next`](WorkerSide::next),
    /// [`read`](WorkerSide::read), [`write`](WorkerSide::write) and [`finish`](WorkerSide::finish), with one
    /// check per batch where those check each time.
    #[inline(always)]
    pub(crate) fn run_fixed_size<T>(
        &mut self,
        (item, result): (usize, usize),
        mut run: impl FnMut(&[u8]) -> Result<T>,
    ) -> u32 {
        let room = COMPLETIONS.free_frames(self.finished, self.taken, result);
        let is_flushed_singly = FLUSHED_SINGLY.contains(&self.clock.interval);
        let at_once = if is_flushed_singly { 1 } else { self.clock.left };
        let most = at_once.min(room).min(SUBMISSIONS.frames_to_end(self.cursor, item));
        let mut count = 0;
        while count < most && self.flush_requested().load(Relaxed) == 0 && self.claim() {
            let Some(ran) = SUBMISSIONS.pop_if(&self.rings.0, &mut self.cursor, VALUE, item, &mut run) else {
                break;
            };
            self.claimed = false;
            self.exit_if_forked();
            match ran {
                Ok(value) => {
                    let bytes = raw::as_bytes(&value).unwrap_or_default();
                    failpoint::hit(Failpoint::ResultEncoded);
                    COMPLETIONS.push_unchecked(&self.rings.0, &mut self.finished, VALUE, bytes);
                    progress::finish(self.rings.0.word64(COMPLETED), self.finished);
                }
                Err(error) => {
                    self.fail(error);
                    return count + 1;
                }
            }
            count += 1;
        }
        self.clock.left -= count;
        if self.clock.left == 0 || (count > 0 && self.flush_requested().load(Relaxed) != 0) {
            self.end_interval();
        } else if is_flushed_singly && count > 0 {
            self.flush_between();
        }
        count
    }

    #[inline(always)]
    fn claim(&mut self) -> bool {
        if !self.claimed && self.broken.is_none() && claim_word::try_claim(self.rings.claim_word()) {
            self.claimed = true;
            failpoint::hit(Failpoint::ItemBegun);
        }
        self.claimed
    }

    /// Sends a large result out of line; a frame in the ring refers to it.
    fn send_out_of_line(&mut self, kind: u32, result: &[u8]) -> Result<()> {
        let prefix = MessageHeader { number: self.finished.frames, kind }.bytes();
        let message = Message::spilled(result)?;
        failpoint::hit(Failpoint::ResultSpilled);
        if self.link.send_with_prefix(&prefix, &message, Deadline::now())? == Sent::TimedOut {
            self.update_visible(); // the pool receives messages only with their results
            self.wakeup_page.notify();
            self.link.send_with_prefix(&prefix, &message, Deadline::Never)?;
        }
        failpoint::hit(Failpoint::ResultSent);
        self.write_frame(OUT_OF_LINE, &[])?;
        self.rings.0.word32(OUT_OF_LINE_COUNT).fetch_add(1, Relaxed);
        Ok(())
    }

    /// Completes the item whose result was written.
    #[inline(always)]
    pub(crate) fn finish(&mut self) {
        self.finished = self.written;
        progress::finish(self.rings.0.word64(COMPLETED), self.finished);
        self.clock.left -= 1;
        if self.clock.left == 0 || self.flush_requested().load(Relaxed) != 0 {
            self.end_interval();
        } else if FLUSHED_SINGLY.contains(&self.clock.interval) {
            self.flush_between();
        }
    }

    /// Completes the item with an error.
    #[cold]
    pub(crate) fn fail(&mut self, error: Error) {
        let error = error.or_with_origin(|| Origin::Worker { pid: own_pid() });
        let mut bytes = Vec::new();
        let _ = wire::encode_own(&error, &mut bytes, "an error"); // of strings and numbers: cannot fail
        // If there is no memory even for the error, an empty frame stands for it, which does not decode.
        if self.write(ERROR, &bytes).or_else(|_| self.write_frame(ERROR, &[])).is_ok() {
            self.finish();
        }
    }

    /// Receives the out-of-line item at the cursor: its bytes and its descriptors.
    pub(crate) fn receive(&mut self) -> Result<(Content, Vec<OwnedFd>)> {
        let number = self.read(|note| {
            let number = note.first_chunk().copied().map(u32::from_ne_bytes);
            number.ok_or_else(|| Error::decode("an item", "its message has no number"))
        })?;
        let (_, packet, mut descriptors) = MessageHeader::receive(&self.link, number, OnShortage::Lose)?;
        let content = Content::of(packet, PREFIX, &mut descriptors)?;
        if !descriptors.is_empty() {
            self.wakeup_page.notify(); // the pool must close them, so that they do not keep a queue open
        }
        Ok((content, descriptors))
    }

    /// Starts the time of the claimed item, for the pool to see.
    pub(crate) fn start_clock(&self) {
        self.rings.0.word64(RUNNING).store(clock::nanos().max(1), Relaxed);
    }

    /// Stops the time of the claimed item, before that is completed.
    pub(crate) fn stop_clock(&self) {
        self.exit_if_forked();
        self.rings.0.word64(RUNNING).store(0, Relaxed);
    }

    /// If a task has forked and both processes return here, only the worker continues.
    #[inline]
    pub(crate) fn exit_if_forked(&self) {
        if !self.fork_detector.in_original_process() {
            exit_immediately(0);
        }
    }

    /// Blocks until there is an item; returns false when the rings are closed.
    ///
    /// # Errors
    /// When the rings are poisoned.
    pub(crate) fn wait(&mut self) -> Result<bool> {
        self.read_clock();
        self.update_visible();
        self.wakeup_page.notify();
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        self.wait_until(WorkerRings::items_event, |side| side.has_item() || side.is_closed());
        if claim_word::claimed(self.rings.claim_word()) != self.finished.frames {
            return Err(self.poison("the claim word", "it was overwritten"));
        }
        self.clock.seen = Instant::now();
        Ok(self.has_item())
    }

    /// Whether there is an item to claim, or the claim word is inconsistent.
    fn has_item(&self) -> bool {
        let claims = self.rings.claim_word();
        claim_word::pending(claims) > 0 || claim_word::claimed(claims) != self.finished.frames
    }

    fn is_closed(&self) -> bool {
        self.rings.0.word32(CLOSED).load(Acquire) != 0
    }

    #[cold]
    fn wait_for_room(&mut self) -> Result<()> {
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        self.update_visible();
        self.wakeup_page.notify();
        let before = self.taken;
        self.wait_until(WorkerRings::room_event, |side| side.rings.taken().load(Acquire) != before);
        self.taken = self.rings.taken().load(Acquire);
        if self.finished.bytes.wrapping_sub(self.taken) > RING {
            return Err(self.poison("how far results were taken", "it is further than they reach"));
        }
        Ok(())
    }

    fn wait_until(
        &mut self,
        event: impl Fn(&WorkerRings) -> EventCount<'_>,
        mut is_done: impl FnMut(&Self) -> bool,
    ) {
        if is_done(self) {
            return;
        }
        let failed_spins = self.failed_spins;
        self.failed_spins = failed_spins.wrapping_add(1);
        if should_spin(failed_spins) && spin(self.spin, 16, || is_done(self)) {
            self.failed_spins = 0;
            return;
        }
        loop {
            let ticket = event(&self.rings).prepare_wait();
            if is_done(self) {
                return;
            }
            failpoint::hit(Failpoint::WorkerSleeps);
            event(&self.rings).wait(ticket, None);
            if !is_done(self) {
                self.repeat();
            }
        }
    }

    /// Repeats what the pool may have missed because it was overwritten: it has woken this worker without
    /// work.
    #[cold]
    fn repeat(&self) {
        self.rings.0.word32(READY).store(1, Release);
        self.finished.publish(self.rings.0.word64(COMPLETED));
        self.published.publish(self.rings.0.word64(VISIBLE));
        self.wakeup_page.notify();
    }

    #[inline]
    fn flush_requested(&self) -> &AtomicU32 {
        self.rings.0.word32(FLUSH_REQUESTED)
    }

    fn publish(&mut self) {
        if self.published != self.finished {
            self.update_visible();
            self.wakeup_page.notify_callers();
        }
    }

    /// Flushes the output of the running item. The flush counts as time of a timed item.
    pub(crate) fn flush_running(&mut self) {
        self.flush_up_to(self.finished.frames.wrapping_add(1));
    }

    /// Flushes the output of the items up to this one, unless done.
    #[inline(never)]
    fn flush_up_to(&mut self, frames: u32) {
        if self.flushed == frames {
            return;
        }
        self.rings.0.word32(CLOCK_INTERVAL).store(2, Relaxed); // if this blocks, the pool must know of invisible results
        let ran = self.clock.busy.saturating_sub(self.clock.flushed) + self.clock.seen.elapsed();
        self.clock.flushed = self.clock.busy;
        if self.output.flush(ran) {
            self.clock.seen = Instant::now(); // passing it to another thread is not the items' time
        }
        self.rings.0.word32(CLOCK_INTERVAL).store(self.clock.interval, Relaxed);
        self.flushed = frames;
    }

    /// Flushes the output of the completed item, so that it is not lost if the next one ends this process.
    #[inline(never)]
    fn flush_between(&mut self) {
        if self.flushed != self.finished.frames && self.output.flush_between() {
            self.flushed = self.finished.frames;
        }
    }

    /// Makes the results visible, after a flush of their tasks' output. If that takes too long, the pool
    /// [takes them](super::Scope::Unflushed) as they are.
    pub(super) fn update_visible(&mut self) {
        if self.published != self.finished {
            self.flush_up_to(self.finished.frames);
            self.published = self.finished;
            let nanos = u64::try_from(self.clock.busy.as_nanos()).unwrap_or(u64::MAX);
            self.rings.0.word64(BUSY).store(nanos, Relaxed);
            progress::publish(self.rings.0.word64(VISIBLE), self.published);
            self.clock.published = self.clock.seen;
        }
    }

    /// Reads the clock, publishes if due, and sets the next interval.
    #[cold]
    fn end_interval(&mut self) {
        let time = self.read_clock();
        let clock = &mut self.clock;
        let before = clock.interval;
        if time > MAX_CLOCK_INTERVAL {
            let too_long = u32::try_from(time.as_nanos() / MAX_CLOCK_INTERVAL.as_nanos()).unwrap_or(u32::MAX);
            clock.interval = (before / too_long).max(1);
        } else if time < MIN_CLOCK_INTERVAL && clock.left == 0 {
            clock.interval = (before * 2).min(MAX_INTERVAL_LEN);
        }
        clock.left = clock.interval;
        let is_time = clock.seen - clock.published >= PUBLISH_AFTER;
        self.rings.0.word32(CLOCK_INTERVAL).store(clock.interval, Relaxed);
        self.flush_requested().store(0, Relaxed);
        if before == 1 || self.clock.interval == 1 || is_time {
            self.publish(); // always before the interval grows: the pool then knows that results may be invisible
        } else {
            self.flush_between();
        }
    }

    fn read_clock(&mut self) -> Duration {
        let now = Instant::now();
        let time = now - self.clock.seen;
        self.clock.busy += time;
        self.clock.seen = now;
        time
    }
}
