//! One side of a ring that many may write and many may read: its lock, how far it has come, and how it waits.
//!
//! Both sides are made alike. Each has an area of its own in shared memory, which holds a lock and what is guarded by it;
//! and a line of memory that it writes and the other side looks at. A packet wakes one who waits, on a pair of sockets of
//! which one side shares the one end and the other side the other. So the kernel knows, whoever was killed, whether
//! anybody is left on a side.

use std::hint;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use crate::alarm::Alarm;
use crate::error::Result;
use crate::ring::Mark;
use crate::sys::atomic::{AtomicU32, AtomicU64, Relaxed};
use crate::sys::lock::{Guard, Lock, OTHERS_RUN};
use crate::sys::poll::{Deadline, PollFlags, events};
use crate::sys::socket;
use crate::wire::{Handle, Pages};

/// Who puts frames into the ring, or who takes them out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Producers,
    Consumers,
}

#[derive(Debug)]
pub(crate) struct Lane {
    pages: Pages,
    socket: Handle,
    side: Side,
    start: usize,
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

/// The first byte of a packet that only wakes. It may be thrown away.
const BELL: u8 = 0;
/// The first byte of a packet that belongs to a frame. It comes before the frame does.
pub(crate) const COMPANION: u8 = 1;

/// How many bytes of shared memory the two areas take up.
pub(crate) const AREAS: usize = 2 * AREA;
/// An area is made of lines that are fetched from memory together: two times 64 bytes.
const AREA: usize = 256;
/// In the first line of an area, guarded by the lock in it: how far the other side was when last looked at, how many
/// packets have been sent that belong to frames, and the habits of waiting.
const SEEN: usize = 48;
const COMPANIONS: usize = 56;
const VAIN: usize = 64;
const RUNG: usize = 68;
/// Two words more for who uses the lane.
pub(crate) const NOTE: usize = 72;
pub(crate) const NOTES: usize = 80;
/// In the second: how far this side has come, and the alarm of the *other* side, looked at whenever the former changes.
const MARK: usize = 128;
const ALARM: usize = 136;

/// How long to wait without sleeping. More than a sleeper needs to wake up, or two who answer each other would never be
/// awake at the same time.
const SPIN: Duration = Duration::from_micros(12);
/// One who has not been lucky so many times in a row tries it only now and then.
const PATIENT: u32 = 4;
const NOW_AND_THEN: u32 = 32;
/// How long to sleep where it is not sure that someone will wake us: when the other side was in the middle of something,
/// and may die before it says so.
const A_WHILE: Duration = Duration::from_millis(50);
/// How long one who does not want to wait waits for another who is just putting or taking something.
const A_MOMENT: Duration = Duration::from_millis(1);

impl Lane {
    /// Makes both sides' areas, in zeroed memory.
    pub(crate) fn create(pages: &Pages, start: usize) -> Result<()> {
        Lock::create(pages, start)?;
        Lock::create(pages, start + AREA)
    }

    pub(crate) fn new(pages: Pages, start: usize, side: Side, socket: Handle) -> Self {
        Self { pages, socket, side, start }
    }

    /// Takes this side's lock; blocks while another holds it, until the deadline, then gives `None`.
    ///
    /// One who does not want to wait comes back empty-handed if another is waiting, since then there is nothing to be had;
    /// and waits for a moment if another is just putting or taking something.
    #[inline]
    pub(crate) fn enter(&self, deadline: Deadline) -> Result<Option<Guard<'_>>> {
        match self.lock(self.side).try_lock()? {
            Some(guard) => Ok(Some(guard)),
            None => self.enter_later(deadline),
        }
    }

    #[cold]
    fn enter_later(&self, deadline: Deadline) -> Result<Option<Guard<'_>>> {
        let deadline = match deadline.left() {
            Some(Duration::ZERO) if self.own_alarm().before().is_some() => return Ok(None),
            Some(left) if left < A_MOMENT => Deadline::after(A_MOMENT),
            _ => deadline,
        };
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

    /// Lets the other side see how far this one has come, and wakes who waits for it. A producer publishes nothing, and is
    /// told so with false, when one waited and is gone.
    #[inline]
    pub(crate) fn publish(&self, mark: Mark) -> Result<bool> {
        let alarm = Alarm(self.word32(self.side, ALARM));
        if let Some(armed) = alarm.before() {
            if !self.ring()? && self.side == Side::Producers {
                return Ok(false);
            }
            alarm.disarm(armed);
        }
        mark.publish(self.word64(self.side, MARK));
        if let Some(armed) = alarm.after()
            && self.ring().is_ok_and(|heard| heard)
        {
            alarm.disarm(armed); // else who sends the next wakes him, or the hang-up does
        }
        Ok(true)
    }

    /// Waits until `is_ready`, which something that the other side publishes makes it; to be called under the lock.
    pub(crate) fn wait(&self, is_ready: impl Fn() -> bool, deadline: Deadline) -> Result<Waited> {
        if deadline.is_over() {
            let gone = self.is_abandoned()?; // looked at first: what was published before they went counts
            return Ok(if is_ready() { Waited::Ready } else if gone { Waited::Gone } else { Waited::NotYet });
        }
        if self.spin(&is_ready) {
            return Ok(Waited::Ready);
        }
        self.throw_away_what_woke_us();
        loop {
            let news = self.sleep(&is_ready, deadline)?;
            if is_ready() {
                self.word32(self.side, RUNG).store(news.contains(PollFlags::POLLIN).into(), Relaxed);
                return Ok(Waited::Ready);
            }
            if news.contains(PollFlags::POLLHUP) {
                return Ok(Waited::Gone);
            }
            if news.contains(PollFlags::POLLIN) {
                self.throw_packets_away(&is_ready, deadline)?;
            }
            if deadline.is_over() {
                return Ok(if is_ready() { Waited::Ready } else { Waited::NotYet });
            }
        }
    }

    /// Sleeps until a packet comes, all on the other side are gone, or the deadline; or does not, where it is ready.
    fn sleep(&self, is_ready: &impl Fn() -> bool, deadline: Deadline) -> Result<PollFlags> {
        let alarm = self.own_alarm();
        let armed = alarm.arm();
        let nobody_inside = self.lock(self.side.other()).try_lock()?.is_some();
        let news = if is_ready() {
            PollFlags::empty()
        } else {
            let time = if nobody_inside { deadline.left() } else { Some(within(A_WHILE, deadline)) };
            events(self.socket.as_fd(), PollFlags::POLLIN, time)?
        };
        alarm.disarm(armed);
        Ok(news)
    }

    /// Waits for a little without sleeping, unless that has proved to be in vain.
    fn spin(&self, is_ready: &impl Fn() -> bool) -> bool {
        let vain = self.word32(self.side, VAIN);
        let times = vain.load(Relaxed);
        vain.store(times.wrapping_add(1), Relaxed);
        if !*OTHERS_RUN || times >= PATIENT && !times.is_multiple_of(NOW_AND_THEN) {
            return false;
        }
        let start = Instant::now();
        while start.elapsed() < SPIN {
            for _ in 0..16 {
                if is_ready() {
                    vain.store(0, Relaxed);
                    return true;
                }
                hint::spin_loop();
            }
        }
        false
    }

    /// Nothing is ready, and yet there are packets: throws away what has done its work, or has none to do.
    fn throw_packets_away(&self, is_ready: &impl Fn() -> bool, deadline: Deadline) -> Result<()> {
        while let Some(([kind], _)) = socket::first(self.socket.as_fd()) {
            if kind != BELL {
                // Its frame is about to come, or its sender has died in between. Once nobody is inside, we know.
                let patience = Deadline::after(within(A_WHILE, deadline));
                let nobody_inside = self.lock(self.side.other()).lock(patience)?;
                if nobody_inside.is_none() || is_ready() {
                    return Ok(());
                }
            }
            socket::discard(self.socket.as_fd());
        }
        Ok(())
    }

    /// A packet woke us the last time, and was left because there were better things to do.
    fn throw_away_what_woke_us(&self) {
        let rung = self.word32(self.side, RUNG);
        if rung.load(Relaxed) != 0 {
            rung.store(0, Relaxed);
            if matches!(socket::first(self.socket.as_fd()), Some(([BELL], _))) {
                socket::discard(self.socket.as_fd());
            }
        }
    }

    /// Makes the next thing that the other side publishes send a packet, though nobody waits here. To be called under the
    /// lock, when nothing `is_ready`; says whether that is still so. Then no packet is left that has done its work.
    pub(crate) fn expect_packet(&self, is_ready: impl Fn() -> bool) -> Result<bool> {
        self.throw_packets_away(&is_ready, Deadline::now())?;
        let alarm = self.own_alarm();
        let armed = alarm.arm();
        if is_ready() {
            alarm.disarm(armed);
            return Ok(false);
        }
        Ok(true)
    }

    /// Is nobody left on the other side?
    pub(crate) fn is_abandoned(&self) -> Result<bool> {
        let news = events(self.socket.as_fd(), PollFlags::empty(), Some(Duration::ZERO))?;
        Ok(news.contains(PollFlags::POLLHUP))
    }

    /// The number of the next packet that belongs to a frame. It is used up even if its sender dies.
    pub(crate) fn next_companion(&self) -> u64 {
        let companions = self.word64(self.side, COMPANIONS);
        let number = companions.load(Relaxed) + 1;
        companions.store(number, Relaxed);
        number
    }

    /// How many frames are in the ring.
    pub(crate) fn inside(&self) -> u32 {
        loop {
            let head = Mark::seen(self.word64(Side::Consumers, MARK));
            let tail = Mark::seen(self.word64(Side::Producers, MARK));
            if head == Mark::seen(self.word64(Side::Consumers, MARK)) {
                return tail.frames_since(head);
            }
        }
    }

    pub(crate) fn pages(&self) -> &Pages {
        &self.pages
    }

    pub(crate) fn socket(&self) -> &Handle {
        &self.socket
    }

    pub(crate) fn side(&self) -> Side {
        self.side
    }

    /// A word for who uses the lane, in this side's area.
    #[inline]
    pub(crate) fn note(&self, offset: usize) -> &AtomicU32 {
        self.word32(self.side, offset)
    }

    /// Says whether anybody is there to hear it.
    #[cold]
    fn ring(&self) -> Result<bool> {
        socket::ring(self.socket.as_fd(), BELL)
    }

    fn own_alarm(&self) -> Alarm<'_> {
        Alarm(self.word32(self.side.other(), ALARM))
    }

    #[inline]
    fn lock(&self, side: Side) -> Lock<'_> {
        Lock::at(&self.pages, self.start + side.area())
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

impl AsFd for Lane {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
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
    fn area(self) -> usize {
        match self {
            Self::Producers => 0,
            Self::Consumers => AREA,
        }
    }
}

fn within(time: Duration, deadline: Deadline) -> Duration {
    deadline.left().map_or(time, |left| left.min(time))
}
