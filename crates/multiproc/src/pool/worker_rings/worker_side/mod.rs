//! The worker's side of its rings: claims items, writes results.

// See `ring`.
#![allow(clippy::inline_always)]

mod array;
mod messages;
mod publish;

use std::time::Duration;

use crate::error::{Error, Result};
use crate::ipc::event_count::EventCount;
use crate::ipc::packet::{MAX_INLINE, Message, PacketSocket, Sent};
use crate::ipc::ring::array::Array;
use crate::ipc::ring::{Memory, Position};
use crate::ipc::wire::{self, Segments, SharedFd};
use crate::pool::worker_rings::claim_word;
use crate::spawn::bootstrap::worker_origin;
use crate::sys::atomic::{Acquire, Relaxed, Release};
use crate::sys::clock;
use crate::sys::cpus::{YIELD_AFTER, should_spin, spin};
use crate::sys::failpoint::{self, Failpoint};
use crate::sys::fork_detect::OriginalProcess;
use crate::sys::output::Output;
use crate::sys::poll::Deadline;
use crate::trace::Items;

use self::publish::FlushSchedule;
use super::known_segments::KnownSegments;
use super::result_words;
use super::{
    CLOSED, COMPLETED, COMPLETIONS, ERROR, FAILED, ITEM_STARTED_AT, MessageHeader, OUT_OF_LINE,
    OUT_OF_LINE_COUNT, READY, RING, SUBMISSIONS, TASK_HEADER, VALUE, VISIBLE, WakeupPage, WorkerRings,
};

#[derive(Debug)]
pub(crate) struct WorkerSide {
    pub(super) rings: WorkerRings,
    pub(super) link: PacketSocket,
    wakeup_page: WakeupPage,
    /// The segments that items may name, `None` if it was lost; and those that the next items name.
    segments: Box<KnownSegments<Option<SharedFd>>>,
    named: Segments,
    /// The time to spin for items before sleeping.
    spin: Duration,
    /// Consecutive spins that found nothing.
    failed_spins: u32,
    original: OriginalProcess,
    /// The next item; in an array, the array, and the index of the item in it.
    cursor: Position,
    index: u32,
    /// An item is claimed and not read yet.
    claimed: bool,
    /// Whether it may claim several items at once: the kernel has the barrier with which the pool revokes them.
    claims_runs: bool,
    /// What the pool had requested when the clock was read last.
    seen_requests: u32,
    /// The end of the completed results; and with the result of the running item.
    completed: Position,
    written: Position,
    /// The array to which results are added, and the number of its first one.
    open: Option<(Array, u32)>,
    /// The end of the visible results.
    visible: Position,
    /// The end of the results that the pool has taken, in bytes.
    taken: u32,
    /// The inconsistency that ended the use of these rings.
    broken: Option<Error>,
    schedule: FlushSchedule,
    output: Output,
    /// The number of items whose output has been flushed.
    flushed: u32,
    pub(crate) trace: Items,
}

impl WorkerSide {
    pub(crate) fn new(
        rings: WorkerRings,
        link: PacketSocket,
        wakeup_page: WakeupPage,
        spin: Duration,
    ) -> Self {
        let seen_requests = rings.requests().load(Relaxed);
        Self {
            rings,
            link,
            wakeup_page,
            segments: Box::default(),
            named: Segments::NONE,
            spin,
            failed_spins: 0,
            original: OriginalProcess::current(),
            cursor: Position::START,
            index: 0,
            open: None,
            claimed: false,
            claims_runs: false,
            seen_requests,
            completed: Position::START,
            written: Position::START,
            visible: Position::START,
            taken: Position::START.bytes,
            broken: None,
            schedule: FlushSchedule::new(),
            output: Output::default(),
            flushed: Position::START.frames,
            trace: Items::new(),
        }
    }

    /// Lets it claim several items at once. Only in a process that has registered for the
    /// [barrier](crate::sys::membarrier).
    pub(crate) fn claim_runs(&mut self) {
        self.claims_runs = true;
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

    /// The number of the next item, or of the running one.
    pub(crate) fn item_number(&self) -> u32 {
        self.completed.frames
    }

    /// Loads the number of the running item, from any thread; `None` if none runs.
    pub(crate) fn running_item(&self) -> impl Fn() -> Option<u32> + use<> {
        let rings = self.rings.clone();
        move || {
            let completed = Position::load(rings.0.word64(COMPLETED));
            (!result_words::is_idle_at(rings.claim_word(), completed)).then_some(completed.frames)
        }
    }

    /// Claims the next item; returns its kind. [`read`](WorkerSide::read) it next, then
    /// [`complete`](WorkerSide::complete) it with a result.
    #[inline(always)]
    pub(crate) fn next(&mut self) -> Option<u32> {
        self.claim().then(|| self.kind())
    }

    /// The kind of the item at the cursor, which is claimed.
    #[inline(always)]
    fn kind(&mut self) -> u32 {
        match SUBMISSIONS.next_array(&self.rings.0, &mut self.cursor.bytes, &mut self.index) {
            Some(_) => VALUE,
            None => SUBMISSIONS.kind(&self.rings.0, self.cursor),
        }
    }

    /// Passes the bytes of the claimed item, or of a header in front of it, to `f`. They stay in the ring
    /// until its result has been taken.
    #[inline(always)]
    pub(crate) fn read<R>(&mut self, f: impl FnOnce(&[u8]) -> Result<R>) -> Result<R> {
        // One call of `f`, so that the compiler puts it in place: a call costs more than a small item.
        let memory = &self.rings.0;
        let (offset, length) = match SUBMISSIONS.array(memory, self.cursor.bytes) {
            Some(array) if self.index < array.count => {
                let offset = SUBMISSIONS.value_offset(array, self.index);
                self.index += 1;
                self.claimed = false;
                (offset, array.size as usize)
            }
            _ => {
                self.index = 0;
                let end = self.cursor.bytes.wrapping_add(RING);
                let Some(frame) = SUBMISSIONS.skip(memory, &mut self.cursor, end) else {
                    return Err(self.poison("an item", "the ring has no frame for it"));
                };
                self.claimed = frame.kind == TASK_HEADER;
                (frame.offset, frame.length)
            }
        };
        self.rings.0.read(offset, length, f)
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
        if result.len() > MAX_INLINE {
            return self.send_out_of_line(kind, &Message::spilled(result)?);
        }
        self.write_frame(kind, result)
    }

    /// As [`write`](Self::write), for a result with descriptors.
    #[cold]
    pub(crate) fn write_with_descriptors(&mut self, result: &[u8], descriptors: Vec<SharedFd>) -> Result<()> {
        self.exit_if_forked();
        self.send_out_of_line(VALUE, &Message::new(result.to_vec(), descriptors)?)
    }

    #[inline(always)]
    fn write_frame(&mut self, kind: u32, result: &[u8]) -> Result<()> {
        self.written = self.completed;
        failpoint::hit(Failpoint::ResultEncoded);
        while !COMPLETIONS.put(&self.rings.0, &mut self.written, self.taken, kind, &[result]) {
            self.wait_for_room()?;
        }
        Ok(())
    }

    #[inline(always)]
    fn claim(&mut self) -> bool {
        if !self.claimed && self.broken.is_none() && claim_word::try_claim(self.rings.claim_word(), 1) == 1 {
            self.claimed = true;
            failpoint::hit(Failpoint::ItemBegun);
        }
        self.claimed
    }

    /// Sends a result out of line; a frame in the ring refers to it.
    fn send_out_of_line(&mut self, kind: u32, message: &Message) -> Result<()> {
        let prefix = MessageHeader { number: self.completed.frames, kind }.bytes();
        failpoint::hit(Failpoint::ResultSpilled);
        if self.link.send_with_prefix(&prefix, message, Deadline::now())? == Sent::TimedOut {
            self.update_visible(self.time_unread()); // the pool receives messages only with their results
            self.wakeup_page.notify();
            self.link.send_with_prefix(&prefix, message, Deadline::Never)?;
        }
        failpoint::hit(Failpoint::ResultSent);
        self.write_frame(OUT_OF_LINE, &[])?;
        self.rings.0.word32(OUT_OF_LINE_COUNT).fetch_add(1, Relaxed);
        Ok(())
    }

    /// Completes the item whose result was written.
    #[inline(always)]
    pub(crate) fn complete(&mut self) {
        self.completed = self.written;
        result_words::complete(self.rings.0.word64(COMPLETED), self.completed);
        self.schedule.left -= 1;
        if self.schedule.left == 0 || self.has_request() {
            self.end_interval();
        } else if self.schedule.flushes_singly() {
            self.flush_between();
        }
    }

    /// Completes the item with an error.
    #[cold]
    pub(crate) fn fail(&mut self, error: Error) {
        self.exit_if_forked();
        let before = self.open.map_or(self.completed.frames, |(_, first)| first);
        self.index += u32::from(self.close_array());
        self.schedule.left -= self.completed.frames.wrapping_sub(before);
        claim_word::give_back(self.rings.claim_word(), self.completed.frames.wrapping_add(1));
        let error = error.or_with_origin(worker_origin);
        let mut bytes = Vec::new();
        let _ = wire::encode_internal(&error, &mut bytes, "an error"); // of strings and numbers: cannot fail
        // If there is no memory even for the error, an empty frame stands for it, which does not decode.
        if self.write(ERROR, &bytes).or_else(|_| self.write_frame(ERROR, &[])).is_ok() {
            let failed = self.rings.0.word64(FAILED);
            failed.store(failed.load(Relaxed).wrapping_add(1), Relaxed);
            self.complete();
        }
    }

    /// Starts the time of the claimed item, for the pool to see.
    pub(crate) fn start_item_timer(&self) {
        self.rings.0.word64(ITEM_STARTED_AT).store(clock::nanos().max(1), Relaxed);
    }

    /// Stops the time of the claimed item, before that is completed.
    pub(crate) fn stop_item_timer(&self) {
        self.exit_if_forked();
        self.rings.0.word64(ITEM_STARTED_AT).store(0, Relaxed);
    }

    #[inline]
    pub(crate) fn exit_if_forked(&self) {
        array::exit_in_copy(self.original);
    }

    /// Blocks until there is an item; returns false when the rings are closed.
    ///
    /// # Errors
    /// When the rings are poisoned.
    pub(crate) fn wait(&mut self) -> Result<bool> {
        self.read_clock();
        self.update_visible(Duration::ZERO);
        self.wakeup_page.notify();
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        // The pool may revoke an item at any time, also between the wake-up and here, so that none need be left.
        let has_item = loop {
            self.wait_until(WorkerRings::items_event, |side| side.has_item() || side.is_closed());
            if self.has_item() {
                break true;
            }
            if self.is_closed() {
                break false;
            }
        };
        if claim_word::claimed(self.rings.claim_word()) != self.completed.frames {
            return Err(self.poison("the claim word", "it was overwritten"));
        }
        self.end_wait();
        Ok(has_item)
    }

    /// Whether there is an item to claim, or the claim word is inconsistent.
    fn has_item(&self) -> bool {
        let claims = self.rings.claim_word();
        claim_word::unclaimed(claims) > 0 || claim_word::claimed(claims) != self.completed.frames
    }

    fn is_closed(&self) -> bool {
        self.rings.0.word32(CLOSED).load(Acquire) != 0
    }

    #[cold]
    fn wait_for_room(&mut self) -> Result<()> {
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        self.update_visible(self.time_unread());
        self.wakeup_page.notify();
        let before = self.taken;
        self.wait_until(WorkerRings::room_event, |side| side.rings.taken().load(Acquire) != before);
        self.taken = self.rings.taken().load(Acquire);
        if self.completed.bytes.wrapping_sub(self.taken) > RING {
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
        if should_spin(failed_spins) && spin(self.spin, 16, YIELD_AFTER, || is_done(self)) {
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
                self.store_words_again();
            }
        }
    }

    /// Stores the worker's words again, in case a task overwrote them: the pool has woken this worker without
    /// work.
    #[cold]
    fn store_words_again(&self) {
        self.rings.0.word32(READY).store(1, Release);
        self.completed.store_release(self.rings.0.word64(COMPLETED));
        self.visible.store_release(self.rings.0.word64(VISIBLE));
        self.wakeup_page.notify();
    }

    /// Whether the pool has requested something since the clock was read last.
    #[inline]
    fn has_request(&self) -> bool {
        self.rings.requests().load(Relaxed) != self.seen_requests
    }
}
