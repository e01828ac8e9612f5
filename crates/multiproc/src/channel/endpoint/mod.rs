//! One side of a ring, producers or consumers: its lock, its position, and how it waits for the other side.
//!
//! Both sides are built alike. Each has an area in shared memory: its lock with the words that the lock
//! guards, and a pair of cache lines with this side's position and the wakeup flag that the peer sets before it
//! sleeps. Each has an eventfd, which wakes its waiter. Between the sides is a pair of sockets; all processes of a side
//! share one end. So the kernel knows whether any process is left on a side, also after kills.

mod ancillary;
mod coalesce;
mod wait;

use std::cell::Cell;
use std::mem::replace;
use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

use crate::channel::wakeup_flag::WakeupFlag;
use crate::error::Result;
use crate::impl_serde::impl_serde;
use crate::ipc::ring::{Position, just_before_overflow};
use crate::ipc::wire::{SharedFd, SharedMemory};
use crate::sys::atomic::{AtomicU32, AtomicU64, Relaxed};
use crate::sys::eventfd;
use crate::sys::failpoint::{self, Failpoint};
use crate::sys::mutex::{Mutex, MutexGuard};
use crate::sys::poll::{Deadline, poll_event_or_hangup};
use crate::sys::socket;

pub(crate) use self::ancillary::{MAX_ANCILLARY_PACKETS, NextPacket};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Producers,
    Consumers,
}

#[derive(Debug)]
pub(crate) struct Endpoint {
    memory: SharedMemory,
    start: usize,
    side: Side,
    fds: EndpointFds,
    /// Whether consumers give up each wait after [`RECHECK_INTERVAL`](wait::RECHECK_INTERVAL).
    times_out_early: bool,
}

/// The descriptors of an endpoint.
#[derive(Clone, Debug)]
pub(crate) struct EndpointFds {
    /// This side's end of the pair.
    pub(crate) socket: SharedFd,
    /// The one that wakes a producer, and the one that wakes a consumer.
    pub(crate) eventfds: [SharedFd; 2],
    /// The [namespace](crate::sys::thread_id::namespace) of the process that made the channel.
    pub(crate) namespace: u64,
}

impl_serde!(struct EndpointFds { socket, eventfds, namespace });

/// The outcome of waiting.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum WaitOutcome {
    Ready,
    TimedOut,
    /// No process is left on the other side.
    Disconnected,
}

/// The size of the two areas (bytes).
pub(crate) const AREAS: usize = 2 * AREA;
/// An area has two pairs of 64-byte cache lines; a CPU fetches a pair together.
const AREA: usize = 256;
/// In the first pair, after the lock that guards it: the peer's position when last loaded; the number of the
/// last ancillary packet sent (by producers) or consumed; and the state of the waiting policies.
const CACHED_PEER: usize = 48;
const ANCILLARY: usize = 56;
const FAILED_SPINS: usize = 64;
const NOTIFIED: usize = 68;
const COALESCING: usize = 72;
/// Words for what is built on the endpoint: [`Sender`](super::sender) and [`Receiver`](super::receiver).
pub(crate) const SCRATCH: [usize; 3] = [80, 84, 88];
/// In the second pair: this side's position, and the wakeup flag of the *other* side, which is loaded
/// whenever the position changes.
const POSITION: usize = 128;
const WAKEUP_FLAG: usize = 136;

/// How long a call that must not block waits for a thread that copies a message at that moment.
const TRY_LOCK_GRACE: Duration = Duration::from_millis(1);

thread_local! {
    /// This thread has just woken a peer and should yield to it before waiting.
    static WOKE_PEER: Cell<bool> = const { Cell::new(false) };
}

impl Endpoint {
    /// Initialises the areas of both sides, in zeroed memory, from the byte `start` on.
    pub(crate) fn create(memory: &SharedMemory, start: usize) {
        for side in [Side::Producers, Side::Consumers] {
            let area = start + side.area();
            Position::START.store_release(memory.word64(area + POSITION));
            Position::START.store_release(memory.word64(area + CACHED_PEER));
            memory.word64(area + ANCILLARY).store(just_before_overflow(4).into(), Relaxed);
            memory.word32(area + WAKEUP_FLAG).store(just_before_overflow(4), Relaxed);
            memory.word32(area + FAILED_SPINS).store(just_before_overflow(4), Relaxed);
            // The count of calls is its high half.
            memory.word32(area + COALESCING).store(just_before_overflow(4) << 16, Relaxed);
        }
    }

    /// The endpoint of a side, whose areas are initialised.
    pub(crate) fn new(
        memory: SharedMemory,
        start: usize,
        side: Side,
        fds: EndpointFds,
        times_out_early: bool,
    ) -> Self {
        let times_out_early = times_out_early && side == Side::Consumers;
        Self { memory, start, side, fds, times_out_early }
    }

    /// Takes this side's lock. Blocks while another thread holds it, until the deadline, and then returns
    /// `None`.
    ///
    /// A call that must not block returns `None` at once if this side's wakeup flag is set: the holder waits for the
    /// peer, and this call could get nothing either. Otherwise the holder copies a message, and the call waits for up
    /// to [`TRY_LOCK_GRACE`].
    #[inline]
    pub(crate) fn lock(&self, deadline: Deadline) -> Result<Option<MutexGuard<'_>>> {
        match self.mutex(self.side).try_lock() {
            Some(guard) => Ok(Some(guard)),
            None => self.lock_slow(deadline),
        }
    }

    #[cold]
    fn lock_slow(&self, deadline: Deadline) -> Result<Option<MutexGuard<'_>>> {
        let has_grace = deadline.is_over() && !self.own_flag().is_set();
        let deadline = if has_grace { Deadline::after(TRY_LOCK_GRACE) } else { self.shortened(deadline) };
        self.mutex(self.side).lock(deadline)
    }

    /// Frees this side's lock, for its only user.
    pub(crate) fn reset_lock(&self) {
        self.mutex(self.side).reset();
    }

    /// This side's position in the ring.
    #[inline]
    pub(crate) fn position(&self) -> Position {
        Position::load(self.word64(self.side, POSITION))
    }

    /// The peer's position when it was last refreshed.
    #[inline]
    pub(crate) fn cached_peer(&self) -> Position {
        Position::load(self.word64(self.side, CACHED_PEER))
    }

    #[inline]
    pub(crate) fn peer_position(&self) -> Position {
        Position::load(self.word64(self.side.other(), POSITION))
    }

    /// Loads the peer's position, also into [`cached_peer`](Self::cached_peer).
    pub(crate) fn refresh_peer(&self) -> Position {
        let position = self.peer_position();
        position.store_release(self.word64(self.side, CACHED_PEER));
        position
    }

    /// Publishes this side's position and wakes a waiting peer. Returns `false`, publishing nothing, if a
    /// consumer was waiting and every consumer is dead.
    #[inline]
    pub(crate) fn publish(&self, position: Position) -> bool {
        let flag = WakeupFlag(self.word32(self.side, WAKEUP_FLAG));
        // Checked before the change, since a woken consumer may take the messages and exit.
        if flag.is_set() && self.side == Side::Producers && self.peer_hung_up().unwrap_or(false) {
            return false;
        }
        failpoint::hit(Failpoint::Publishing);
        position.store_release(self.word64(self.side, POSITION));
        failpoint::hit(Failpoint::Published);
        if let Some(set) = flag.should_notify() {
            eventfd::notify(self.fds.eventfds[self.side.other().index()].as_fd());
            flag.clear(set);
            WOKE_PEER.set(!cfg!(loom)); // in a model, all threads have the same thread-locals
            failpoint::hit(Failpoint::PeerNotified);
        }
        true
    }

    /// Yields once after this thread has woken a peer, of this channel or another, if this side has nothing to receive
    /// and the deadline leaves time: the kernel may have queued the peer behind this thread on the same CPU. To be
    /// called before the lock is taken.
    #[inline]
    pub(crate) fn yield_to_woken(&self, deadline: Deadline) {
        if WOKE_PEER.get() && self.peer_position() == self.position() {
            WOKE_PEER.set(false);
            if deadline.has_slack() {
                thread::yield_now();
            }
        }
    }

    /// Makes the eventfd readable if something `is_ready`, and else has the peer make it readable, although no thread
    /// waits here. To be called under the lock, whenever that may have changed on this side.
    pub(crate) fn update_readiness(&self, is_ready: impl Fn() -> bool) {
        if !is_ready() {
            self.clear_eventfd();
            self.own_flag().set();
        }
        if is_ready() {
            eventfd::notify(self.eventfd().as_fd());
        }
    }

    pub(crate) fn peer_hung_up(&self) -> Result<bool> {
        if socket::is_surely_connected(self.fds.socket.as_fd()) {
            return Ok(false); // the faster call, and usually the answer
        }
        Ok(poll_event_or_hangup(self.eventfd().as_fd(), self.fds.socket.as_fd(), Some(Duration::ZERO))?
            .hung_up)
    }

    /// The number of frames in the ring. It may be off by what both sides do during the call.
    pub(crate) fn len(&self) -> u32 {
        let position = |side| Position::load(self.word64(side, POSITION));
        let mut head = position(Side::Consumers);
        let mut count = 0;
        // Repeated while consumers move; bounded, since a faulty process may move its position without end.
        for _ in 0..1000 {
            count = position(Side::Producers).frames_since(head);
            if replace(&mut head, position(Side::Consumers)) == head {
                break;
            }
        }
        count
    }

    pub(crate) fn memory(&self) -> &SharedMemory {
        &self.memory
    }

    pub(crate) fn fds(&self) -> &EndpointFds {
        &self.fds
    }

    pub(crate) fn eventfd(&self) -> &SharedFd {
        &self.fds.eventfds[self.side.index()]
    }

    pub(crate) fn side(&self) -> Side {
        self.side
    }

    /// A [word for the user](SCRATCH) in this side's area.
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
        Mutex::at(&self.memory, self.start + side.area(), self.fds.namespace)
    }

    #[inline]
    fn word32(&self, side: Side, offset: usize) -> &AtomicU32 {
        self.memory.word32(self.start + side.area() + offset)
    }

    #[inline]
    fn word64(&self, side: Side, offset: usize) -> &AtomicU64 {
        self.memory.word64(self.start + side.area() + offset)
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

    /// As after a kill between publishing and notifying.
    #[test]
    fn a_waiter_sees_what_was_published_without_a_notification() {
        let memory = SharedMemory::create(NonZeroUsize::new(AREAS).unwrap()).unwrap();
        Endpoint::create(&memory, 0);
        let eventfds = [eventfd::create().unwrap().into(), eventfd::create().unwrap().into()];
        let (from, to) = sockets().unwrap();
        let endpoint = |side, socket| {
            let eventfds = eventfds.clone();
            let fds = EndpointFds { socket, eventfds, namespace: thread_id::namespace() };
            Endpoint::new(memory.clone(), 0, side, fds, false)
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
            Position { frames: 1, ..Position::START }
                .store_release(producer.word64(Side::Producers, POSITION));
            assert_eq!(waiting.join().unwrap().unwrap(), WaitOutcome::Ready);
        });
    }
}
