//! Deadlines and waits for descriptors, without a clock.

use std::cell::Cell;
use std::time::Duration;

use super::EventFd;
use crate::error::Result;

loom::thread_local! {
    static HAS_SLEPT: Cell<bool> = Cell::new(false);
}

/// This thread has slept on a futex.
pub(super) fn slept() {
    HAS_SLEPT.with(|slept| slept.set(true));
}

/// No time passes in a model.
#[derive(Clone, Copy)]
pub(crate) enum Deadline {
    Never,
    Over,
    /// Over as soon as this thread has slept.
    AfterSleep,
}

impl Deadline {
    pub(crate) fn now() -> Self {
        Self::Over
    }

    pub(crate) fn after(_time: Duration) -> Self {
        Self::Over
    }

    pub(crate) fn left(self) -> Option<Duration> {
        self.is_over().then_some(Duration::ZERO)
    }

    pub(crate) fn or_within(self, _time: Duration) -> Self {
        self
    }

    pub(crate) fn has_slack(self) -> bool {
        !self.is_over()
    }

    pub(crate) fn is_over(self) -> bool {
        match self {
            Self::Never => super::failpoint::is_dead(),
            Self::Over => true,
            Self::AfterSleep => super::failpoint::is_dead() || HAS_SLEPT.with(Cell::get),
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PollEvents {
    pub(crate) readable: bool,
    pub(crate) hung_up: bool,
}

/// The other end stays open while the model runs.
#[allow(clippy::unnecessary_wraps)] // as the library has it
pub(crate) fn poll_event_or_hangup(
    event: &EventFd,
    _socket: &EventFd,
    time: Option<Duration>,
) -> Result<PollEvents> {
    if time.is_none() {
        event.poll();
    }
    Ok(PollEvents { readable: time.is_none(), hung_up: false })
}
