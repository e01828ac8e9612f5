//! Deadlines and waits for descriptors, without a clock.

use std::cell::Cell;
use std::time::Duration;

pub(crate) use super::descriptors::poll_event_or_hangup;

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
    Immediate,
    /// Over as soon as this thread has slept.
    AfterSleep,
}

impl Deadline {
    pub(crate) fn now() -> Self {
        Self::Immediate
    }

    pub(crate) fn after(_time: Duration) -> Self {
        Self::Immediate
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
            Self::Immediate => true,
            Self::AfterSleep => super::failpoint::is_dead() || HAS_SLEPT.with(Cell::get),
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PollEvents {
    pub(crate) readable: bool,
    pub(crate) hung_up: bool,
}
