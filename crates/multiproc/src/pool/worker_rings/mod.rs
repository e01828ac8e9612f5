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

pub(crate) mod claim_word;
mod pool_side;
mod progress;
pub(crate) mod wakeups;
mod worker_side;

use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::error::{Cause, Error, Result};
use crate::ipc::event_count::EventCount;
use crate::ipc::packet::{self, Incoming, OnShortage, PacketSocket};
use crate::ipc::ring::{Position, Ring, just_before_overflow};
use crate::ipc::wire::SharedMemory;
use crate::pool::worker_rings::wakeups::PoolWakeups;
use crate::sys::atomic::{AtomicU32, AtomicU64, Relaxed};
use crate::sys::poll::Deadline;

pub(crate) use self::pool_side::PoolSide;
pub(crate) use self::progress::Scope;
pub(crate) use self::worker_side::WorkerSide;

/// The memory itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "SharedMemory")]
pub(crate) struct WorkerRings(SharedMemory);

/// What frames are: an item or a result;
pub(crate) const VALUE: u32 = 1;
/// an error in a result's place;
pub(crate) const ERROR: u32 = 2;
/// a note that the item or result, too large for a frame or with descriptors, is a message on the link;
pub(crate) const OUT_OF_LINE: u32 = 3;
/// what the items that follow are for, which is no item.
pub(crate) const TASK_HEADER: u32 = 4;

/// How long what stands in front of a message is.
const PREFIX: usize = size_of::<u64>();

const RING: u32 = 1024 * 1024;
const SUBMISSIONS: Ring = Ring::new(4096, RING).warm();
const COMPLETIONS: Ring = Ring::new(4096 + RING as usize, RING).warm();
const SIZE: NonZeroUsize = NonZeroUsize::new(4096 + 2 * RING as usize).unwrap();

/// Words, those that different sides write in different cache lines.
const CLAIMS: usize = 0;
const COMPLETED: usize = 128;
const VISIBLE: usize = 256;
/// How long the worker has been busy with all that is published, in nanoseconds.
const BUSY: usize = 264;
/// How many results were posted, at least.
const OUT_OF_LINE_COUNT: usize = 280;
/// How many items the worker finishes before it looks at the clock again.
const CLOCK_INTERVAL: usize = 272;
/// It has come up, and its initializer has run.
const READY: usize = 276;
/// Since when the item runs that was begun, in nanoseconds of the system's clock, if its time is counted; else 0.
const RUNNING: usize = 288;
/// Up to which byte the pool has taken the results.
const TAKEN: usize = 384;
const CLOSED: usize = 388;
/// The pool has found results that are finished and not published: the worker is to look at the clock.
const FLUSH_REQUESTED: usize = 392;
/// Rung when there are items, and when the rings is closed; and when there is room for results again.
const ITEMS_EVENT: usize = 396;
const ROOM_EVENT: usize = 400;

impl WorkerRings {
    pub(crate) fn create() -> Result<Self> {
        let rings = Self(SharedMemory::create(SIZE)?);
        let claims = u64::from(Position::START.frames);
        rings.claim_word().store(claims << 32 | claims, Relaxed);
        for word in [COMPLETED, VISIBLE] {
            Position::START.publish(rings.0.word64(word));
        }
        rings.taken().store(Position::START.bytes, Relaxed);
        for event in [ITEMS_EVENT, ROOM_EVENT] {
            rings.0.word32(event).store(just_before_overflow(16), Relaxed);
        }
        rings.0.word32(OUT_OF_LINE_COUNT).store(just_before_overflow(4), Relaxed);
        Ok(rings)
    }

    #[inline]
    fn claim_word(&self) -> &AtomicU64 {
        self.0.word64(CLAIMS)
    }

    fn items_event(&self) -> EventCount<'_> {
        EventCount(self.0.word32(ITEMS_EVENT))
    }

    fn room_event(&self) -> EventCount<'_> {
        EventCount(self.0.word32(ROOM_EVENT))
    }

    fn taken(&self) -> &AtomicU32 {
        self.0.word32(TAKEN)
    }
}

/// What a pool shares with all of its workers: who is to be woken when results have come.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "SharedMemory")]
pub(crate) struct WakeupPage(SharedMemory);

const WAKEUP_PAGE: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

impl WakeupPage {
    pub(crate) fn create() -> Result<Self> {
        let wakeup_page = Self(SharedMemory::create(WAKEUP_PAGE)?);
        for event in [0, 4] {
            wakeup_page.0.word32(event).store(just_before_overflow(16), Relaxed);
        }
        Ok(wakeup_page)
    }

    /// Wakes who waits for results.
    pub(crate) fn notify_callers(&self) {
        self.callers().notify_all();
    }

    /// Wakes who waits for results, for there is something to do for the pool; if nobody waits, the pool's thread.
    pub(crate) fn notify(&self) {
        self.wakeups().notify();
    }

    pub(crate) fn wakeups(&self) -> PoolWakeups<'_> {
        PoolWakeups { callers: self.callers(), thread: self.thread(), has_callers: self.0.word32(8) }
    }

    /// For threads that wait for results of their own, and see to all others meanwhile.
    pub(crate) fn callers(&self) -> EventCount<'_> {
        EventCount(self.0.word32(0))
    }

    pub(crate) fn thread(&self) -> EventCount<'_> {
        EventCount(self.0.word32(4))
    }
}

macro_rules! of_size {
    ($($memory:ident: $size:ident),*) => {$(
        /// Memory that came from elsewhere is what it should be only if it has the size.
        impl TryFrom<SharedMemory> for $memory {
            type Error = Error;

            fn try_from(pages: SharedMemory) -> Result<Self> {
                match pages.size() {
                    $size => Ok(Self(pages)),
                    other => Err(Error::decode("shared memory", format!("{other} bytes instead of {}", $size))),
                }
            }
        }
    )*};
}

of_size!(WorkerRings: SIZE, WakeupPage: WAKEUP_PAGE);

/// What stands in front of a message: its number, by which a note or a result refers to it, and what it is.
struct MessageHeader {
    number: u32,
    kind: u32,
}

impl MessageHeader {
    fn bytes(&self) -> [u8; 8] {
        (u64::from(self.number) << 32 | u64::from(self.kind)).to_le_bytes()
    }

    /// Receives the message of that number, which must have been sent; throws away those before it, which
    /// nobody will ask for any more. Gives what it is, its packet, and its descriptors. Does not block.
    fn receive(
        link: &PacketSocket,
        number: u32,
        on_shortage: OnShortage,
    ) -> Result<(u32, Vec<u8>, Vec<OwnedFd>)> {
        for _ in 0..MAX_PACKETS {
            let Incoming::Message(packet, descriptors) =
                link.receive_packet_or(on_shortage, Deadline::now())?
            else {
                return Err(Error::new(Cause::LinkLost));
            };
            let prefix = packet::prefix(&packet).first_chunk().copied().map_or(u64::MAX, u64::from_le_bytes);
            #[allow(clippy::cast_possible_truncation)] // taking halves is the purpose
            if (prefix >> 32) as u32 == number {
                return Ok((prefix as u32, packet, descriptors));
            }
        }
        Err(Error::decode("a message", "others come in its place"))
    }
}

/// More packets than this do not find room in a socket at once.
const MAX_PACKETS: u32 = 4096;

/// How long to look for something, in [`spin`], before others are let have the processor.
const YIELD_AFTER: Duration = Duration::from_micros(2);

/// Looks again and again whether something has come, for a moment; says whether it has. Now and then it lets others have
/// the processor, if any are waiting for it: it may be just the one who is to bring it. The clock is read after so many
/// looks.
pub(crate) fn spin(time: Duration, checks: u32, mut is_done: impl FnMut() -> bool) -> bool {
    if time.is_zero() {
        return false;
    }
    let claimed = Instant::now();
    let mut turn = claimed;
    loop {
        for _ in 0..checks {
            if is_done() {
                return true;
            }
            std::hint::spin_loop();
        }
        let now = Instant::now();
        if now - claimed > time {
            return false;
        }
        if now - turn > YIELD_AFTER {
            std::thread::yield_now();
            turn = now;
        }
    }
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
#[allow(clippy::cast_possible_truncation)] // numbers of a test, all of them small
mod tests {
    use std::collections::VecDeque;
    use std::sync::atomic::AtomicBool;
    use std::thread;

    use super::*;
    use crate::ipc::frame::{Frames, add_frame, all};
    use crate::ipc::packet::{Message, Sent};
    use crate::pool::worker_rings::claim_word::{self, Known};
    use crate::sys::output::BOUND;

    pub(super) fn ends() -> (PoolSide, WorkerSide) {
        let (ours, theirs) = PacketSocket::pair().unwrap();
        let (rings, wakeup_page) = (WorkerRings::create().unwrap(), WakeupPage::create().unwrap());
        let worker = WorkerSide::new(rings.clone(), theirs, wakeup_page, Duration::ZERO).unwrap();
        (PoolSide::new(rings, ours), worker)
    }

    fn frames(numbers: &[u64]) -> Vec<u8> {
        let mut frames = Vec::new();
        for number in numbers {
            let bytes: Vec<u8> = (0..*number % 70).flat_map(|_| number.to_le_bytes()).collect();
            add_frame(&mut frames, VALUE, &bytes);
        }
        frames
    }

    fn scope(number: u64) -> Scope {
        [Scope::Visible, Scope::Unflushed, Scope::Completed][(number % 3) as usize]
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
        // Jobs of the rings: where they begin, and their items.
        let mut jobs: VecDeque<(u32, VecDeque<u64>, u32)> = VecDeque::new();
        let mut ran = Vec::new();
        let mut expected = Vec::new();
        for _ in 0..3_000 {
            match random(&mut state) % 4 {
                0 => {
                    let start = pool.position();
                    if random(&mut state).is_multiple_of(3) && !pool.write_header(TASK_HEADER, &[7; 16]) {
                        continue;
                    }
                    let numbers: Vec<u64> = (next..next + random(&mut state) % 200).collect();
                    let before = pool.written();
                    let bytes = frames(&numbers);
                    let left = pool.write(&bytes, numbers.len() as u32).len();
                    let written = pool.written().wrapping_sub(before);
                    if written == 0 {
                        pool.truncate(start, 0);
                    }
                    assert_eq!(
                        all(Frames::frame_size(&bytes[bytes.len() - left..])).len() + written as usize,
                        numbers.len()
                    );
                    next += u64::from(written);
                    if written > 0 {
                        pool.submit(written).unwrap();
                        jobs.push_back((start, numbers[..written as usize].iter().copied().collect(), 0));
                    }
                }
                1 => {
                    let mut left = pool.revoke(random(&mut state) as u32 % 300).unwrap();
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
                    pool.truncate(position, total);
                }
                2 => {
                    for _ in 0..random(&mut state) % 400 {
                        if waiting > RING as usize / 3 {
                            break; // it would wait for room, and nobody here would make any
                        }
                        match worker.next() {
                            None => break,
                            Some(TASK_HEADER) => worker.read(|_| Ok(())).unwrap(),
                            Some(VALUE) => {
                                let item = worker.read(|bytes| Ok(bytes.to_vec())).unwrap();
                                waiting += item.len() + 16;
                                worker.write(VALUE, &item).unwrap();
                                worker.finish();
                            }
                            other => panic!("{other:?}"),
                        }
                    }
                    worker.update_visible();
                }
                _ => {
                    let Some(finished) = pool.take_results(scope(random(&mut state))).unwrap() else {
                        continue;
                    };
                    waiting = 0;
                    ran.extend(all(finished.results));
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
                    pool.release(jobs.front().map_or(pool.position(), |job| job.0));
                }
            }
        }
        assert!(ran.len() > 10_000, "{}", ran.len());
        let expected: Vec<u8> = frames(&expected);
        assert!(all(Frames::frame_size(expected)) == ran);
    }

    #[test]
    fn claims_overflow() {
        let word = AtomicU64::new(u64::MAX);
        assert!(!claim_word::try_claim(&word));
        let known = |submitted: u32| Known { finished: u32::MAX, submitted: submitted.wrapping_sub(1) };
        assert!(claim_word::submit(&word, known(0), 5));
        assert!(claim_word::try_claim(&word) && claim_word::try_claim(&word));
        assert_eq!(claim_word::revoke(&word, known(5), 2), Some(2));
        assert_eq!(claim_word::pending(&word), 1);
        assert!(claim_word::try_claim(&word) && !claim_word::try_claim(&word));
        assert_eq!(claim_word::revoke(&word, known(3), 9), Some(0));
    }

    /// Begun before it was handed in, or less than has results; handed in more or less than the pool has.
    #[test]
    fn claims_that_cannot_be_are_not_believed() {
        let known = Known { finished: 3, submitted: 7 };
        let word = |claimed: u64, submitted: u64| AtomicU64::new(claimed << 32 | submitted);
        for overwritten in [word(2, 7), word(8, 7), word(4, 6), word(4, 8), word(0, 0), word(1 << 31, 7)] {
            assert!(!claim_word::submit(&overwritten, known, 1));
            assert_eq!(claim_word::revoke(&overwritten, known, 1), None);
            assert_eq!(claim_word::checked_claimed(&overwritten, known), None);
        }
        assert_eq!(claim_word::revoke(&word(3, 7), known, 9), Some(4));
        assert_eq!(claim_word::checked_claimed(&word(7, 7), known), Some(7));
    }

    /// It would have been held up, with the pool's lock, for as long as the worker likes.
    #[test]
    fn a_pool_does_not_look_through_packets_without_end() {
        let (mut pool, worker) = ends();
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            let link = &worker.link;
            let flood = || {
                let prefix = MessageHeader { number: 1, kind: VALUE }.bytes();
                while !is_over.load(Relaxed) {
                    let _ = link.send_with_prefix(&prefix, &Message::inline(vec![7]), Deadline::now());
                }
            };
            scope.spawn(flood);
            scope.spawn(flood);
            for _ in 0..5 {
                assert!(pool.receive(5, OnShortage::Leave).is_err());
            }
            is_over.store(true, Relaxed);
        });
    }

    #[test]
    fn the_time_of_an_item_is_never_that_of_one_before() {
        let (mut pool, mut worker) = ends();
        pool.write(&frames(&[3, 5]), 2);
        pool.submit(2).unwrap();
        for timed in [true, false] {
            assert_eq!(worker.next(), Some(VALUE));
            worker.read(|_| Ok(())).unwrap();
            assert_eq!(pool.running_for(), None);
            if timed {
                worker.start_clock();
                let soon = pool.running_for();
                assert!(soon.is_some() && pool.running_for() >= soon);
                worker.stop_clock();
                assert_eq!(pool.running_for(), None, "before it is finished");
            }
            worker.write(VALUE, &[]).unwrap();
            assert!(!pool.has_finished());
            worker.finish();
            assert!(
                pool.has_finished()
                    && pool.take_results(Scope::Completed).unwrap().is_some()
                    && !pool.has_finished()
            );
        }
    }

    /// Else a result could be seen before what its task has printed.
    #[test]
    fn results_count_as_held_back_only_while_another_item_runs() {
        let (mut pool, mut worker) = ends();
        assert_eq!(pool.write(&frames(&[1, 2, 3]), 3), b"");
        pool.submit(3).unwrap();
        let mut run = |pool: &mut PoolSide| {
            worker.next();
            let before = pool.take_results(Scope::Unflushed).unwrap().map_or(0, |results| results.count);
            worker.read(|_| Ok(())).unwrap();
            worker.write(VALUE, &[]).unwrap();
            worker.finish();
            before
        };
        assert_eq!(run(&mut pool), 0);
        assert!(pool.has_finished() && pool.take_results(Scope::Unflushed).unwrap().is_none());
        assert_eq!(run(&mut pool), 1);
        assert!(pool.has_finished() && pool.take_results(Scope::Unflushed).unwrap().is_none());
        assert_eq!(pool.take_results(Scope::Completed).unwrap().unwrap().count, 1);
        assert_eq!(run(&mut pool), 0);
    }

    /// A worker that cannot write out what a task has printed does not keep its result back for good.
    #[test]
    fn results_that_are_held_back_for_too_long_are_taken() {
        let (mut pool, mut worker) = ends();
        assert_eq!(pool.write(&frames(&[1]), 1), b"");
        pool.submit(1).unwrap();
        worker.next();
        worker.read(|_| Ok(())).unwrap();
        worker.write(VALUE, &[]).unwrap();
        worker.finish();
        assert!(pool.take_results(Scope::Unflushed).unwrap().is_none(), "seen for the first time");
        thread::sleep(BOUND);
        assert_eq!(pool.take_results(Scope::Unflushed).unwrap().unwrap().count, 1);
    }

    /// A message whose item was taken back is still on its way, and must not be taken for that of the next item.
    #[test]
    fn a_message_is_that_of_its_item() {
        let (mut pool, mut worker) = ends();
        let position = pool.position();
        for (number, bytes) in [b"not this", b"but this"].into_iter().enumerate() {
            assert_eq!(pool.send_out_of_line(&mut Message::inline(bytes.to_vec())).unwrap(), Sent::Done);
            pool.submit(1).unwrap();
            if number == 0 {
                assert_eq!(pool.revoke(1).unwrap(), 1);
                pool.truncate(position, 1);
            }
        }
        assert_eq!(worker.next(), Some(OUT_OF_LINE));
        let (content, descriptors) = worker.receive().unwrap();
        assert!(descriptors.is_empty() && content.with_bytes(|bytes| bytes == b"but this"));
    }
}
