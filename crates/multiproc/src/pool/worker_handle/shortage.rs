//! How long a pool waits for descriptors of which the system has none.

use std::time::{Duration, Instant};

/// How long a shortage is waited out. After that, what needs a descriptor fails at once, until one was had.
const SHORTAGE_LIMIT: Duration = Duration::from_secs(1);

/// A shortage of descriptors: when it was met first, and last.
#[derive(Default)]
pub(crate) struct Shortage(Option<(Instant, Instant)>);

impl Shortage {
    /// Notes that it was met; says whether it may still be waited out.
    pub(crate) fn meet(&mut self) -> bool {
        let now = Instant::now();
        let first = match self.0 {
            Some((first, last)) if now.duration_since(last) < SHORTAGE_LIMIT => first,
            _ => now,
        };
        self.0 = Some((first, now));
        now.duration_since(first) < SHORTAGE_LIMIT
    }

    /// Notes that there was a descriptor.
    pub(crate) fn end(&mut self) {
        self.0 = None;
    }
}
