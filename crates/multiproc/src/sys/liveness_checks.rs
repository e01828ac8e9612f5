//! When a thread that waits checks whether the processes live for which it waits.

use std::time::{Duration, Instant};

use super::poll::Deadline;

/// The time before the first check. It doubles with each check.
const FIRST: Duration = Duration::from_millis(1);
/// The longest time between two checks. A process that dies wakes no thread, so this bounds how long a death
/// stays unnoticed.
const LONGEST: Duration = Duration::from_millis(500);

pub(crate) struct Checks {
    last: Instant,
    interval: Duration,
}

impl Checks {
    pub(crate) fn begin() -> Self {
        Self { last: Instant::now(), interval: FIRST }
    }

    pub(crate) fn are_due(&self) -> bool {
        self.last.elapsed() >= self.interval
    }

    /// Takes note of a check.
    pub(crate) fn done(&mut self) {
        *self = Self { last: Instant::now(), interval: (2 * self.interval).min(LONGEST) };
    }

    /// How long to sleep until the next check or the deadline.
    pub(crate) fn time(&self, deadline: Deadline) -> Duration {
        let until_check = self.interval.saturating_sub(self.last.elapsed());
        deadline.left().map_or(until_check, |left| left.min(until_check))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A thread can be woken in vain just before its check.
    #[test]
    fn a_sleep_lasts_what_is_left_of_the_interval() {
        for (passed, left) in [(400, 100), (600, 0)] {
            let last = Instant::now().checked_sub(Duration::from_millis(passed)).unwrap();
            let checks = Checks { last, interval: LONGEST };
            assert!(checks.time(Deadline::Never) <= Duration::from_millis(left), "after {passed} ms");
        }
    }
}
