//! How long the chunks of each function take: whether one may be pulled ahead of a free place.

use std::collections::HashMap;
use std::time::Duration;

use multiproc::pool::encoded::FunctionId;

/// The time of the last chunk of each function that has run lately.
#[derive(Default)]
pub(super) struct Pace(HashMap<FunctionId, Duration>);

/// More than a program has for its pools. A message may name any number of functions, there or not.
const MAX_FUNCTIONS: usize = 1024;
/// A chunk that takes longer loses nothing by a round trip to the broker, which takes less than a
/// millisecond.
const SHORT: Duration = Duration::from_millis(100);
/// How long a chunk may wait at a host for a free place: for the end of a short one, on a busy machine.
pub(super) const MAX_WAIT: Duration = Duration::from_millis(200);

impl Pace {
    pub(super) fn learn(&mut self, function: FunctionId, time: Duration) {
        if self.0.len() >= MAX_FUNCTIONS && !self.0.contains_key(&function) {
            self.0.clear(); // those that still run are learnt again by one chunk each
        }
        self.0.insert(function, time);
    }

    /// Whether a chunk of the function is over soon. What has not run yet may take long.
    pub(super) fn is_short(&self, function: FunctionId) -> bool {
        self.0.get(&function).is_some_and(|&time| time <= SHORT)
    }
}

#[cfg(test)]
mod tests {
    use multiproc::pool::encoded;

    use super::*;

    fn function(number: u64) -> FunctionId {
        let mut bytes = Vec::new();
        encoded::encode(&(number, number), &mut bytes, "a function").unwrap();
        encoded::decode(&bytes, "a function").unwrap()
    }

    #[test]
    fn functions_without_number_take_no_more_memory_than_those_of_a_program() {
        let mut pace = Pace::default();
        for number in 0..3 * MAX_FUNCTIONS as u64 {
            pace.learn(function(number), Duration::ZERO);
            assert!(pace.is_short(function(number)));
        }
        assert!(pace.0.len() <= MAX_FUNCTIONS, "{}", pace.0.len());
    }

    #[test]
    fn what_has_not_run_is_not_short() {
        let mut pace = Pace::default();
        assert!(!pace.is_short(function(0)));
        pace.learn(function(0), SHORT * 2);
        assert!(!pace.is_short(function(0)));
        pace.learn(function(0), SHORT);
        assert!(pace.is_short(function(0)));
    }
}
