//! `poll(2)` with deadlines, through signals.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollTimeout, poll, ppoll};
use nix::sys::time::TimeSpec;

pub(crate) use nix::poll::PollFlags;

use super::running_time::RunningTime;
use crate::error::{Error, Result};

/// Until when a call may block.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Deadline {
    Never,
    At(Instant),
    /// A limit: time for which the program is stopped does not count.
    Running(RunningTime),
    /// The call must not block.
    Immediate,
}

impl Deadline {
    /// Reads no clock.
    pub(crate) fn now() -> Self {
        Self::Immediate
    }

    /// Never, if the clock cannot represent that time.
    pub(crate) fn after(time: Duration) -> Self {
        Instant::now().checked_add(time).map_or(Self::Never, Self::At)
    }

    /// As [`after`](Self::after), of time for which the program runs.
    pub(crate) fn limit(time: Duration) -> Self {
        RunningTime::after(time).map_or(Self::Never, Self::Running)
    }

    /// The time left, or for which to sleep at most before asking again; `None` means without limit.
    pub(crate) fn left(self) -> Option<Duration> {
        match self {
            Self::Never => None,
            Self::Immediate => Some(Duration::ZERO),
            Self::At(instant) => Some(instant.saturating_duration_since(Instant::now())),
            Self::Running(instant) => Some(instant.sleep_time()),
        }
    }

    /// The earlier of this deadline and `time` from now.
    pub(crate) fn or_within(self, time: Duration) -> Self {
        match self.left() {
            Some(left) if left < time => self,
            _ => Self::after(time),
        }
    }

    /// Whether there is time to yield the CPU: on a busy machine, all other threads may run first.
    pub(crate) fn has_slack(self) -> bool {
        self.left().is_none_or(|left| left >= Duration::from_millis(50))
    }

    pub(crate) fn is_over(self) -> bool {
        self.left() == Some(Duration::ZERO)
    }
}

/// Waits until `fd` is ready for one of `events`, or hung up; returns whether that was before the deadline.
pub(crate) fn ready(fd: BorrowedFd<'_>, events: PollFlags, deadline: Deadline) -> Result<bool> {
    wait(&mut [PollFd::new(fd, events)], deadline)
}

/// Waits until either descriptor is readable or hung up; returns whether that was before the deadline.
pub(crate) fn poll_any(one: BorrowedFd<'_>, other: BorrowedFd<'_>, deadline: Deadline) -> Result<bool> {
    wait(&mut [one, other].map(|fd| PollFd::new(fd, PollFlags::POLLIN)), deadline)
}

/// Waits until one of these descriptors is ready for its events, or hung up; returns whether one is hung up, and `None`
/// at the deadline. Of any that are the same one is kept: the kernel polls no more than a process may have descriptors.
pub(crate) fn poll_all(
    these: &mut Vec<(BorrowedFd<'_>, PollFlags)>,
    deadline: Deadline,
) -> Result<Option<bool>> {
    these.sort_unstable_by_key(|(fd, events)| (fd.as_raw_fd(), events.bits()));
    these.dedup_by_key(|(fd, events)| (fd.as_raw_fd(), events.bits()));
    let mut polled: Vec<_> = these.iter().map(|(fd, events)| PollFd::new(*fd, *events)).collect();
    let is_ready = wait(&mut polled, deadline)?;
    let hung_up = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| events.contains(PollFlags::POLLHUP));
    Ok(is_ready.then(|| polled.iter().any(hung_up)))
}

fn wait(polled: &mut [PollFd<'_>], deadline: Deadline) -> Result<bool> {
    loop {
        match poll(polled, timeout(deadline)) {
            Ok(0) if !deadline.is_over() => {} // the longest timeout of `poll` is 24 days
            Ok(count) => return Ok(count > 0),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(Error::os("wait for a descriptor", errno)),
        }
    }
}

/// The result of [`poll_event_or_hangup`].
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PollEvents {
    pub(crate) readable: bool,
    pub(crate) hung_up: bool,
}

/// Waits until the eventfd `event` is readable or `socket` is hung up, for `time` at most. May return early.
pub(crate) fn poll_event_or_hangup(
    event: BorrowedFd<'_>,
    socket: BorrowedFd<'_>,
    time: Option<Duration>,
) -> Result<PollEvents> {
    let mut polled = [PollFd::new(event, PollFlags::POLLIN), PollFd::new(socket, PollFlags::empty())];
    // The kernel does not take longer timeouts than some 10^9 seconds.
    let time = time.filter(|time| time.as_secs() < u64::from(u32::MAX)).map(TimeSpec::from_duration);
    match ppoll(&mut polled, time, None) {
        Ok(_) => {
            let is = |at: usize, flag| polled[at].revents().is_some_and(|events| events.contains(flag));
            Ok(PollEvents { readable: is(0, PollFlags::POLLIN), hung_up: is(1, PollFlags::POLLHUP) })
        }
        Err(Errno::EINTR) => Ok(PollEvents::default()),
        Err(errno) => Err(Error::os("wait for a descriptor", errno)),
    }
}

/// Rounded up, so that the last fraction of a millisecond is not spent in a busy loop.
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
