//! Waiting for descriptors, with deadlines and through signals.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollTimeout, poll, ppoll};
use nix::sys::time::TimeSpec;

pub(crate) use nix::poll::PollFlags;

use crate::error::{Error, Result};

/// Until when a call may block.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Deadline {
    Never,
    At(Instant),
    /// Is over already: the call must not block.
    Immediate,
}

impl Deadline {
    /// A deadline that is already over: the call must not block. Needs no look at the clock.
    pub(crate) fn now() -> Self {
        Self::Immediate
    }

    /// So far away that the clock cannot say it means never.
    pub(crate) fn after(time: Duration) -> Self {
        Instant::now().checked_add(time).map_or(Self::Never, Self::At)
    }

    /// What is left of it; `None` means for ever.
    pub(crate) fn left(self) -> Option<Duration> {
        match self {
            Self::Never => None,
            Self::Immediate => Some(Duration::ZERO),
            Self::At(instant) => Some(instant.saturating_duration_since(Instant::now())),
        }
    }

    /// This one, or so far from now if that comes first.
    pub(crate) fn or_within(self, time: Duration) -> Self {
        match self.left() {
            Some(left) if left < time => self,
            _ => Self::after(time),
        }
    }

    /// Is there time to let others have the processor? On a busy machine that takes as long as the turns of all of them.
    pub(crate) fn has_slack(self) -> bool {
        self.left().is_none_or(|left| left >= Duration::from_millis(50))
    }

    pub(crate) fn is_over(self) -> bool {
        self.left() == Some(Duration::ZERO)
    }
}

/// Waits until `fd` is ready for one of `events` (or hung up); says whether it was before the deadline.
pub(crate) fn ready(fd: BorrowedFd<'_>, events: PollFlags, deadline: Deadline) -> Result<bool> {
    wait(&mut [PollFd::new(fd, events)], deadline)
}

/// Waits until there is something to read from either, or it is hung up; says whether that came before the deadline.
pub(crate) fn poll_any(one: BorrowedFd<'_>, other: BorrowedFd<'_>, deadline: Deadline) -> Result<bool> {
    wait(&mut [one, other].map(|fd| PollFd::new(fd, PollFlags::POLLIN)), deadline)
}

fn wait(polled: &mut [PollFd<'_>], deadline: Deadline) -> Result<bool> {
    loop {
        match poll(polled, timeout(deadline)) {
            Ok(0) if !deadline.is_over() => {} // the longest timeout that poll takes is some weeks
            Ok(count) => return Ok(count > 0),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(Error::system("wait for a descriptor", errno)),
        }
    }
}

/// What [`poll_event_or_hangup`] has seen.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PollEvents {
    pub(crate) rung: bool,
    pub(crate) hung_up: bool,
}

/// Waits until `event count` can be read or `socket` is hung up, for `time` at most. May return early.
pub(crate) fn poll_event_or_hangup(
    bell: BorrowedFd<'_>,
    socket: BorrowedFd<'_>,
    time: Option<Duration>,
) -> Result<PollEvents> {
    let mut polled = [PollFd::new(bell, PollFlags::POLLIN), PollFd::new(socket, PollFlags::empty())];
    // Beyond this the kernel does not count, and nobody waits.
    let time = time.filter(|time| time.as_secs() < u64::from(u32::MAX)).map(TimeSpec::from_duration);
    match ppoll(&mut polled, time, None) {
        Ok(_) => {
            let is = |at: usize, flag| polled[at].revents().is_some_and(|events| events.contains(flag));
            Ok(PollEvents { rung: is(0, PollFlags::POLLIN), hung_up: is(1, PollFlags::POLLHUP) })
        }
        Err(Errno::EINTR) => Ok(PollEvents::default()),
        Err(errno) => Err(Error::system("wait for a descriptor", errno)),
    }
}

/// Rounded up to whole milliseconds, lest a rest below one of them be spent in a busy loop.
pub(crate) fn milliseconds(deadline: Deadline) -> Option<i32> {
    if matches!(deadline, Deadline::Immediate) {
        return Some(0);
    }
    deadline.left().map(|left| i32::try_from(left.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX))
}

fn timeout(deadline: Deadline) -> PollTimeout {
    milliseconds(deadline)
        .map_or(PollTimeout::NONE, |ms| PollTimeout::try_from(ms).unwrap_or(PollTimeout::MAX))
}
