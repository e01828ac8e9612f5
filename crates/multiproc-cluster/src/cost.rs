//! The estimated cost of an item, and how many make a chunk.

use std::time::Duration;

/// The work that makes a chunk worth a round trip.
const TARGET_CHUNK_TIME: Duration = Duration::from_millis(50);
/// The maximum number of items of a chunk, and the maximum growth over those whose cost is known.
const MAX_CHUNK_LEN: u64 = 32 * 1024;
const MAX_GROWTH: u64 = 16;

/// The estimated cost of an item.
#[derive(Default)]
pub(crate) struct Cost {
    estimate: Option<Estimate>,
}

struct Estimate {
    /// The time of an item, in nanoseconds.
    nanos: u64,
    /// The size of its result.
    bytes: u64,
    /// The number of items of the largest chunk that these were learnt from.
    largest: u64,
}

impl Cost {
    pub(crate) fn learn(&mut self, count: u32, work: Duration, bytes: usize) {
        let count = u64::from(count.max(1));
        let nanos = u64::try_from(work.as_nanos()).unwrap_or(u64::MAX) / count;
        let bytes = bytes as u64 / count;
        let mean = |before: u64, now: u64| (before.saturating_mul(3).saturating_add(now)) / 4;
        self.estimate = Some(match &self.estimate {
            Some(before) => Estimate {
                nanos: mean(before.nanos, nanos),
                bytes: mean(before.bytes, bytes).max(bytes),
                largest: before.largest.max(count),
            },
            None => Estimate { nanos, bytes, largest: count },
        });
    }

    /// The number of items that are worth a round trip, and whose results take at most about `max_bytes`.
    pub(crate) fn target_len(&self, max_bytes: usize) -> u64 {
        let Some(Estimate { nanos, bytes, largest }) = self.estimate else { return 1 };
        let target = u64::try_from(TARGET_CHUNK_TIME.as_nanos()).unwrap_or(u64::MAX);
        let by_size = max_bytes as u64 / bytes.max(1);
        (target / nanos.max(1)).min(by_size).clamp(1, MAX_CHUNK_LEN).min(largest * MAX_GROWTH)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_grow_to_the_target_time_and_not_at_once() {
        const BYTES: usize = 1 << 20;
        let mut cost = Cost::default();
        assert_eq!(cost.target_len(BYTES), 1);
        cost.learn(1, Duration::from_micros(1), 1);
        assert_eq!(cost.target_len(BYTES), MAX_GROWTH);
        for _ in 0..50 {
            cost.learn(u32::try_from(cost.target_len(BYTES)).unwrap(), Duration::from_millis(16), 1);
        }
        let slow = Duration::from_millis(25) * 4;
        for _ in 0..50 {
            cost.learn(4, slow, 1);
        }
        assert_eq!(cost.target_len(BYTES), 2);
    }

    #[test]
    fn the_results_of_a_chunk_take_about_so_many_bytes_at_most() {
        let mut cost = Cost::default();
        for _ in 0..50 {
            cost.learn(100, Duration::from_micros(1), 100_000);
        }
        assert_eq!(cost.target_len(50_000), 50);
        // A larger size counts at once, a smaller one by and by.
        cost.learn(10, Duration::from_micros(1), 100_000);
        assert_eq!(cost.target_len(50_000), 5);
        cost.learn(5, Duration::from_micros(1), 0);
        assert_eq!(cost.target_len(50_000), 6);
        cost.learn(1, Duration::from_micros(1), 1 << 30);
        assert_eq!(cost.target_len(50_000), 1);
    }
}
