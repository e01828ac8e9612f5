//! How long a pool, or a caller of a server, waits during a shortage of file descriptors.

use std::time::{Duration, Instant};

/// After this time, whatever needs a descriptor fails at once, until one was available again.
const SHORTAGE_LIMIT: Duration = Duration::from_secs(1);

/// The first and the latest instant of a shortage.
#[derive(Default)]
pub(crate) struct Shortage(Option<(Instant, Instant)>);

impl Shortage {
    /// Records a failure; returns whether to retry.
    pub(crate) fn record_failure(&mut self) -> bool {
        let now = Instant::now();
        let first = match self.0 {
            Some((first, last)) if now.duration_since(last) < SHORTAGE_LIMIT => first,
            _ => now,
        };
        self.0 = Some((first, now));
        now.duration_since(first) < SHORTAGE_LIMIT
    }

    /// Records a success.
    pub(crate) fn record_success(&mut self) {
        self.0 = None;
    }
}
