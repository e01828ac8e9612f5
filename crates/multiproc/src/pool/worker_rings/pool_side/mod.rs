//! The pool's side of a worker's rings: submits items, takes results.

mod item_time;
mod segments;
mod submitted_items;

use std::os::fd::OwnedFd;

use crate::error::{Error, Result};
use crate::ipc::frame::{Frames, array_kind, as_u32};
use crate::ipc::packet::{Content, Message, OnShortage, PacketSocket, Sent};
use crate::ipc::ring::array::MAX_ARRAY;
use crate::ipc::ring::{Position, just_before_overflow};
use crate::pool::worker_rings::claim_word::{self, PoolCounts};
use crate::sys::atomic::{Acquire, Relaxed, Release};
use crate::sys::failpoint::{self, Failpoint};
use crate::sys::membarrier;
use crate::sys::output::FLUSH_TIMEOUT;
use crate::sys::poll::Deadline;

use self::segments::SentSegments;
use super::{
    CANCELLED, CLOSED, COMPLETED, COMPLETIONS, ITEMS_PER_CLOCK_READ, MessageHeader, OUT_OF_LINE,
    OUT_OF_LINE_COUNT, PREFIX, READY, RUN_TIME, ReceivedMessage, SUBMISSIONS, VALUE, VISIBLE, WorkerRings,
};
use crate::pool::worker_rings::result_words::{self, Scope};
use crate::sys::running_time::RunningTime;

#[derive(Debug)]
pub(crate) struct PoolSide {
    rings: WorkerRings,
    pub(super) link: PacketSocket,
    /// Apart from what each item touches.
    sent_segments: Box<SentSegments>,
    /// The end of the submitted items.
    tail: Position,
    /// Items before this byte need not be kept.
    freed: u32,
    /// The end of the results taken.
    head: Position,
    run_time: u64,
    /// What it has requested of the worker.
    requests: u32,
    /// The number of out-of-line messages sent, and received.
    sent_count: u32,
    received_count: u32,
    /// The end of invisible results of an idle worker, and when they were first seen.
    unflushed: Option<(Position, RunningTime)>,
    /// An array to which the worker may add results: its position, and how many of its results were taken.
    open: Option<(u32, u32)>,
    closed: bool,
    /// For the item that began at the first instant: nanoseconds that do not count.
    uncounted: (u64, u64),
}

/// Results in the order of the items, and their total time.
pub(crate) struct TakenResults {
    pub(crate) count: u32,
    pub(crate) results: Frames,
    /// Some of them may be out of line.
    pub(crate) may_be_out_of_line: bool,
    pub(crate) nanos: u64,
}

/// A result by itself.
#[derive(Debug)]
pub(crate) struct OneResult {
    pub(crate) kind: u32,
    pub(crate) content: Content,
    pub(crate) descriptors: Vec<OwnedFd>,
}

impl OneResult {
    pub(crate) fn of(kind: u32, bytes: Vec<u8>) -> Self {
        Self { kind, content: Content::Inline(bytes, 0), descriptors: Vec::new() }
    }
}

impl PoolSide {
    pub(crate) fn new(rings: WorkerRings, link: PacketSocket) -> Self {
        Self {
            rings,
            link,
            sent_segments: Box::default(),
            tail: Position::START,
            freed: Position::START.bytes,
            head: Position::START,
            run_time: 0,
            requests: just_before_overflow(16),
            sent_count: just_before_overflow(4),
            received_count: just_before_overflow(4),
            unflushed: None,
            open: None,
            closed: false,
            uncounted: (0, 0),
        }
    }

    /// The position of the next item.
    pub(crate) fn position(&self) -> u32 {
        self.tail.bytes
    }

    /// Writes as many frames as fit, of which `count` are items. Returns the remaining bytes.
    pub(crate) fn write<'a>(&mut self, frames: &'a [u8], count: u32) -> &'a [u8] {
        SUBMISSIONS.put_frames(&self.rings.0, &mut self.tail, self.freed, frames, count)
    }

    /// Writes as many of these values of `size` bytes as fit, in arrays. Returns the others.
    pub(crate) fn write_values<'a>(&mut self, mut values: &'a [u8], size: u32) -> &'a [u8] {
        let most = (MAX_ARRAY / size * size) as usize;
        while !values.is_empty() {
            let (array, rest) = values.split_at(values.len().min(most));
            let items = self.tail.frames.wrapping_add(as_u32(array.len()) / size);
            let kind = array_kind(size);
            if !SUBMISSIONS.put(&self.rings.0, &mut self.tail, self.freed, kind, &[array]) {
                break;
            }
            self.tail.frames = items;
            values = rest;
        }
        values
    }

    /// Writes a frame that is no item, such as [`TASK_HEADER`](super::TASK_HEADER), if a frame of `next` bytes fits
    /// after it; returns whether that is so. A worker without items has room for both.
    pub(crate) fn write_header(&mut self, kind: u32, bytes: &[u8], next: usize) -> bool {
        let items = self.tail.frames;
        let fits = SUBMISSIONS.put_before(&self.rings.0, &mut self.tail, self.freed, kind, bytes, next);
        self.tail.frames = items;
        fits
    }

    /// Sends the next item out of line; returns whether there was room. The frame in the ring holds the
    /// number of the message, not that of the item: another item gets that number after a revocation.
    pub(crate) fn send_out_of_line(&mut self, message: &mut Message) -> Result<Sent> {
        message.spill()?;
        let number = self.sent_count;
        self.sent_count = number.wrapping_add(1);
        let prefix = MessageHeader { number, kind: VALUE }.bytes();
        let sent = self.link.send_with_prefix(&prefix, message, Deadline::now())?;
        if sent == Sent::Done
            && !SUBMISSIONS.put(
                &self.rings.0,
                &mut self.tail,
                self.freed,
                OUT_OF_LINE,
                &[&number.to_ne_bytes()],
            )
        {
            return Ok(Sent::TimedOut); // only when the ring is nearly full; the worker discards the message
        }
        Ok(sent)
    }

    /// Receives the out-of-line result of item `number`. A message left for lack of descriptors can be received
    /// later.
    pub(crate) fn receive(&mut self, number: u32, on_shortage: OnShortage) -> Result<OneResult> {
        let received = ReceivedMessage::numbered(&self.link, number, on_shortage);
        let is_left = received.as_ref().is_err_and(Error::is_shortage_of_descriptors);
        if on_shortage == OnShortage::Lose || !is_left {
            self.received_count = self.received_count.wrapping_add(1);
        }
        let ReceivedMessage { header, packet, mut descriptors } = received?;
        let content = Content::to_keep(packet, PREFIX, &mut descriptors)?;
        Ok(OneResult { kind: header.kind, content, descriptors })
    }

    /// Submits the last `count` written items; returns whether the worker was asleep.
    ///
    /// # Errors
    /// When the worker has overwritten the claim word.
    pub(crate) fn submit(&self, count: u32) -> Result<bool> {
        failpoint::hit(Failpoint::ItemsWritten);
        let before = self.tail.frames.wrapping_sub(count);
        let known = PoolCounts { submitted: before, ..self.known() };
        if !claim_word::submit(self.rings.claim_word(), known, count) {
            return Err(overwritten());
        }
        failpoint::hit(Failpoint::ItemsSubmitted);
        Ok(self.rings.items_event().notify_all())
    }

    /// Revokes up to `most` items that the worker has not begun, the last ones first; returns how many.
    /// [`PoolSide::copy_items`] can read them until [`PoolSide::truncate`].
    ///
    /// # Errors
    /// When the worker has overwritten the claim word.
    pub(crate) fn revoke(&mut self, most: u32) -> Result<u32> {
        let known = self.known();
        let unclaimed = claim_word::revoke(self.rings.claim_word(), known, most).ok_or_else(overwritten)?;
        let known = PoolCounts { submitted: known.submitted.wrapping_sub(unclaimed), ..known };
        let of_run = if unclaimed < most { self.revoke_run(known, most - unclaimed) } else { Some(0) };
        failpoint::hit(Failpoint::ItemsRevoked);
        of_run.map(|count| unclaimed + count).ok_or_else(overwritten)
    }

    /// Revokes items that the worker has claimed and not begun, if there are any.
    fn revoke_run(&mut self, known: PoolCounts, most: u32) -> Option<u32> {
        let claimed = claim_word::checked_claimed(self.rings.claim_word(), known)?;
        if self.begun(claimed) == claimed {
            return Some(0);
        }
        self.request(1);
        let completed = || Position::load(self.rings.0.word64(COMPLETED)).frames;
        // If the kernel refuses the barrier, the worker keeps its run, which takes some microseconds for items
        // like those before it.
        let count = if membarrier::barrier() {
            claim_word::revoke_run(self.rings.claim_word(), known, most, completed)
        } else {
            Some(0)
        };
        self.request(1);
        count
    }

    /// The number of unclaimed items: some or all of those that the worker has not begun.
    ///
    /// # Errors
    /// As for [`revoke`](PoolSide::revoke).
    pub(crate) fn unclaimed(&self) -> Result<u32> {
        self.claimed().map(|claimed| self.tail.frames.wrapping_sub(claimed))
    }

    /// The number of items that the worker has not begun.
    ///
    /// # Errors
    /// As for [`revoke`](PoolSide::revoke).
    pub(crate) fn not_begun(&self) -> Result<u32> {
        self.claimed().map(|claimed| self.tail.frames.wrapping_sub(self.begun(claimed)))
    }

    /// The number of items that the worker may have begun.
    fn begun(&self, claimed: u32) -> u32 {
        let completed = Position::load(self.rings.0.word64(COMPLETED)).frames;
        claim_word::begun(claimed, self.head.frames, completed)
    }

    fn claimed(&self) -> Result<u32> {
        claim_word::checked_claimed(self.rings.claim_word(), self.known()).ok_or_else(overwritten)
    }

    fn known(&self) -> PoolCounts {
        PoolCounts { taken: self.head.frames, submitted: self.tail.frames }
    }

    /// Checks the worker's words against what the pool knows without them.
    ///
    /// # Errors
    /// When they are inconsistent.
    pub(crate) fn check(&self) -> Result<()> {
        // In this order, since an item is claimed before it is completed.
        let completed = Position::load(self.rings.0.word64(COMPLETED));
        let claimed = self.claimed()?;
        if completed.frames_since(self.head) > claimed.wrapping_sub(self.head.frames)
            || !COMPLETIONS.can_hold_values(self.start_of_results(), completed)
        {
            return Err(Error::decode("the number of completed items", "it is out of range"));
        }
        Ok(())
    }

    /// Stores the pool's words again, in case a task overwrote them, and wakes the worker unconditionally.
    pub(crate) fn notify_again(&self) {
        self.rings.taken().store(self.taken(), Release);
        self.rings.requests().store(self.requests, Relaxed);
        if self.closed {
            self.rings.0.word32(CLOSED).store(1, Release);
        }
        self.rings.items_event().wake_unconditionally();
        self.rings.room_event().wake_unconditionally();
    }

    pub(crate) fn written(&self) -> u32 {
        self.tail.frames
    }

    pub(crate) fn results_taken(&self) -> u32 {
        self.head.frames
    }

    /// Drops revoked items and their headers: the next item is written at `position`. (The worker reads a
    /// header only with an item after it, so it has not read these.)
    pub(crate) fn truncate(&mut self, position: u32, count: u32) {
        self.tail = Position { frames: self.tail.frames.wrapping_sub(count), bytes: position };
    }

    /// Frees the items before this position.
    pub(crate) fn release(&mut self, position: u32) {
        self.freed = position;
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.rings.0.word32(READY).load(Acquire) != 0
    }

    /// Whether there may be completed results that become visible only with later ones.
    pub(crate) fn may_have_unflushed(&self) -> bool {
        self.rings.0.word32(ITEMS_PER_CLOCK_READ).load(Relaxed) > 1
    }

    /// Makes the worker read the clock after the running item.
    pub(crate) fn request_flush(&mut self) {
        self.request(2);
    }

    /// Whether the running item should end.
    pub(crate) fn set_cancelled(&self, is_cancelled: bool) {
        self.rings.0.word32(CANCELLED).store(is_cancelled.into(), Relaxed);
    }

    fn request(&mut self, change: u32) {
        self.requests = self.requests.wrapping_add(change);
        self.rings.requests().store(self.requests, Relaxed);
    }

    /// Whether there are completed results that were not taken.
    pub(crate) fn has_completed(&self) -> bool {
        Position::load(self.rings.0.word64(COMPLETED)).frames_since(self.head) > 0
    }

    /// Takes the results of a scope.
    ///
    /// # Errors
    /// When the worker has written inconsistent words, from which there is no recovery.
    pub(crate) fn take_results(&mut self, scope: Scope) -> Result<Option<TakenResults>> {
        let memory = &self.rings.0;
        let tail = result_words::end_of_scope(scope, memory.word64(COMPLETED), memory.word64(VISIBLE));
        let is_idle = || result_words::is_idle_at(self.rings.claim_word(), tail);
        if scope == Scope::Unflushed && is_idle() && !is_overdue(&mut self.unflushed, tail) {
            return Ok(None);
        }
        let count = tail.frames_since(self.head);
        if count == 0 || count > u32::MAX / 2 {
            return Ok(None); // the second: *visible* is behind what was taken as completed
        }
        if !COMPLETIONS.can_hold_values(self.start_of_results(), tail) {
            return Err(Error::decode("the end of the results", "it is out of range"));
        }
        let results = if scope == Scope::Visible && self.open.is_none() {
            COMPLETIONS.copy_frames(memory, self.head, tail) // no array is open at a visible end
        } else {
            let (start, skipped) = self.open.unwrap_or((self.head.bytes, 0));
            let copied = COMPLETIONS.copy_values(memory, start, skipped, count, tail.bytes);
            self.open = copied.open;
            copied.frames
        };
        self.head = tail;
        failpoint::hit(Failpoint::ResultsCopied);
        self.rings.taken().store(self.taken(), Release);
        self.rings.room_event().notify_all();
        let run_time = memory.word64(RUN_TIME).load(Relaxed);
        let nanos = run_time.saturating_sub(std::mem::replace(&mut self.run_time, run_time));
        let may_be_out_of_line = memory.word32(OUT_OF_LINE_COUNT).load(Relaxed) != self.received_count;
        Ok(Some(TakenResults { count, results, may_be_out_of_line, nanos }))
    }

    /// The end of the results that the worker may overwrite, in bytes.
    fn taken(&self) -> u32 {
        self.start_of_results().bytes
    }

    /// The end of the results taken, or the start of the array that they end in. Measured from their end,
    /// further values may take no bytes: the end of an array is rounded up.
    fn start_of_results(&self) -> Position {
        self.open.map_or(self.head, |(bytes, taken)| Position {
            frames: self.head.frames.wrapping_sub(taken),
            bytes,
        })
    }

    /// Tells the worker to exit when it has no items left.
    pub(crate) fn close(&mut self) {
        self.closed = true;
        self.rings.0.word32(CLOSED).store(1, Release);
        self.rings.items_event().notify_all();
    }
}

/// Whether an idle worker has kept these results invisible for too long: it cannot flush the output of their
/// tasks.
fn is_overdue(unflushed: &mut Option<(Position, RunningTime)>, tail: Position) -> bool {
    let (seen, since) = *unflushed.get_or_insert_with(|| (tail, RunningTime::now()));
    if seen != tail {
        *unflushed = Some((tail, RunningTime::now()));
    }
    seen == tail && since.elapsed() >= FLUSH_TIMEOUT
}

/// Only a task that writes to memory that is not its own causes this.
#[cold]
fn overwritten() -> Error {
    Error::decode("the claim word", "it was overwritten")
}
