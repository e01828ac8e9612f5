//! The queue of chunks that no worker has yet.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::mem::{replace, take};
use std::ops::RangeInclusive;
use std::sync::Arc;

use crate::error::{Cause, Error};
use crate::pool::call::Call;
use crate::pool::chunk::Chunk;
use crate::sys::running_time::RunningTime;

/// A queue, ordered by [sort key](Call::sort_key). Adding a chunk, taking the first one, and withdrawing all
/// chunks of a call take constant time, apart from chunks that are put back, and the removal of withdrawn ones.
///
/// Chunks of one priority are in the order of their keys when they are added, so each priority has a queue. The
/// first chunk of all is the first one of a queue.
///
/// Withdrawn chunks stay until they reach the front, or until they outnumber the others; then all of them are
/// removed. Their descriptors are closed at once: what waits for the other end of a queue must see that it is closed,
/// though the chunks in front never end.
#[derive(Default)]
pub(super) struct Backlog {
    /// One for each priority that was ever used, the highest first. At most 256.
    queues: Vec<Queue>,
    /// The index of the queue from which [`front_mut`](Backlog::front_mut) has returned the first chunk.
    front: usize,
    /// The number of withdrawn chunks in the queues.
    withdrawn: usize,
    /// Chunks to be retried, which enter the queue when their pause ends.
    pausing: BTreeMap<Pause, Chunk>,
    /// The same by the [address] of their calls, so that a call's are found among those of many calls.
    pauses_of_calls: BTreeSet<(usize, Pause)>,
    /// The number of pauses that have begun.
    pauses: u64,
}

/// When a pause ends, and its number.
type Pause = (RunningTime, u64);

/// The chunks of a priority, in the order of their keys.
struct Queue {
    priority: i8,
    /// The key of the chunk that was added last.
    last_key: i64,
    chunks: VecDeque<Chunk>,
}

/// Fewer withdrawn chunks than this do not cause a sweep.
const MIN_SWEEP: usize = 64;

impl Queue {
    fn key(&self) -> Option<i64> {
        self.chunks.front().map(|chunk| chunk.sort_key)
    }

    /// Adds a chunk behind all others. It has a key of its own, for the clock of keys stands still between its ticks.
    fn push(&mut self, mut chunk: Chunk, now: u64) {
        self.last_key = chunk.call.sort_key(now).max(self.last_key.saturating_add(1));
        chunk.sort_key = self.last_key;
        self.chunks.push_back(entered(chunk));
    }

    /// Adds a chunk in front of others of the same key. It was taken from the front, so few are before it.
    fn put_back(&mut self, chunk: Chunk) {
        let index = self.chunks.partition_point(|other| other.sort_key < chunk.sort_key);
        self.chunks.insert(index, entered(chunk));
    }

    /// Closes the descriptors in a call's chunks with these keys.
    fn close_descriptors(&mut self, call: &Arc<Call>, keys: RangeInclusive<i64>) {
        let start = self.chunks.partition_point(|chunk| chunk.sort_key < *keys.start());
        let with_keys = self.chunks.range_mut(start..).take_while(|chunk| chunk.sort_key <= *keys.end());
        with_keys.filter(|chunk| Arc::ptr_eq(&chunk.call, call)).for_each(Chunk::close_descriptors);
    }
}

impl Backlog {
    /// Adds chunks that are submitted `now`, in nanoseconds of the coarse clock.
    pub(super) fn extend(&mut self, chunks: impl Iterator<Item = Chunk>, now: u64) {
        for chunk in chunks.filter(is_wanted) {
            self.queue(&chunk.call).push(chunk, now);
        }
    }

    /// The queue for chunks of this call.
    fn queue(&mut self, call: &Call) -> &mut Queue {
        let priority = call.options.priority;
        let index = self.queues.partition_point(|queue| queue.priority > priority);
        if self.queues.get(index).is_none_or(|queue| queue.priority != priority) {
            self.queues.insert(index, Queue { priority, last_key: i64::MIN, chunks: VecDeque::new() });
        }
        &mut self.queues[index]
    }

    /// Puts chunks back to where they were, in front of others of the same key. Those of a withdrawn call fail.
    pub(super) fn put_back(&mut self, chunks: Vec<Chunk>) {
        for chunk in chunks.into_iter().rev() {
            if is_wanted(&chunk) {
                self.queue(&chunk.call).put_back(chunk);
            } else {
                chunk.fail(&Error::new(Cause::Cancelled));
            }
        }
    }

    /// Puts back chunks whose worker died with them, each after its pause.
    pub(super) fn run_again(&mut self, chunks: Vec<Chunk>) {
        for chunk in chunks.into_iter().rev() {
            let pause = chunk.call.options.retry.pause(chunk.deaths.len());
            let Some(until) = RunningTime::after(pause).filter(|_| !pause.is_zero()) else {
                self.put_back(vec![chunk]);
                continue;
            };
            self.pauses += 1;
            let pause = (until, self.pauses);
            self.pauses_of_calls.insert((address(&chunk.call), pause));
            self.pausing.insert(pause, chunk);
        }
    }

    /// When the next pause ends.
    pub(super) fn pauses_until(&self) -> Option<RunningTime> {
        self.pausing.first_key_value().map(|((until, _), _)| *until)
    }

    /// Puts back the chunks whose pause is over; returns whether there were any.
    #[inline]
    pub(super) fn end_pauses(&mut self) -> bool {
        !self.pausing.is_empty() && self.end_pauses_now()
    }

    #[cold]
    fn end_pauses_now(&mut self) -> bool {
        let now = RunningTime::now();
        let later = self.pausing.split_off(&(now, u64::MAX));
        let over = replace(&mut self.pausing, later);
        for (pause, chunk) in &over {
            self.pauses_of_calls.remove(&(address(&chunk.call), *pause));
        }
        let is_any = !over.is_empty();
        self.put_back(over.into_values().collect());
        is_any
    }

    /// The next chunk to dispatch.
    pub(super) fn front_mut(&mut self) -> Option<&mut Chunk> {
        if self.withdrawn > 0 {
            self.drop_withdrawn_fronts();
        }
        self.front = match self.queues.len() {
            1 => 0, // in most programs
            _ => self.first_queue()?,
        };
        self.queues.get_mut(self.front)?.chunks.front_mut()
    }

    fn first_queue(&self) -> Option<usize> {
        let keys = self.queues.iter().enumerate().filter_map(|(index, queue)| Some((queue.key()?, index)));
        keys.min().map(|(_, index)| index)
    }

    #[cold]
    fn drop_withdrawn_fronts(&mut self) {
        for queue in &mut self.queues {
            while queue.chunks.front().is_some_and(|chunk| chunk.call.is_withdrawn()) {
                queue.chunks.pop_front();
                self.withdrawn -= 1;
            }
        }
    }

    /// Removes the chunk that [`front_mut`](Backlog::front_mut) has returned.
    pub(super) fn pop_front(&mut self) {
        if let Some(chunk) = self.queues.get_mut(self.front).and_then(|queue| queue.chunks.pop_front()) {
            chunk.call.leave_backlog(1);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.has_none_to_dispatch() && self.pausing.is_empty()
    }

    /// Whether no chunk waits for a worker.
    pub(super) fn has_none_to_dispatch(&self) -> bool {
        self.len() == self.withdrawn
    }

    fn len(&self) -> usize {
        self.queues.iter().map(|queue| queue.chunks.len()).sum()
    }

    /// The number of items in a pause.
    pub(super) fn pausing(&self) -> u64 {
        self.pausing.values().map(|chunk| u64::from(chunk.count)).sum()
    }

    /// The number of items that wait for a worker, counted up to `most`.
    pub(super) fn items(&self, most: usize) -> usize {
        let chunks = self.queues.iter().flat_map(|queue| &queue.chunks);
        let live = chunks.filter(|chunk| !chunk.call.is_withdrawn());
        let items: u64 = live.take(most).map(|chunk| u64::from(chunk.count)).sum();
        usize::try_from(items).unwrap_or(usize::MAX).min(most)
    }

    /// Withdraws all chunks of a call; returns whether there were any. No more of them will be dispatched.
    pub(super) fn withdraw(&mut self, call: &Arc<Call>) -> bool {
        let count = call.withdraw();
        self.withdrawn += count;
        if let Some(keys) = call.keys_with_descriptors().filter(|_| count > 0) {
            self.queue(call).close_descriptors(call, keys);
        }
        if self.withdrawn > MIN_SWEEP.max(self.len() / 2) {
            for Queue { chunks, .. } in &mut self.queues {
                chunks.retain(|chunk| !chunk.call.is_withdrawn());
                chunks.shrink_to(2 * chunks.len());
            }
            self.withdrawn = 0;
        }
        count > 0
    }

    /// Fails the pausing items of a call with `error`; returns whether there were any.
    pub(super) fn fail_pausing(&mut self, call: &Arc<Call>, error: &Error) -> bool {
        let call = address(call);
        let mut is_any = false;
        while let Some(&(other, pause)) = self.pauses_of_calls.range((call, Pause::default())..).next()
            && other == call
        {
            self.pauses_of_calls.remove(&(call, pause));
            if let Some(chunk) = self.pausing.remove(&pause) {
                chunk.fail(error);
                is_any = true;
            }
        }
        is_any
    }

    /// Fails every waiting item with `error`.
    pub(super) fn fail(&mut self, error: &Error) {
        let chunks = self.queues.iter_mut().flat_map(|queue| queue.chunks.drain(..));
        for chunk in chunks.filter(|chunk| !chunk.call.is_withdrawn()) {
            chunk.call.leave_backlog(1);
            chunk.fail(error);
        }
        self.pauses_of_calls.clear();
        for chunk in take(&mut self.pausing).into_values() {
            chunk.fail(error);
        }
        self.withdrawn = 0;
    }
}

/// Identifies a call, as long as there is a chunk of it.
fn address(call: &Arc<Call>) -> usize {
    Arc::as_ptr(call).addr()
}

fn is_wanted(chunk: &Chunk) -> bool {
    !chunk.call.is_withdrawn()
}

/// The chunk, which its call counts now.
fn entered(chunk: Chunk) -> Chunk {
    chunk.call.enter_backlog(chunk.holds_descriptors().then_some(chunk.sort_key));
    chunk
}
