//! What an item costs: how many of them take the target time of a chunk, learnt from results.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::sys::private_mutex::PrivateMutex;
use crate::task::TaskId;

/// The target time of a chunk: much longer than its dispatch (about 30 µs), and short enough that the
/// workers finish together at the end of the input.
pub(crate) const TARGET_CHUNK_TIME: Duration = Duration::from_millis(1);
/// The maximum items of a chunk, and the maximum growth over the chunk before.
const MAX_CHUNK_LEN: u64 = 32 * 1024;
const MAX_GROWTH: u64 = 64;

/// The cost of a call's items.
pub(crate) struct CostEstimate {
    target_chunk_len: AtomicU64,
}

impl Default for CostEstimate {
    fn default() -> Self {
        Self { target_chunk_len: AtomicU64::new(1) }
    }
}

impl CostEstimate {
    /// Learns from some items and their total time.
    pub(crate) fn learn(&self, items: u32, nanos: u64) {
        let items = u64::from(items);
        let target_nanos = u64::try_from(TARGET_CHUNK_TIME.as_nanos()).unwrap_or(u64::MAX);
        let target_chunk_len = (target_nanos * items).checked_div(nanos).unwrap_or(MAX_CHUNK_LEN);
        self.target_chunk_len
            .store(target_chunk_len.clamp(1, MAX_CHUNK_LEN).min(items * MAX_GROWTH).max(1), Relaxed);
    }

    /// The number of items that take the target time of a chunk.
    pub(crate) fn target_chunk_len(&self) -> u64 {
        self.target_chunk_len.load(Relaxed)
    }

    /// The time of `items` items.
    pub(crate) fn time_for(&self, items: u32) -> Duration {
        TARGET_CHUNK_TIME * items / u32::try_from(self.target_chunk_len()).unwrap_or(u32::MAX)
    }
}

/// The costs of the functions of which tasks were submitted one by one, the latest last.
#[derive(Default)]
pub(crate) struct FunctionCosts(PrivateMutex<Vec<(TaskId, Arc<CostEstimate>)>>);

/// The most functions that are remembered.
const MAX_FUNCTIONS: usize = 16;

impl FunctionCosts {
    /// What is known of a function, for its next task.
    pub(crate) fn of(&self, task: TaskId) -> Arc<CostEstimate> {
        let Some(mut known) = self.0.lock() else { return Arc::default() };
        match known.iter().rposition(|(other, _)| *other == task) {
            Some(index) if index + 1 == known.len() => {}
            Some(index) => known[index..].rotate_left(1),
            None => {
                if known.len() == MAX_FUNCTIONS {
                    known.remove(0);
                }
                known.push((task, Arc::default()));
            }
        }
        known.last().map(|(_, cost)| Arc::clone(cost)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::call::{Call, Options};
    use crate::task::RunOnce;

    #[test]
    fn an_estimate_grows_by_steps_and_shrinks_at_once() {
        let cost = CostEstimate::default();
        assert_eq!(cost.time_for(1), TARGET_CHUNK_TIME);
        cost.learn(1, 100);
        assert_eq!(cost.target_chunk_len(), 64);
        cost.learn(64, 6400);
        assert_eq!(cost.target_chunk_len(), 4096);
        cost.learn(4096, 409_600);
        assert_eq!((cost.target_chunk_len(), cost.time_for(10)), (10_000, Duration::from_micros(1)));
        cost.learn(1, 5_000_000);
        assert_eq!(cost.target_chunk_len(), 1);
        cost.learn(1, 0);
        assert_eq!(cost.target_chunk_len(), 64);
    }

    #[test]
    fn a_worker_gets_few_single_tasks_however_short() {
        let cost = Arc::new(CostEstimate::default());
        cost.learn(1000, 1000);
        let task = TaskId::of::<RunOnce, _, (u8,)>(|_: u8| ()).unwrap();
        let [single, many] =
            [true, false].map(|is_single| Call::new(task, Options::default(), is_single, Arc::clone(&cost)));
        assert_eq!((single.most_in_flight(), many.most_in_flight()), (32, 65_536));
    }

    #[test]
    fn the_latest_functions_are_known() {
        let task = |number: u8| match number {
            0 => TaskId::of::<RunOnce, _, (u8,)>(|_: u8| ()),
            1 => TaskId::of::<RunOnce, _, (u16,)>(|_: u16| ()),
            _ => TaskId::of::<RunOnce, _, (u32,)>(|_: u32| ()),
        };
        let [first, second, third] = [0, 1, 2].map(|number| task(number).unwrap());
        let costs = FunctionCosts::default();
        let of_first = costs.of(first);
        for _ in 0..2 * MAX_FUNCTIONS {
            for task in [second, third, first] {
                costs.of(task);
            }
        }
        assert!(Arc::ptr_eq(&of_first, &costs.of(first)) && !Arc::ptr_eq(&of_first, &costs.of(second)));
    }
}
