//! One side of a ring that many may write and many may read: its lock, how far it has come, and how it waits.
//!
//! Both sides are made alike. Each has an area of its own in shared memory, which holds a lock and what is guarded by
//! it; and a line of memory that it writes and the other side looks at. Each has a event count, a descriptor that wakes one of
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

use crate::channel::wakeup_flag::WakeupFlag;
use crate::error::Result;
use crate::ipc::ring::{Position, just_before_overflow};
use crate::ipc::wire::{SharedFd, SharedMemory};
use crate::sys::atomic::{AtomicU32, AtomicU64, Relaxed};
use crate::sys::eventfd;
use crate::sys::failpoint::{self, Failpoint};
use crate::sys::mutex::{Mutex, MutexGuard};
use crate::sys::poll::{Deadline, poll_event_or_hangup};
use crate::sys::socket;

pub(crate) use self::ancillary::SOCKET_LIMIT;

/// Who puts frames into the ring, or who takes them out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Producers,
    Consumers,
}

#[derive(Debug)]
pub(crate) struct Endpoint {
    pages: SharedMemory,
    start: usize,
    side: Side,
    links: EndpointFds,
}

/// The descriptors that one side of a endpoint needs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct EndpointFds {
    /// This side's end of the pair.
    pub(crate) socket: SharedFd,
    /// What wakes a producer, and what wakes a consumer.
    pub(crate) bells: [SharedFd; 2],
    /// The [namespace](crate::sys::thread_id::namespace) of the process that has made the endpoint.
    pub(crate) namespace: u64,
}

/// How waiting ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum WaitOutcome {
    Ready,
    /// The deadline came first.
    TimedOut,
    /// Nobody is left on the other side.
    Disconnected,
}

/// How many bytes of shared memory the two areas take up.
pub(crate) const AREAS: usize = 2 * AREA;
/// An area is made of lines that are fetched from memory together: two times 64 bytes.
const AREA: usize = 256;
/// In the first line of an area, guarded by the lock in it: how far the other side was when last looked at, how many
/// packets have been sent that belong to frames (or are through with, where they are received), and the habits of
/// waiting.
const CACHED_PEER: usize = 48;
const ANCILLARY: usize = 56;
const FAILED_SPINS: usize = 64;
const NOTIFIED: usize = 68;
const COALESCING: usize = 72;
/// Words for who uses the endpoint.
pub(crate) const SCRATCH: [usize; 3] = [80, 84, 88];
/// In the second: how far this side has come, and the wakeup flag of the *other* side, looked at whenever the former changes.
const POSITION: usize = 128;
const WAKEUP_FLAG: usize = 136;

/// How long one who does not want to wait waits for another who is just putting or taking something.
const TRY_LOCK_GRACE: Duration = Duration::from_millis(1);

thread_local! {
    /// This thread has woken somebody. It may be that the kernel has put him behind it on the same processor, so that the
    /// thread had better let him have it before it waits for an answer.
    static WOKE_PEER: Cell<bool> = const { Cell::new(false) };
}

impl Endpoint {
    /// Makes the areas of both sides, in zeroed memory, from the byte `start` on.
    pub(crate) fn create(pages: &SharedMemory, start: usize) {
        for side in [Side::Producers, Side::Consumers] {
            let area = start + side.area();
            Position::START.publish(pages.word64(area + POSITION));
            Position::START.publish(pages.word64(area + CACHED_PEER));
            pages.word64(area + ANCILLARY).store(just_before_overflow(4).into(), Relaxed);
            pages.word32(area + WAKEUP_FLAG).store(just_before_overflow(4), Relaxed);
        }
    }

    /// One side of a endpoint whose areas are in this memory.
    pub(crate) fn new(pages: SharedMemory, start: usize, side: Side, links: EndpointFds) -> Self {
        Self { pages, start, side, links }
    }

    /// Takes this side's lock; blocks while another holds it, until the deadline, then gives `None`.
    ///
    /// Without time to wait, a call gives `None` at once if another thread waits that lives, since then there is nothing
    /// to be had; and it waits for a moment if another is just putting or taking something.
    #[inline]
    pub(crate) fn lock(&self, deadline: Deadline) -> Result<Option<MutexGuard<'_>>> {
        match self.mutex(self.side).try_lock() {
            Some(guard) => Ok(Some(guard)),
            None => self.lock_slow(deadline),
        }
    }

    #[cold]
    fn lock_slow(&self, deadline: Deadline) -> Result<Option<MutexGuard<'_>>> {
        let is_putting_or_taking = !self.own_flag().is_set();
        let deadline = if deadline.is_over() && is_putting_or_taking {
            Deadline::after(TRY_LOCK_GRACE)
        } else {
            deadline
        };
        self.mutex(self.side).lock(deadline)
    }

    /// How far this side has come.
    #[inline]
    pub(crate) fn position(&self) -> Position {
        Position::load(self.word64(self.side, POSITION))
    }

    /// How far the other side had come when it was last looked at.
    #[inline]
    pub(crate) fn cached_peer(&self) -> Position {
        Position::load(self.word64(self.side, CACHED_PEER))
    }

    /// How far the other side has come.
    #[inline]
    pub(crate) fn peer_position(&self) -> Position {
        Position::load(self.word64(self.side.other(), POSITION))
    }

    /// How far the other side has come, to be remembered in [`seen`](Self::cached_peer).
    pub(crate) fn refresh_peer(&self) -> Position {
        let mark = self.peer_position();
        mark.publish(self.word64(self.side, CACHED_PEER));
        mark
    }

    /// Lets the other side see how far this one has come, and wakes who waits for it. Where a consumer waits who is
    /// gone, and all others with him, nothing is published, and the answer is no.
    #[inline]
    pub(crate) fn publish(&self, mark: Position) -> bool {
        let flag = WakeupFlag(self.word32(self.side, WAKEUP_FLAG));
        // Asked before, since whoever is woken may look at what has come, and go.
        if flag.is_set() && self.side == Side::Producers && self.peer_hung_up().unwrap_or(false) {
            return false;
        }
        failpoint::hit(Failpoint::Publishing);
        mark.publish(self.word64(self.side, POSITION));
        failpoint::hit(Failpoint::Published);
        if let Some(armed) = flag.should_notify() {
            eventfd::notify(self.links.bells[self.side.other().index()].as_fd());
            flag.clear(armed);
            WOKE_PEER.set(true);
            failpoint::hit(Failpoint::PeerNotified);
        }
        true
    }

    /// To be called before one takes the lock, and will have to wait: lets the one whom this thread has woken last have the
    /// processor, where there is time for that.
    #[inline]
    pub(crate) fn yield_to_woken(&self, deadline: Deadline) {
        if WOKE_PEER.get() && self.peer_position() == self.position() {
            WOKE_PEER.set(false);
            if deadline.has_slack() {
                thread::yield_now();
            }
        }
    }

    /// Makes the event count readable exactly while something `is_ready`, though nobody waits here. To be called under the
    /// lock, whenever that may have changed on this side.
    pub(crate) fn update_readiness(&self, is_ready: impl Fn() -> bool) {
        if !is_ready() {
            self.clear_eventfd();
            self.own_flag().set();
        }
        if is_ready() {
            eventfd::notify(self.eventfd().as_fd());
        }
    }

    /// Is nobody left on the other side?
    pub(crate) fn peer_hung_up(&self) -> Result<bool> {
        if socket::is_held(self.links.socket.as_fd()) {
            return Ok(false); // the quicker way to ask, and mostly the answer
        }
        Ok(poll_event_or_hangup(self.eventfd().as_fd(), self.links.socket.as_fd(), Some(Duration::ZERO))?
            .hung_up)
    }

    /// How many frames are in the ring. While both sides are busy, the number may be off by what they do meanwhile.
    pub(crate) fn len(&self) -> u32 {
        let mut head = Position::load(self.word64(Side::Consumers, POSITION));
        let mut inside = 0;
        // A consumer goes on while this looks; one that writes nonsense may go on without end.
        for _ in 0..1000 {
            inside = Position::load(self.word64(Side::Producers, POSITION)).frames_since(head);
            let before = replace(&mut head, Position::load(self.word64(Side::Consumers, POSITION)));
            if before == head {
                break;
            }
        }
        inside
    }

    pub(crate) fn pages(&self) -> &SharedMemory {
        &self.pages
    }

    pub(crate) fn fds(&self) -> &EndpointFds {
        &self.links
    }

    /// What wakes this side.
    pub(crate) fn eventfd(&self) -> &SharedFd {
        &self.links.bells[self.side.index()]
    }

    pub(crate) fn side(&self) -> Side {
        self.side
    }

    /// A word for who uses the endpoint, in this side's area.
    #[inline]
    pub(crate) fn scratch(&self, offset: usize) -> &AtomicU32 {
        self.word32(self.side, offset)
    }

    fn clear_eventfd(&self) {
        eventfd::clear(self.eventfd().as_fd());
    }

    fn own_flag(&self) -> WakeupFlag<'_> {
        WakeupFlag(self.word32(self.side.other(), WAKEUP_FLAG))
    }

    #[inline]
    fn mutex(&self, side: Side) -> Mutex<'_> {
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
        let pages = SharedMemory::create(NonZeroUsize::new(AREAS).unwrap()).unwrap();
        Endpoint::create(&pages, 0);
        let bells = [eventfd::create().unwrap().into(), eventfd::create().unwrap().into()];
        let (from, to) = sockets().unwrap();
        let endpoint = |side, socket| {
            Endpoint::new(
                pages.clone(),
                0,
                side,
                EndpointFds { socket, bells: bells.clone(), namespace: thread_id::namespace() },
            )
        };
        let (producer, consumer) = (endpoint(Side::Producers, from), endpoint(Side::Consumers, to));
        thread::scope(|scope| {
            let (tell, told) = mpsc::channel();
            let waiting = scope.spawn(move || {
                tell.send(nix::unistd::gettid()).unwrap();
                let _guard = consumer.lock(Deadline::Never).unwrap();
                consumer.wait(Position::START, Deadline::Never, || ())
            });
            let stat = format!("/proc/self/task/{}/stat", told.recv().unwrap());
            let sleeps = || std::fs::read_to_string(&stat).unwrap().contains(") S ");
            while !(WakeupFlag(producer.word32(Side::Producers, WAKEUP_FLAG)).is_set() && sleeps()) {
                thread::yield_now();
            }
            Position { frames: 1, ..Position::START }.publish(producer.word64(Side::Producers, POSITION));
            assert_eq!(waiting.join().unwrap().unwrap(), WaitOutcome::Ready);
        });
    }
}
