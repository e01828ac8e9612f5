//! The pool's end of a rings: hands items in, takes results out.

use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::ipc::frame::{Frames, add_frame};
use crate::ipc::packet::{Content, INLINE, Message, OnShortage, PacketSocket, Sent};
use crate::ipc::ring::{Position, just_before_overflow};
use crate::pool::worker_rings::claim_word::{self, Known};
use crate::sys::atomic::{Acquire, Relaxed, Release};
use crate::sys::clock;
use crate::sys::failpoint::{self, Failpoint};
use crate::sys::output::BOUND;
use crate::sys::poll::Deadline;

use super::progress::{self, Scope};
use super::{
    BUSY, CLOCK_INTERVAL, CLOSED, COMPLETED, COMPLETIONS, FLUSH_REQUESTED, MessageHeader, OUT_OF_LINE,
    OUT_OF_LINE_COUNT, PREFIX, READY, RUNNING, SUBMISSIONS, TASK_HEADER, VALUE, VISIBLE, WorkerRings,
};

/// The pool's end of a rings.
#[derive(Debug)]
pub(crate) struct PoolSide {
    rings: WorkerRings,
    pub(super) link: PacketSocket,
    /// Behind the last item.
    tail: Position,
    /// Up to which byte items need not be kept.
    freed: u32,
    /// Behind the last result that was taken.
    head: Position,
    busy: u64,
    /// How many messages were sent, and received.
    sent_count: u32,
    received_count: u32,
    /// Up to where results were seen that the worker holds back though it runs nothing, and since when.
    unflushed: Option<(Position, Instant)>,
    closed: bool,
    /// Of the item that runs since that instant, so many nanoseconds do not count.
    uncounted: (u64, u64),
}

/// Results, in the order of the items, and how long they took.
pub(crate) struct Completed {
    pub(crate) count: u32,
    pub(crate) results: Frames,
    /// Some of them may be notes.
    pub(crate) may_be_out_of_line: bool,
    pub(crate) nanos: u64,
}

impl PoolSide {
    pub(crate) fn new(rings: WorkerRings, link: PacketSocket) -> Self {
        Self {
            rings,
            link,
            tail: Position::START,
            freed: Position::START.bytes,
            head: Position::START,
            busy: 0,
            sent_count: just_before_overflow(4),
            received_count: just_before_overflow(4),
            unflushed: None,
            closed: false,
            uncounted: (0, 0),
        }
    }

    /// Where the next item will be.
    pub(crate) fn position(&self) -> u32 {
        self.tail.bytes
    }

    /// Writes frames of which `count` are items, as many as there is room for. Gives the bytes that are left.
    pub(crate) fn write<'a>(&mut self, frames: &'a [u8], count: u32) -> &'a [u8] {
        SUBMISSIONS.put_frames(&self.rings.0, &mut self.tail, self.freed, frames, count)
    }

    /// Writes what is no item, such as [`TASK_HEADER`]; says whether there was room.
    pub(crate) fn write_header(&mut self, kind: u32, bytes: &[u8]) -> bool {
        let items = self.tail.frames;
        let fits = SUBMISSIONS.put(&self.rings.0, &mut self.tail, self.freed, kind, &[bytes]);
        self.tail.frames = items;
        fits
    }

    /// Sends the item that comes next as a message; says whether there was room. A note with the message's number is
    /// written in its place: not the item's, which another one gets when this one is taken back.
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
            return Ok(Sent::TimedOut); // only where much else is in the ring; the message will be thrown away
        }
        Ok(sent)
    }

    /// Receives the message that is the result of the item of this number: what it is, and its bytes. One that is left
    /// where it is, for lack of descriptors, can be received later.
    pub(crate) fn receive(&mut self, number: u32, on_shortage: OnShortage) -> Result<(u32, Content)> {
        let received = MessageHeader::receive(&self.link, number, on_shortage);
        let is_left = received.as_ref().is_err_and(Error::is_shortage_of_descriptors);
        if on_shortage == OnShortage::Lose || !is_left {
            self.received_count = self.received_count.wrapping_add(1);
        }
        let (kind, packet, mut descriptors) = received?;
        Ok((kind, Content::to_keep(packet, PREFIX, &mut descriptors)?))
    }

    /// Hands in the last `count` items that were written; says whether the worker was asleep.
    ///
    /// # Errors
    /// When the worker has overwritten what was handed in before.
    pub(crate) fn submit(&self, count: u32) -> Result<bool> {
        failpoint::hit(Failpoint::ItemsWritten);
        let before = self.tail.frames.wrapping_sub(count);
        let known = Known { submitted: before, ..self.known() };
        if !claim_word::submit(self.rings.claim_word(), known, count) {
            return Err(overwritten());
        }
        failpoint::hit(Failpoint::ItemsSubmitted);
        Ok(self.rings.items_event().notify_all())
    }

    /// Takes back up to `most` items that the worker has not begun, the last first; gives how many. They remain to be
    /// [looked at](PoolSide::copy_items), until [`PoolSide::truncate`].
    ///
    /// # Errors
    /// When the worker has overwritten which items it has begun.
    pub(crate) fn revoke(&self, most: u32) -> Result<u32> {
        let taken = claim_word::revoke(self.rings.claim_word(), self.known(), most);
        failpoint::hit(Failpoint::ItemsRevoked);
        taken.ok_or_else(overwritten)
    }

    /// How many items the worker has not begun.
    ///
    /// # Errors
    /// As for [`take_back`](PoolSide::revoke).
    pub(crate) fn pending(&self) -> Result<u32> {
        self.claimed().map(|claimed| self.tail.frames.wrapping_sub(claimed))
    }

    fn claimed(&self) -> Result<u32> {
        claim_word::checked_claimed(self.rings.claim_word(), self.known()).ok_or_else(overwritten)
    }

    fn known(&self) -> Known {
        Known { finished: self.head.frames, submitted: self.tail.frames }
    }

    /// Checks what the worker has written against what is known without it.
    ///
    /// # Errors
    /// When it cannot be so.
    pub(crate) fn check(&self) -> Result<()> {
        // In this order: what is finished was begun before.
        let finished = Position::load(self.rings.0.word64(COMPLETED));
        let claimed = self.claimed()?;
        if finished.frames_since(self.head) > claimed.wrapping_sub(self.head.frames)
            || !COMPLETIONS.can_hold(self.head, finished)
        {
            return Err(Error::decode("how many items are finished", "it cannot be so many"));
        }
        Ok(())
    }

    /// Tells the worker once more what it may have missed since it has overwritten it, and wakes it surely.
    pub(crate) fn notify_again(&self) {
        self.rings.taken().store(self.head.bytes, Release);
        if self.closed {
            self.rings.0.word32(CLOSED).store(1, Release);
        }
        self.rings.items_event().wake_retrying();
        self.rings.room_event().wake_retrying();
    }

    /// How many items were written since the rings was new.
    pub(crate) fn written(&self) -> u32 {
        self.tail.frames
    }

    /// How many results were taken since the rings was new.
    pub(crate) fn results_taken(&self) -> u32 {
        self.head.frames
    }

    /// Adds the frames of `count` items to `frames`: those behind the `skipped` items that begin at a
    /// [position](PoolSide::position). Gives the position of the first of them, and of the notes in front of it.
    ///
    /// An item over which the worker has written is what it has written, or empty where that is no item.
    pub(crate) fn copy_items(&self, position: u32, skipped: u32, count: u32, frames: &mut Vec<u8>) -> u32 {
        let mut cursor = Position { frames: 0, bytes: position };
        let (mut start, mut passed) = (position, 0);
        while passed < skipped + count {
            let copy = |kind: u32, bytes: &[u8]| {
                if kind != TASK_HEADER && passed >= skipped {
                    add_frame(frames, VALUE, if bytes.len() > INLINE { &[] } else { bytes });
                }
                kind
            };
            match SUBMISSIONS.take_before(&self.rings.0, &mut cursor, self.tail.bytes, copy) {
                Some(TASK_HEADER) => continue,
                Some(_) => passed += 1,
                None => {
                    for _ in passed.max(skipped)..skipped + count {
                        add_frame(frames, VALUE, &[]);
                    }
                    break;
                }
            }
            if passed <= skipped {
                start = cursor.bytes;
            }
        }
        start
    }

    /// Items that were taken back are gone, and the notes in front of them: the next will be written at that position.
    /// (A note that is not followed by an item would not be read, and could be overwritten before it is.)
    pub(crate) fn truncate(&mut self, position: u32, count: u32) {
        self.tail = Position { frames: self.tail.frames.wrapping_sub(count), bytes: position };
    }

    /// Items before that position need not be kept any more.
    pub(crate) fn release(&mut self, position: u32) {
        self.freed = position;
    }

    /// Is the worker up?
    pub(crate) fn is_ready(&self) -> bool {
        self.rings.0.word32(READY).load(Acquire) != 0
    }

    /// May there be results that are finished, and will not be published before more items are?
    pub(crate) fn may_have_unflushed(&self) -> bool {
        self.rings.0.word32(CLOCK_INTERVAL).load(Relaxed) > 1
    }

    /// Makes the worker look at the clock after the item that it runs.
    pub(crate) fn request_flush(&self) {
        self.rings.0.word32(FLUSH_REQUESTED).store(1, Relaxed);
    }

    /// How long the item runs that was begun, if the worker counts its time, and has begun to.
    ///
    /// It is never that of an item whose result was taken: the worker takes it back before it shows an item finished.
    pub(crate) fn running_for(&self) -> Option<Duration> {
        let since = self.rings.0.word64(RUNNING).load(Relaxed);
        let uncounted = if self.uncounted.0 == since { self.uncounted.1 } else { 0 };
        (since != 0)
            .then(|| Duration::from_nanos(clock::nanos().saturating_sub(since).saturating_sub(uncounted)))
    }

    /// The time between these instants does not count for the item that runs.
    pub(crate) fn shift_clock(&mut self, from: u64, until: u64) {
        let since = self.rings.0.word64(RUNNING).load(Relaxed);
        let before = if self.uncounted.0 == since { self.uncounted.1 } else { 0 };
        self.uncounted = (since, before.saturating_add(until.saturating_sub(from.max(since))));
    }

    /// Are there results that are finished and were not taken?
    pub(crate) fn has_finished(&self) -> bool {
        Position::load(self.rings.0.word64(COMPLETED)).frames_since(self.head) > 0
    }

    /// Takes these results.
    ///
    /// # Errors
    /// When the worker has written what cannot be, over which no way leads back to sense.
    pub(crate) fn take_results(&mut self, scope: Scope) -> Result<Option<Completed>> {
        let memory = &self.rings.0;
        let tail = progress::reach(scope, memory.word64(COMPLETED), memory.word64(VISIBLE));
        let runs_none = || progress::runs_none(self.rings.claim_word(), tail);
        if scope == Scope::Unflushed && runs_none() && !is_overdue(&mut self.unflushed, tail) {
            return Ok(None);
        }
        let count = tail.frames_since(self.head);
        if count == 0 || count > u32::MAX / 2 {
            return Ok(None); // the second: published is behind what was taken as finished
        }
        if !COMPLETIONS.can_hold(self.head, tail) {
            return Err(Error::decode("how far the results reach", "it is further than the memory does"));
        }
        let results = COMPLETIONS.copy_frames(memory, self.head, tail);
        self.head = tail;
        failpoint::hit(Failpoint::ResultsCopied);
        self.rings.taken().store(tail.bytes, Release);
        self.rings.room_event().notify_all();
        let busy = memory.word64(BUSY).load(Relaxed);
        let nanos = busy.saturating_sub(std::mem::replace(&mut self.busy, busy));
        let may_be_out_of_line = memory.word32(OUT_OF_LINE_COUNT).load(Relaxed) != self.received_count;
        Ok(Some(Completed { count, results, may_be_out_of_line, nanos }))
    }

    /// Tells the worker to end when it has nothing left to do.
    pub(crate) fn close(&mut self) {
        self.closed = true;
        self.rings.0.word32(CLOSED).store(1, Release);
        self.rings.items_event().notify_all();
    }
}

/// Whether the results up to there have been held back for too long by a worker that runs nothing: it cannot
/// write out what their tasks have printed.
fn is_overdue(unflushed: &mut Option<(Position, Instant)>, tail: Position) -> bool {
    let (seen, since) = *unflushed.get_or_insert_with(|| (tail, Instant::now()));
    if seen != tail {
        *unflushed = Some((tail, Instant::now()));
    }
    seen == tail && since.elapsed() >= BOUND
}

/// What only a task can have done that has written over what is not its own.
#[cold]
fn overwritten() -> Error {
    Error::decode("which items a worker has begun", "it was overwritten")
}
