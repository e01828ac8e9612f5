//! Runs the items of a chunk in the local pool.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use multiproc::Result;
use multiproc::pool::Canceller;
use tokio::sync::OwnedSemaphorePermit;

use super::Agent;
use crate::protocol::WorkHeader;

/// Ends a run of items when it is dropped.
pub(super) struct StopOnDrop(pub(super) Arc<Stop>);

#[derive(Default)]
pub(super) struct Stop {
    is_set: AtomicBool,
    task: Mutex<Option<Canceller>>,
}

/// The results of a chunk, in the order of its items, and the work that they were.
pub(super) struct Ran {
    pub(super) results: Vec<Result<Vec<u8>>>,
    pub(super) work: Duration,
}

/// Blocks until all items have results. `None` if it is stopped, or if the pool has ended. In log records, the items
/// count from `number` on.
///
/// The place is free when most items have results: so the next chunk is there when the last item is done.
pub(super) fn run(
    agent: &Agent,
    (header, number): (&WorkHeader, Option<u64>),
    items: Vec<Vec<u8>>,
    stop: &Stop,
    place: OwnedSemaphorePermit,
) -> Option<Ran> {
    let count = items.len();
    let started = Instant::now();
    let active = agent.active.fetch_add(1, Relaxed) + 1;
    let results = run_items(agent, (header, number), items, stop, place);
    agent.active.fetch_sub(1, Relaxed);
    if !stop.is_set.load(Relaxed) {
        agent.pace().learn(header.function, started.elapsed());
    }
    let results = results?;
    if let Some(Err(error)) = results.iter().find(|result| result.as_ref().is_err_and(ends_pool)) {
        agent.fail(error.clone()); // other hosts run the chunk after the lease
        return None;
    }
    // The workers were shared with the other chunks.
    let workers = agent.workers.div_ceil(active).min(count).max(1);
    let work = started.elapsed() * u32::try_from(workers).unwrap_or(u32::MAX);
    Some(Ran { results, work })
}

fn run_items(
    agent: &Agent,
    (header, number): (&WorkHeader, Option<u64>),
    items: Vec<Vec<u8>>,
    stop: &Stop,
    place: OwnedSemaphorePermit,
) -> Option<Vec<Result<Vec<u8>>>> {
    let mut options = agent.pool.options().retries(header.retries).grace(header.grace).number_from(number);
    if let Some(timeout) = header.timeout {
        options = options.timeout(timeout);
    }
    if let [_] = items[..] {
        let item = items.into_iter().next()?;
        return Some(vec![options.submit_encoded(header.function, item).and_then(|task| {
            stop.cancels(task.canceller());
            task.get()
        })]);
    }
    let count = items.len();
    let (mut done, mut place) = (Vec::with_capacity(count), Some(place));
    let mut results = options.imap_encoded(header.function, items);
    while results.size_hint().0 > 0 {
        match results.next_timeout(STOP_INTERVAL) {
            Some(result) => {
                done.push(result);
                if count.saturating_sub(done.len()) <= count / 10 {
                    drop(place.take());
                }
            }
            // The last items turn out long: no other chunk should count on their workers.
            None if place.is_none() => place = Arc::clone(&agent.places).try_acquire_owned().ok(),
            None => {}
        }
        if stop.is_set.load(Relaxed) {
            results.kill();
            return None;
        }
    }
    Some(done)
}

/// How often a chunk of several items looks whether it is stopped while it has no result. A call of the pool with less
/// than 50 ms left would sleep at once, in place of a short spin.
const STOP_INTERVAL: Duration = Duration::from_millis(100);

/// Whether it is no error of an item, but of the pool: it cannot keep its workers.
fn ends_pool(error: &multiproc::Error) -> bool {
    error.is_closed() || error.is_start()
}

impl Stop {
    fn cancels(&self, task: Canceller) {
        let mut current = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_set.load(Relaxed) {
            task.cancel();
        }
        *current = Some(task);
    }
}

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        let task = self.0.task.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.is_set.store(true, Relaxed);
        if let Some(task) = &*task {
            task.cancel();
        }
    }
}
