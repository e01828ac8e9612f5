//! How long the chunks of each function take: whether one may be pulled ahead of a free place.

use std::collections::HashMap;
use std::time::Duration;

use multiproc::pool::encoded::FunctionId;

/// The time of the last chunk of each function of the program.
#[derive(Default)]
pub(super) struct Pace(HashMap<FunctionId, Duration>);

/// A chunk that takes longer loses nothing by a round trip to the broker, which takes less than a
/// millisecond.
const SHORT: Duration = Duration::from_millis(100);
/// How long a chunk may wait at a host for a free place: for the end of a short one, on a busy machine.
pub(super) const MAX_WAIT: Duration = Duration::from_millis(200);

impl Pace {
    pub(super) fn learn(&mut self, function: FunctionId, time: Duration) {
        self.0.insert(function, time);
    }

    /// Whether a chunk of the function is over soon. What has not run yet may take long.
    pub(super) fn is_short(&self, function: FunctionId) -> bool {
        self.0.get(&function).is_some_and(|&time| time <= SHORT)
    }
}
