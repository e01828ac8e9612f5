//! `RetryPolicy`: when an item whose worker has died runs again.

use std::time::Duration;

use crate::sys::clock::whole_millis;

/// How often the items of a call run again when their workers die, after which pauses, and how often in all.
/// For [`CallOptions::retry`](super::CallOptions::retry).
///
/// Only a death causes a retry: not a task's own error or panic, a time limit, or a cancellation.
///
/// ```
/// use multiproc::Pool;
/// use multiproc::pool::RetryPolicy;
/// use std::time::{Duration, Instant};
///
/// fn crash(_: u32) {
///     std::process::abort()
/// }
///
/// fn main() -> multiproc::Result<()> {
///     multiproc::init();
///     let pool = Pool::new(2)?;
///     let pauses = (Duration::from_millis(20), Duration::from_secs(1));
///     let policy = RetryPolicy::new(2).backoff(pauses.0, pauses.1).budget(100);
///     let begun = Instant::now();
///     let error = pool.options().retry(policy).apply(crash, (7,)).unwrap_err();
///     assert_eq!(error.attempts().len(), 2);
///     assert!(begun.elapsed() >= Duration::from_millis(20 + 40));
///     Ok(())
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct RetryPolicy {
    retries: u32,
    /// In milliseconds.
    first_pause: u32,
    max_pause: u32,
    /// [`UNLIMITED`] without a budget.
    budget: u32,
}

const UNLIMITED: u32 = u32::MAX;

impl RetryPolicy {
    /// At most `retries` further runs of each item, at once, as
    /// [`CallOptions::retries`](super::CallOptions::retries) has them.
    pub const fn new(retries: u32) -> Self {
        Self { retries, first_pause: 0, max_pause: 0, budget: UNLIMITED }
    }

    /// Sets the pause before an item's first retry. Each further pause of the item is twice the one before,
    /// up to `max`. Both are in whole milliseconds, rounded up, and at most 49 days. No pause by default.
    ///
    /// A pausing item occupies no worker, and other items run meanwhile. A call that returns results in input
    /// order returns those after it later; [`imap`](super::Pool::imap) takes a limited number ahead. The
    /// pause ends at once, with an error, when the item is cancelled or the pool ends. A
    /// [closed](super::Pool::close) pool runs it again.
    pub const fn backoff(mut self, first: Duration, max: Duration) -> Self {
        (self.first_pause, self.max_pause) = (whole_millis(first), whole_millis(max));
        self
    }

    /// Sets the number of retries of all items of the call together. Once it is spent, an item whose worker
    /// dies fails. So a call whose every item kills its worker ends soon. No limit by default.
    pub const fn budget(mut self, retries: u32) -> Self {
        self.budget = retries;
        self
    }

    /// Whether an item may run again that has died `deaths` times before, in a call that has had `of_call` retries.
    pub(super) fn allows(&self, deaths: usize, of_call: u32) -> bool {
        deaths < usize::try_from(self.retries).unwrap_or(usize::MAX)
            && (of_call < self.budget || self.budget == UNLIMITED)
    }

    /// The pause before an item runs again that has died `deaths` times.
    pub(super) fn pause(&self, deaths: usize) -> Duration {
        let doublings = u32::try_from(deaths.saturating_sub(1)).unwrap_or(u32::MAX);
        let factor = 1_u32.checked_shl(doublings).unwrap_or(u32::MAX);
        Duration::from_millis(self.first_pause.saturating_mul(factor).min(self.max_pause).into())
    }
}

/// No retries.
impl Default for RetryPolicy {
    fn default() -> Self {
        Self::new(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_pause_doubles_up_to_the_longest() {
        let policy = RetryPolicy::new(9).backoff(SECOND, 10 * SECOND);
        assert_eq!([1, 2, 3, 4, 5, 40].map(|deaths| policy.pause(deaths).as_secs()), [1, 2, 4, 8, 10, 10]);
        assert_eq!(RetryPolicy::new(9).pause(1), Duration::ZERO);
        let longest = RetryPolicy::new(9).backoff(Duration::MAX, Duration::MAX).pause(usize::MAX);
        assert_eq!(longest.as_secs() / 24 / 3600, 49);
        let short = RetryPolicy::new(9).backoff(Duration::from_nanos(1), SECOND);
        assert_eq!(short.pause(3), Duration::from_millis(4));
        assert_eq!(RetryPolicy::new(9).backoff(2 * SECOND, SECOND).pause(1), SECOND);
    }

    #[test]
    fn retries_end_with_the_item_s_number_or_the_call_s_budget() {
        let policy = RetryPolicy::new(2);
        assert!(policy.allows(0, u32::MAX) && policy.allows(1, 7) && !policy.allows(2, 0));
        let policy = policy.budget(5);
        assert!(policy.allows(1, 4) && !policy.allows(1, 5) && !policy.budget(0).allows(0, 0));
        assert!(!RetryPolicy::default().allows(0, 0));
    }
}
