//! One side of a ring that many may write and many may read: its lock, how far it has come, and how it waits.
//!
//! Both sides are made alike. Each has an area of its own in shared memory, which holds a lock and what is guarded by
//! it; and a line of memory that it writes and the other side looks at. Each has a bell, a descriptor that wakes one of
//! them who waits. And between them is a pair of sockets, of which one side shares the one end and the other side the
//! other: so the kernel knows, whoever was killed, whether anybody is left on a side.

mod ancillary;
mod coalesce;
mod wait;

use std::cell::Cell;
use std::mem::replace;
use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::channel::wakeup_flag::Alarm;
use crate::error::Result;
use crate::ipc::ring::{Mark, just_before_overflow};
use crate::ipc::wire::{Handle, Pages};
use crate::sys::atomic::{AtomicU32, AtomicU64, Relaxed};
use crate::sys::eventfd;
use crate::sys::failpoint::{self, Failpoint};
use crate::sys::mutex::{Mutex, MutexGuard};
use crate::sys::poll::{Deadline, bell_or_end};
use crate::sys::socket;

pub(crate) use self::ancillary::MOST_IN_A_SOCKET;

/// Who puts frames into the ring, or who takes them out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Producers,
    Consumers,
}

#[derive(Debug)]
pub(crate) struct Lane {
    pages: Pages,
    start: usize,
    side: Side,
    links: Links,
}

/// The descriptors that one side of a lane needs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Links {
    /// This side's end of the pair.
    pub(crate) socket: Handle,
    /// What wakes a producer, and what wakes a consumer.
    pub(crate) bells: [Handle; 2],
    /// The [namespace](crate::sys::thread_id::namespace) of the process that has made the lane.
    pub(crate) namespace: u64,
}

/// How waiting ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Waited {
    Ready,
    /// The deadline came first.
    NotYet,
    /// Nobody is left on the other side.
    Gone,
}

/// How many bytes of shared memory the two areas take up.
pub(crate) const AREAS: usize = 2 * AREA;
/// An area is made of lines that are fetched from memory together: two times 64 bytes.
const AREA: usize = 256;
/// In the first line of an area, guarded by the lock in it: how far the other side was when last looked at, how many
/// packets have been sent that belong to frames (or are through with, where they are received), and the habits of
/// waiting.
const SEEN: usize = 48;
const COMPANIONS: usize = 56;
const VAIN: usize = 64;
const RUNG: usize = 68;
const HEAD_START: usize = 72;
/// Words for who uses the lane.
pub(crate) const NOTES: [usize; 3] = [80, 84, 88];
/// In the second: how far this side has come, and the alarm of the *other* side, looked at whenever the former changes.
const MARK: usize = 128;
const ALARM: usize = 136;

/// How long one who does not want to wait waits for another who is just putting or taking something.
const A_MOMENT: Duration = Duration::from_millis(1);

thread_local! {
    /// This thread has woken somebody. It may be that the kernel has put him behind it on the same processor, so that the
    /// thread had better let him have it before it waits for an answer.
    static HAS_WOKEN: Cell<bool> = const { Cell::new(false) };
}

impl Lane {
    /// Makes the areas of both sides, in zeroed memory, from the byte `start` on.
    pub(crate) fn create(pages: &Pages, start: usize) {
        for side in [Side::Producers, Side::Consumers] {
            let area = start + side.area();
            Mark::START.publish(pages.word64(area + MARK));
            Mark::START.publish(pages.word64(area + SEEN));
            pages.word64(area + COMPANIONS).store(just_before_overflow(4).into(), Relaxed);
            pages.word32(area + ALARM).store(just_before_overflow(4), Relaxed);
        }
    }

    /// One side of a lane whose areas are in this memory.
    pub(crate) fn new(pages: Pages, start: usize, side: Side, links: Links) -> Self {
        Self { pages, start, side, links }
    }

    /// Takes this side's lock; blocks while another holds it, until the deadline, then gives `None`.
    ///
    /// Without time to wait, a call gives `None` at once if another thread waits that lives, since then there is nothing
    /// to be had; and it waits for a moment if another is just putting or taking something.
    #[inline]
    pub(crate) fn enter(&self, deadline: Deadline) -> Result<Option<MutexGuard<'_>>> {
        match self.lock(self.side).try_lock() {
            Some(guard) => Ok(Some(guard)),
            None => self.enter_later(deadline),
        }
    }

    #[cold]
    fn enter_later(&self, deadline: Deadline) -> Result<Option<MutexGuard<'_>>> {
        let is_putting_or_taking = !self.own_alarm().is_armed();
        let deadline =
            if deadline.is_over() && is_putting_or_taking { Deadline::after(A_MOMENT) } else { deadline };
        self.lock(self.side).lock(deadline)
    }

    /// How far this side has come.
    #[inline]
    pub(crate) fn mark(&self) -> Mark {
        Mark::seen(self.word64(self.side, MARK))
    }

    /// How far the other side had come when it was last looked at.
    #[inline]
    pub(crate) fn seen(&self) -> Mark {
        Mark::seen(self.word64(self.side, SEEN))
    }

    /// How far the other side has come.
    #[inline]
    pub(crate) fn look(&self) -> Mark {
        Mark::seen(self.word64(self.side.other(), MARK))
    }

    /// How far the other side has come, to be remembered in [`seen`](Self::seen).
    pub(crate) fn look_and_remember(&self) -> Mark {
        let mark = self.look();
        mark.publish(self.word64(self.side, SEEN));
        mark
    }

    /// Lets the other side see how far this one has come, and wakes who waits for it. Where a consumer waits who is
    /// gone, and all others with him, nothing is published, and the answer is no.
    #[inline]
    pub(crate) fn publish(&self, mark: Mark) -> bool {
        let alarm = Alarm(self.word32(self.side, ALARM));
        // Asked before, since whoever is woken may look at what has come, and go.
        if alarm.is_armed() && self.side == Side::Producers && self.is_abandoned().unwrap_or(false) {
            return false;
        }
        failpoint::hit(Failpoint::Publishing);
        mark.publish(self.word64(self.side, MARK));
        failpoint::hit(Failpoint::Published);
        if let Some(armed) = alarm.after_change() {
            eventfd::ring(self.links.bells[self.side.other().index()].as_fd());
            alarm.disarm(armed);
            HAS_WOKEN.set(true);
            failpoint::hit(Failpoint::PeerNotified);
        }
        true
    }

    /// To be called before one takes the lock, and will have to wait: lets the one whom this thread has woken last have the
    /// processor, where there is time for that.
    #[inline]
    pub(crate) fn give_way(&self, deadline: Deadline) {
        if HAS_WOKEN.get() && self.look() == self.mark() {
            HAS_WOKEN.set(false);
            if deadline.is_far() {
                thread::yield_now();
            }
        }
    }

    /// Makes the bell readable exactly while something `is_ready`, though nobody waits here. To be called under the
    /// lock, whenever that may have changed on this side.
    pub(crate) fn show(&self, is_ready: impl Fn() -> bool) {
        if !is_ready() {
            self.clear_bell();
            self.own_alarm().arm();
        }
        if is_ready() {
            eventfd::ring(self.bell().as_fd());
        }
    }

    /// Is nobody left on the other side?
    pub(crate) fn is_abandoned(&self) -> Result<bool> {
        if socket::is_held(self.links.socket.as_fd()) {
            return Ok(false); // the quicker way to ask, and mostly the answer
        }
        Ok(bell_or_end(self.bell().as_fd(), self.links.socket.as_fd(), Some(Duration::ZERO))?.hung_up)
    }

    /// How many frames are in the ring. While both sides are busy, the number may be off by what they do meanwhile.
    pub(crate) fn inside(&self) -> u32 {
        let mut head = Mark::seen(self.word64(Side::Consumers, MARK));
        let mut inside = 0;
        // A consumer goes on while this looks; one that writes nonsense may go on without end.
        for _ in 0..1000 {
            inside = Mark::seen(self.word64(Side::Producers, MARK)).frames_since(head);
            let before = replace(&mut head, Mark::seen(self.word64(Side::Consumers, MARK)));
            if before == head {
                break;
            }
        }
        inside
    }

    pub(crate) fn pages(&self) -> &Pages {
        &self.pages
    }

    pub(crate) fn links(&self) -> &Links {
        &self.links
    }

    /// What wakes this side.
    pub(crate) fn bell(&self) -> &Handle {
        &self.links.bells[self.side.index()]
    }

    pub(crate) fn side(&self) -> Side {
        self.side
    }

    /// A word for who uses the lane, in this side's area.
    #[inline]
    pub(crate) fn note(&self, offset: usize) -> &AtomicU32 {
        self.word32(self.side, offset)
    }

    fn clear_bell(&self) {
        eventfd::clear(self.bell().as_fd());
    }

    fn own_alarm(&self) -> Alarm<'_> {
        Alarm(self.word32(self.side.other(), ALARM))
    }

    #[inline]
    fn lock(&self, side: Side) -> Mutex<'_> {
        Mutex::at(&self.pages, self.start + side.area(), self.links.namespace)
    }

    #[inline]
    fn word32(&self, side: Side, offset: usize) -> &AtomicU32 {
        self.pages.word32(self.start + side.area() + offset)
    }

    #[inline]
    fn word64(&self, side: Side, offset: usize) -> &AtomicU64 {
        self.pages.word64(self.start + side.area() + offset)
    }
}

impl Side {
    #[inline]
    fn other(self) -> Self {
        match self {
            Self::Producers => Self::Consumers,
            Self::Consumers => Self::Producers,
        }
    }

    #[inline]
    fn index(self) -> usize {
        match self {
            Self::Producers => 0,
            Self::Consumers => 1,
        }
    }

    #[inline]
    fn area(self) -> usize {
        self.index() * AREA
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use std::num::NonZeroUsize;
    use std::sync::mpsc;
    use std::thread;

    use super::*;
    use crate::channel::sockets;
    use crate::sys::thread_id;

    /// As where one was killed between the two.
    #[test]
    fn what_was_published_and_not_rung_for_is_seen() {
        let pages = Pages::create(NonZeroUsize::new(AREAS).unwrap()).unwrap();
        Lane::create(&pages, 0);
        let bells = [eventfd::create().unwrap().into(), eventfd::create().unwrap().into()];
        let (from, to) = sockets().unwrap();
        let lane = |side, socket| {
            Lane::new(
                pages.clone(),
                0,
                side,
                Links { socket, bells: bells.clone(), namespace: thread_id::namespace() },
            )
        };
        let (producer, consumer) = (lane(Side::Producers, from), lane(Side::Consumers, to));
        thread::scope(|scope| {
            let (tell, told) = mpsc::channel();
            let waiting = scope.spawn(move || {
                tell.send(nix::unistd::gettid()).unwrap();
                let _guard = consumer.enter(Deadline::Never).unwrap();
                consumer.wait(Mark::START, Deadline::Never, || ())
            });
            let stat = format!("/proc/self/task/{}/stat", told.recv().unwrap());
            let sleeps = || std::fs::read_to_string(&stat).unwrap().contains(") S ");
            while !(Alarm(producer.word32(Side::Producers, ALARM)).is_armed() && sleeps()) {
                thread::yield_now();
            }
            Mark { frames: 1, ..Mark::START }.publish(producer.word64(Side::Producers, MARK));
            assert_eq!(waiting.join().unwrap().unwrap(), Waited::Ready);
        });
    }
}
