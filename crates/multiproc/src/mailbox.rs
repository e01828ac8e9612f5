//! Between a pool and one of its workers: items go in, results come back, all of it in memory that both have.
//!
//! What makes a worker's death exact are three words. Each is changed by one store or one exchange, so it is true at
//! every instruction:
//!
//! - *claims* holds how many items the pool has handed in, and how many of those the worker has begun. The worker begins
//!   one by exchanging this word, and the pool takes items back by exchanging it, so that no item can be both. An item
//!   that was begun never runs again; one that was not can go to any other worker, as long as that is so.
//! - *finished* is how far the worker's results reach. It moves with each item, and nobody reads it while all goes well.
//! - *published* is the same, for the pool to look at. It moves once in a while, since the processors would have to hand
//!   its cache line to and fro at each look.
//!
//! When a worker has died, its results up to *finished* count, the one item begun and not finished has failed, and all
//! others are as good as new.

// See `ring`.
#![allow(clippy::inline_always)]

use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::bell::Bell;
use crate::error::{Cause, Culprit, Error, Result};
use crate::link::{INLINE, Incoming, Link, Message, Sent};
use crate::ring::{Copied, Mark, Ring, add_frame};
use crate::sys::atomic::{Acquire, AtomicU32, AtomicU64, Relaxed, Release, SeqCst, fence};
use crate::sys::original::Original;
use crate::sys::poll::Deadline;
use crate::sys::process::{leave, own_pid};
use crate::wire::{self, Pages};

/// The memory itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Mailbox(Pages);

/// What frames are: an item or a result;
pub(crate) const VALUE: u32 = 1;
/// an error in a result's place;
pub(crate) const ERROR: u32 = 2;
/// a note that the item or result, too large for a frame or with descriptors, is a message on the link;
pub(crate) const POSTED: u32 = 3;
/// what the items that follow are for, which is no item.
pub(crate) const TASK: u32 = 4;

const RING: u32 = 1024 * 1024;
const TASKS: Ring = Ring::new(4096, RING);
const RESULTS: Ring = Ring::new(4096 + RING as usize, RING);
const SIZE: NonZeroUsize = NonZeroUsize::new(4096 + 2 * RING as usize).unwrap();

/// Words, those that different sides write in different cache lines.
const CLAIMS: usize = 0;
const FINISHED: usize = 128;
const PUBLISHED: usize = 256;
/// How long the worker has been busy with all that is published, in nanoseconds.
const BUSY: usize = 264;
/// How many results were posted, at least.
const POSTS: usize = 280;
/// How many items the worker finishes before it looks at the clock again.
const STRIDE: usize = 272;
/// It has come up, and its initializer has run.
const READY: usize = 276;
/// Up to which byte the pool has taken the results.
const TAKEN: usize = 384;
const CLOSED: usize = 388;
/// The pool has found results that are finished and not published: the worker is to look at the clock.
const HURRY: usize = 392;
/// Rung when there are items, when there is room for results again, and when the mailbox is closed.
const BELL: usize = 396;

impl Mailbox {
    pub(crate) fn create() -> Result<Self> {
        Pages::create(SIZE).map(Self)
    }

    #[inline]
    fn claims(&self) -> &AtomicU64 {
        self.0.word64(CLAIMS)
    }

    fn bell(&self) -> Bell<'_> {
        Bell(self.0.word32(BELL))
    }

    fn taken(&self) -> &AtomicU32 {
        self.0.word32(TAKEN)
    }
}

/// What a pool shares with all of its workers: who is to be woken when results have come.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Lobby(Pages);

impl Lobby {
    pub(crate) fn create() -> Result<Self> {
        Pages::create(const { NonZeroUsize::new(4096).unwrap() }).map(Self)
    }

    /// Wakes who waits for results.
    pub(crate) fn announce(&self) {
        self.callers().ring();
    }

    /// Wakes who waits for results, for there is something to do for the pool; if nobody waits, the pool's thread.
    pub(crate) fn call(&self) {
        self.callers().ring();
        if self.attended().load(Relaxed) == 0 {
            self.thread().ring();
        }
    }

    /// For threads that wait for results of their own, and see to all others meanwhile.
    pub(crate) fn callers(&self) -> Bell<'_> {
        Bell(self.0.word32(0))
    }

    pub(crate) fn thread(&self) -> Bell<'_> {
        Bell(self.0.word32(4))
    }

    /// Is there any such thread? The last one that goes says so first and then looks a last time for results.
    pub(crate) fn set_attended(&self, is: bool) {
        self.attended().store(is.into(), SeqCst);
        fence(SeqCst);
    }

    fn attended(&self) -> &AtomicU32 {
        self.0.word32(8)
    }
}

/// What stands in front of a message: the number of the item that it belongs to, and what it is.
struct Posted {
    number: u32,
    kind: u32,
}

impl Posted {
    fn bytes(&self) -> [u8; 8] {
        (u64::from(self.number) << 32 | u64::from(self.kind)).to_le_bytes()
    }

    /// Receives the message of that number; throws away those before it, which nobody will ask for any more. Gives what
    /// it is, its bytes behind so many that are not its own, and its descriptors.
    fn receive(link: &Link, number: u32, deadline: Deadline) -> Result<(u32, Vec<u8>, usize, Vec<OwnedFd>)> {
        loop {
            let Incoming::Message(bytes, descriptors) = link.receive(deadline)? else {
                return Err(Error::new(Cause::LinkLost));
            };
            let prefix = bytes.first_chunk().copied().map_or(u64::MAX, u64::from_le_bytes);
            #[allow(clippy::cast_possible_truncation)] // taking halves is the purpose
            if (prefix >> 32) as u32 == number {
                return Ok((prefix as u32, bytes, size_of::<u64>(), descriptors));
            }
        }
    }
}

/// How many items were handed in, and how many of them begun; both overflow.
#[derive(Clone, Copy)]
struct Claims {
    begun: u32,
    handed: u32,
}

impl Claims {
    #[inline]
    fn of(word: u64) -> Self {
        #[allow(clippy::cast_possible_truncation)] // taking halves is the purpose
        Self { begun: (word >> 32) as u32, handed: word as u32 }
    }

    #[inline]
    fn word(self) -> u64 {
        u64::from(self.begun) << 32 | u64::from(self.handed)
    }

    #[inline]
    fn left(self) -> u32 {
        self.handed.wrapping_sub(self.begun)
    }

    /// Begins the next item, if there is one.
    #[inline]
    fn begin(word: &AtomicU64) -> bool {
        word.fetch_update(SeqCst, Acquire, |claims| {
            let claims = Self::of(claims);
            (claims.left() > 0).then(|| Self { begun: claims.begun.wrapping_add(1), ..claims }.word())
        })
        .is_ok()
    }

    /// Hands in so many items more, which have been written.
    #[inline]
    fn hand_in(word: &AtomicU64, count: u32) {
        let hand_in = |claims| {
            let claims = Self::of(claims);
            Some(Self { handed: claims.handed.wrapping_add(count), ..claims }.word())
        };
        let _ = word.fetch_update(Release, Relaxed, hand_in); // which always says Some
    }

    /// Takes back up to `most` of the items that are not begun, the last first; gives how many.
    fn take_back(word: &AtomicU64, most: u32) -> u32 {
        let mut count = 0;
        let _ = word.fetch_update(SeqCst, Relaxed, |claims| {
            let claims = Self::of(claims);
            count = claims.left().min(most);
            Some(Self { handed: claims.handed.wrapping_sub(count), ..claims }.word())
        });
        count
    }
}

/// The pool's end of a mailbox.
#[derive(Debug)]
pub(crate) struct PoolEnd {
    mailbox: Mailbox,
    link: Link,
    /// Behind the last item.
    tail: Mark,
    /// Up to which byte items need not be kept.
    freed: u32,
    /// Behind the last result that was taken.
    head: Mark,
    busy: u64,
    /// How many messages were received.
    posts: u32,
}

/// Results, in the order of the items, and how long they took.
pub(crate) struct Finished {
    pub(crate) count: u32,
    pub(crate) results: Copied,
    /// Some of them may be notes.
    pub(crate) may_be_posted: bool,
    pub(crate) nanos: u64,
}

impl PoolEnd {
    pub(crate) fn new(mailbox: Mailbox, link: Link) -> Self {
        Self { mailbox, link, tail: Mark::default(), freed: 0, head: Mark::default(), busy: 0, posts: 0 }
    }

    /// Where the next item will be.
    pub(crate) fn position(&self) -> u32 {
        self.tail.bytes
    }

    /// Writes frames of which `count` are items, as many as there is room for. Gives the bytes that are left.
    pub(crate) fn write<'a>(&mut self, frames: &'a [u8], count: u32) -> &'a [u8] {
        TASKS.put_frames(&self.mailbox.0, &mut self.tail, self.freed, frames, count)
    }

    /// Writes what is no item, such as [`TASK`]; says whether there was room.
    pub(crate) fn write_note(&mut self, kind: u32, bytes: &[u8]) -> bool {
        let items = self.tail.frames;
        let fits = TASKS.put(&self.mailbox.0, &mut self.tail, self.freed, kind, &[bytes]);
        self.tail.frames = items;
        fits
    }

    /// Sends the item that comes next as a message; says whether there was room. A note is written in its place.
    pub(crate) fn post(&mut self, message: &Message) -> Result<Sent> {
        let prefix = Posted { number: self.tail.frames, kind: VALUE }.bytes();
        let sent = self.link.send_with_prefix(&prefix, message, Deadline::now())?;
        if sent == Sent::Yes && !TASKS.put(&self.mailbox.0, &mut self.tail, self.freed, POSTED, &[]) {
            return Ok(Sent::NotYet); // only where much else is in the ring; the message will be thrown away
        }
        Ok(sent)
    }

    /// Receives the message that is the result of the item of this number: what it is, and its bytes from a
    /// place on.
    pub(crate) fn receive(&mut self, number: u32) -> Result<(u32, Vec<u8>, usize)> {
        self.posts += 1;
        Posted::receive(&self.link, number, Deadline::now())
            .map(|(kind, bytes, start, _)| (kind, bytes, start))
    }

    /// Hands in the last `count` items that were written.
    pub(crate) fn hand_in(&self, count: u32) {
        Claims::hand_in(self.mailbox.claims(), count);
        self.mailbox.bell().ring();
    }

    /// Takes back up to `most` items that the worker has not begun, the last first; gives how many. They remain to be
    /// [looked at](PoolEnd::items_from), until [`PoolEnd::rewind`].
    pub(crate) fn take_back(&self, most: u32) -> u32 {
        Claims::take_back(self.mailbox.claims(), most)
    }

    /// How many items the worker has not begun.
    pub(crate) fn unbegun(&self) -> u32 {
        Claims::of(self.mailbox.claims().load(Acquire)).left()
    }

    /// How many items were written since the mailbox was new.
    pub(crate) fn written(&self) -> u32 {
        self.tail.frames
    }

    /// How many results were taken since the mailbox was new.
    pub(crate) fn results_taken(&self) -> u32 {
        self.head.frames
    }

    /// Adds the frames of `count` items to `frames`: those behind the `skipped` items that begin at a
    /// [position](PoolEnd::position). Gives the position of the first of them, and of the notes in front of it.
    pub(crate) fn copy_items(&self, position: u32, skipped: u32, count: u32, frames: &mut Vec<u8>) -> u32 {
        let mut mark = Mark { frames: 0, bytes: position };
        let (mut start, mut passed) = (position, 0);
        while passed < skipped + count {
            let copy = |kind: u32, bytes: &[u8]| {
                if kind == VALUE && passed >= skipped {
                    add_frame(frames, VALUE, bytes);
                }
                kind
            };
            match TASKS.take(&self.mailbox.0, &mut mark, copy) {
                Some(TASK) => continue,
                Some(_) => passed += 1,
                None => break,
            }
            if passed <= skipped {
                start = mark.bytes;
            }
        }
        start
    }

    /// Items that were taken back are gone, and the notes in front of them: the next will be written at that position.
    /// (A note that is not followed by an item would not be read, and could be overwritten before it is.)
    pub(crate) fn rewind(&mut self, position: u32, count: u32) {
        self.tail = Mark { frames: self.tail.frames.wrapping_sub(count), bytes: position };
    }

    /// Items before that position need not be kept any more.
    pub(crate) fn free(&mut self, position: u32) {
        self.freed = position;
    }

    /// Is the worker up?
    pub(crate) fn is_ready(&self) -> bool {
        self.mailbox.0.word32(READY).load(Acquire) != 0
    }

    /// May there be results that are finished, and will not be published before more items are?
    pub(crate) fn may_hold_results(&self) -> bool {
        self.mailbox.0.word32(STRIDE).load(Relaxed) > 1
    }

    /// Makes the worker look at the clock after the item that it runs.
    pub(crate) fn hurry(&self) {
        self.mailbox.0.word32(HURRY).store(1, Relaxed);
    }

    /// Takes the results that are published; with `all`, also those that are only finished.
    pub(crate) fn take_results(&mut self, all: bool) -> Option<Finished> {
        let memory = &self.mailbox.0;
        let tail = Mark::seen(memory.word64(if all { FINISHED } else { PUBLISHED }));
        let count = tail.frames_since(self.head);
        if count == 0 || count > u32::MAX / 2 {
            return None; // the second: published is behind what was taken as finished
        }
        let results = RESULTS.copy_frames(memory, self.head, tail);
        self.head = tail;
        self.mailbox.taken().store(tail.bytes, Release);
        self.mailbox.bell().ring();
        let busy = memory.word64(BUSY).load(Relaxed);
        let nanos = busy.saturating_sub(std::mem::replace(&mut self.busy, busy));
        let may_be_posted = memory.word32(POSTS).load(Relaxed) != self.posts;
        Some(Finished { count, results, may_be_posted, nanos })
    }

    /// Tells the worker to end when it has nothing left to do.
    pub(crate) fn close(&self) {
        self.mailbox.0.word32(CLOSED).store(1, Release);
        self.mailbox.bell().ring();
    }
}

/// The worker's end of a mailbox.
#[derive(Debug)]
pub(crate) struct WorkerEnd {
    mailbox: Mailbox,
    /// For what a ring cannot carry.
    link: Link,
    lobby: Lobby,
    /// How long to look for items before sleeping.
    spin: Duration,
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
    clock: Clock,
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
}

/// How long a stride should take, at least and at most.
const STRIDE_LEAST: Duration = Duration::from_micros(5);
const STRIDE_MOST: Duration = Duration::from_micros(20);
const LONGEST_STRIDE: u32 = 256;
/// How often results are published while there are items to run.
const PUBLISH: Duration = Duration::from_micros(200);

impl WorkerEnd {
    pub(crate) fn new(mailbox: Mailbox, link: Link, lobby: Lobby, spin: Duration) -> Result<Self> {
        let now = Instant::now();
        let clock = Clock { stride: 1, left: 1, seen: now, published: now, busy: Duration::ZERO };
        Ok(Self {
            mailbox,
            link,
            lobby,
            spin,
            original: Original::new()?,
            cursor: Mark::default(),
            begun: false,
            finished: Mark::default(),
            written: Mark::default(),
            published: Mark::default(),
            taken: 0,
            clock,
        })
    }

    /// Says that this worker is ready for work.
    pub(crate) fn be_ready(&self) {
        self.mailbox.0.word32(READY).store(1, Release);
        self.lobby.call();
    }

    /// Begins the next item, if there is one; says what it is. It is then to be [read](WorkerEnd::read), and to be
    /// [finished](WorkerEnd::finish) with a result.
    #[inline(always)]
    pub(crate) fn next(&mut self) -> Option<u32> {
        if !self.begun {
            if !Claims::begin(self.mailbox.claims()) {
                return None;
            }
            self.begun = true;
        }
        Some(TASKS.kind(&self.mailbox.0, self.cursor))
    }

    /// Shows the item's bytes, or those of a note in front of it. They stay where they are until its result has been
    /// taken.
    #[inline(always)]
    pub(crate) fn read<R>(&mut self, look: impl FnOnce(&[u8]) -> Result<R>) -> Result<R> {
        let begun = &mut self.begun;
        TASKS
            .take(&self.mailbox.0, &mut self.cursor, |kind, bytes| {
                *begun = kind == TASK;
                look(bytes)
            })
            .unwrap_or_else(|| Err(Error::decode("an item", "there is none in the ring")))
    }

    /// Writes the result of the item that runs; another call writes it anew. Waits while the pool has no room.
    ///
    /// # Errors
    /// When it is large, and there is no memory for it.
    #[inline(always)]
    pub(crate) fn write(&mut self, kind: u32, result: &[u8]) -> Result<()> {
        self.stay_only_one();
        if result.len() > INLINE {
            return self.post(kind, result);
        }
        self.write_frame(kind, result);
        Ok(())
    }

    #[inline(always)]
    fn write_frame(&mut self, kind: u32, result: &[u8]) {
        self.written = self.finished;
        while !RESULTS.put(&self.mailbox.0, &mut self.written, self.taken, kind, &[result]) {
            self.wait_for_room();
        }
    }

    /// Sends a large result as a message; in its place stands a note.
    fn post(&mut self, kind: u32, result: &[u8]) -> Result<()> {
        let prefix = Posted { number: self.finished.frames, kind }.bytes();
        let message = Message::new(result.to_vec(), Vec::new())?;
        if self.link.send_with_prefix(&prefix, &message, Deadline::now())? == Sent::NotYet {
            self.show(); // the pool takes messages as it takes the results that they belong to
            self.lobby.call();
            self.link.send_with_prefix(&prefix, &message, Deadline::Never)?;
        }
        self.write_frame(POSTED, &[]);
        self.mailbox.0.word32(POSTS).fetch_add(1, Relaxed);
        Ok(())
    }

    /// Ends the item whose result was written.
    #[inline(always)]
    pub(crate) fn finish(&mut self) {
        self.finished = self.written;
        self.finished.publish(self.mailbox.0.word64(FINISHED));
        self.clock.left -= 1;
        if self.clock.left == 0 || self.hurry().load(Relaxed) != 0 {
            self.end_stride();
        }
    }

    /// Ends the item with an error.
    #[cold]
    pub(crate) fn fail(&mut self, error: Error) {
        let error = error.or_by(|| Culprit::Worker { pid: own_pid() });
        let mut bytes = Vec::new();
        let _ = wire::encode(&error, &mut bytes, "an error"); // of strings and numbers: nothing can refuse
        if self.write(ERROR, &bytes).is_err() {
            self.write_frame(ERROR, &[]); // no memory even for the error: one that does not decode says as much
        }
        self.finish();
    }

    /// Receives the message that belongs to the item at the cursor: its bytes from a place on, and its descriptors.
    pub(crate) fn receive(&mut self) -> Result<(Vec<u8>, usize, Vec<OwnedFd>)> {
        let number = self.finished.frames;
        self.read(|_| Ok(()))?;
        let (_, bytes, start, descriptors) = Posted::receive(&self.link, number, Deadline::Never)?;
        if !descriptors.is_empty() {
            self.lobby.call(); // the pool must let go of them, lest it keep a queue open
        }
        Ok((bytes, start, descriptors))
    }

    /// Where a task has forked and both return, only the worker itself goes on.
    #[inline]
    pub(crate) fn stay_only_one(&self) {
        if !self.original.is_here() {
            leave(0);
        }
    }

    /// Waits until there is an item; says that there will be none any more.
    pub(crate) fn wait(&mut self) -> bool {
        self.look_at_clock();
        flush();
        self.show();
        self.lobby.call();
        if !self.wait_until(|end| end.has_item() || end.is_closed()) {
            return false;
        }
        self.clock.seen = Instant::now();
        self.has_item()
    }

    fn has_item(&self) -> bool {
        Claims::of(self.mailbox.claims().load(Acquire)).left() > 0
    }

    fn is_closed(&self) -> bool {
        self.mailbox.0.word32(CLOSED).load(Acquire) != 0
    }

    #[cold]
    fn wait_for_room(&mut self) {
        self.show();
        self.lobby.call();
        let before = self.taken;
        self.wait_until(|end| end.mailbox.taken().load(Acquire) != before);
        self.taken = self.mailbox.taken().load(Acquire);
    }

    fn wait_until(&self, mut has_come: impl FnMut(&Self) -> bool) -> bool {
        if spin(self.spin, || has_come(self)) {
            return true;
        }
        loop {
            let armed = self.mailbox.bell().arm();
            if has_come(self) {
                return true;
            }
            self.mailbox.bell().wait(armed, None);
        }
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

    fn show(&mut self) {
        if self.published != self.finished {
            self.published = self.finished;
            let nanos = u64::try_from(self.clock.busy.as_nanos()).unwrap_or(u64::MAX);
            self.mailbox.0.word64(BUSY).store(nanos, Relaxed);
            self.published.publish(self.mailbox.0.word64(PUBLISHED));
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
        if before == 1 || is_time {
            self.publish(); // always before a stride grows: from then on the pool knows that results may be held
        }
        if self.clock.stride == 1 {
            flush(); // what a slow task has printed is seen when it is done, line end or not
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

fn flush() {
    let _ = std::io::Write::flush(&mut std::io::stdout());
}

/// Looks again and again whether something has come, for a moment; says whether it has. Lets others have the processor
/// meanwhile, if any are waiting for it.
pub(crate) fn spin(time: Duration, mut has_come: impl FnMut() -> bool) -> bool {
    if time.is_zero() {
        return false;
    }
    let begun = Instant::now();
    loop {
        for _ in 0..64 {
            if has_come() {
                return true;
            }
            std::hint::spin_loop();
        }
        if begun.elapsed() > time {
            return false;
        }
        std::thread::yield_now();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;
    use crate::ring::Frames;

    fn ends() -> (PoolEnd, WorkerEnd) {
        let (ours, theirs) = Link::pair().unwrap();
        let (mailbox, lobby) = (Mailbox::create().unwrap(), Lobby::create().unwrap());
        let worker = WorkerEnd::new(mailbox.clone(), theirs, lobby, Duration::ZERO).unwrap();
        (PoolEnd::new(mailbox, ours), worker)
    }

    fn frames(numbers: &[u64]) -> Vec<u8> {
        let mut frames = Vec::new();
        for number in numbers {
            let bytes: Vec<u8> = (0..*number % 70).flat_map(|_| number.to_le_bytes()).collect();
            add_frame(&mut frames, VALUE, &bytes);
        }
        frames
    }

    fn random(state: &mut u64) -> u64 {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *state >> 33
    }

    /// Whatever is handed in, taken back and run in whatever order: each item runs once, in order, and its result comes.
    #[test]
    fn every_item_is_either_run_or_taken_back() {
        let (mut pool, mut worker) = ends();
        let mut state = 7;
        let (mut next, mut waiting) = (0, 0);
        // Jobs of the mailbox: where they begin, and their items.
        let mut jobs: VecDeque<(u32, VecDeque<u64>, u32)> = VecDeque::new();
        let mut ran = Vec::new();
        let mut expected = Vec::new();
        for _ in 0..3_000 {
            match random(&mut state) % 4 {
                0 => {
                    let start = pool.position();
                    if random(&mut state) % 3 == 0 && !pool.write_note(TASK, &[7; 16]) {
                        continue;
                    }
                    let numbers: Vec<u64> = (next..next + random(&mut state) % 200).collect();
                    let before = pool.written();
                    let bytes = frames(&numbers);
                    let left = pool.write(&bytes, numbers.len() as u32).len();
                    let written = pool.written().wrapping_sub(before);
                    if written == 0 {
                        pool.rewind(start, 0);
                    }
                    assert_eq!(
                        Frames::of(&bytes[bytes.len() - left..]).count() + written as usize,
                        numbers.len()
                    );
                    next += u64::from(written);
                    if written > 0 {
                        pool.hand_in(written);
                        jobs.push_back((start, numbers[..written as usize].iter().copied().collect(), 0));
                    }
                }
                1 => {
                    let mut left = pool.take_back(random(&mut state) as u32 % 300);
                    let (total, mut position) = (left, pool.position());
                    while left > 0 {
                        let (start, items, done) = jobs.back_mut().unwrap();
                        let some = left.min(items.len() as u32 - *done);
                        let mut copied = Vec::new();
                        let kept = items.len() - some as usize;
                        position = pool.copy_items(*start, kept as u32, some, &mut copied);
                        let cut: Vec<u64> = items.split_off(kept).into();
                        assert!(copied == frames(&cut), "what is taken back is what was handed in");
                        next = cut[0];
                        left -= some;
                        if items.len() == *done as usize {
                            jobs.pop_back();
                        }
                    }
                    pool.rewind(position, total);
                }
                2 => {
                    for _ in 0..random(&mut state) % 400 {
                        if waiting > RING as usize / 3 {
                            break; // it would wait for room, and nobody here would make any
                        }
                        match worker.next() {
                            None => break,
                            Some(TASK) => worker.read(|_| Ok(())).unwrap(),
                            Some(VALUE) => {
                                let item = worker.read(|bytes| Ok(bytes.to_vec())).unwrap();
                                waiting += item.len() + 16;
                                worker.write(VALUE, &item).unwrap();
                                worker.finish();
                            }
                            other => panic!("{other:?}"),
                        }
                    }
                    worker.show();
                }
                _ => {
                    let Some(finished) = pool.take_results(random(&mut state) % 2 == 0) else { continue };
                    waiting = 0;
                    ran.extend(finished.results.frames().map(|(_, bytes)| bytes.to_vec()));
                    let mut left = finished.count;
                    while left > 0 {
                        let (_, items, done) = jobs.front_mut().unwrap();
                        let some = left.min(items.len() as u32 - *done);
                        expected.extend(items.iter().skip(*done as usize).take(some as usize).copied());
                        *done += some;
                        left -= some;
                        if items.len() == *done as usize {
                            jobs.pop_front();
                        }
                    }
                    pool.free(jobs.front().map_or(pool.position(), |job| job.0));
                }
            }
        }
        assert!(ran.len() > 10_000, "{}", ran.len());
        let expected: Vec<u8> = frames(&expected);
        assert!(Frames::of(&expected).map(|(_, bytes)| bytes.to_vec()).eq(ran));
    }
}
