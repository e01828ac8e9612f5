//! The queue of chunks that no worker has yet.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::mem::{replace, take};
use std::sync::Arc;

use crate::error::Error;
use crate::pool::call::Call;
use crate::pool::chunk::Chunk;
use crate::sys::running_time::RunningTime;

/// A queue, ordered by [sort key](Call::sort_key). Adding a chunk, taking the first one, and withdrawing all
/// chunks of a call take constant time.
///
/// Chunks of one priority are in the order of their keys when they are added, so each priority has a queue. The
/// first chunk of all is the first one of a queue.
///
/// Withdrawn chunks stay until they reach the front, or until they outnumber the others; then all of them are
/// removed.
#[derive(Default)]
pub(super) struct Backlog {
    /// One for each priority that was ever used, the highest first. At most 256.
    queues: Vec<Queue>,
    /// The index of the queue from which [`front_mut`](Backlog::front_mut) has returned the first chunk.
    front: usize,
    /// The number of withdrawn chunks in the queues.
    withdrawn: usize,
    /// Chunks that enter the queue at an instant.
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
    chunks: VecDeque<Chunk>,
}

/// Fewer withdrawn chunks than this do not cause a sweep.
const MIN_SWEEP: usize = 64;

impl Queue {
    fn key(&self) -> Option<i64> {
        self.chunks.front().map(|chunk| chunk.sort_key)
    }

    /// Adds a chunk after others of the same key. (The clock of keys never goes back, so it is the last one.)
    fn push(&mut self, chunk: Chunk) {
        if self.chunks.back().is_some_and(|last| last.sort_key > chunk.sort_key) {
            let index = self.chunks.partition_point(|other| other.sort_key <= chunk.sort_key);
            self.chunks.insert(index, chunk);
        } else {
            self.chunks.push_back(chunk);
        }
    }

    /// Adds a chunk in front of others of the same key. It was taken from the front, so few are before it.
    fn put_back(&mut self, chunk: Chunk) {
        let index = self.chunks.partition_point(|other| other.sort_key < chunk.sort_key);
        self.chunks.insert(index, chunk);
    }
}

impl Backlog {
    /// Adds chunks that are submitted `now`, in nanoseconds of the coarse clock.
    pub(super) fn extend(&mut self, chunks: impl Iterator<Item = Chunk>, now: u64) {
        for mut chunk in chunks.filter(admit) {
            chunk.sort_key = chunk.call.sort_key(now);
            self.queue(&chunk).push(chunk);
        }
    }

    /// The queue for this chunk.
    fn queue(&mut self, chunk: &Chunk) -> &mut Queue {
        let priority = chunk.call.options.priority;
        let index = self.queues.partition_point(|queue| queue.priority > priority);
        if self.queues.get(index).is_none_or(|queue| queue.priority != priority) {
            self.queues.insert(index, Queue { priority, chunks: VecDeque::new() });
        }
        &mut self.queues[index]
    }

    /// Puts chunks back to where they were, in front of others of the same key.
    pub(super) fn put_back(&mut self, chunks: Vec<Chunk>) {
        for chunk in chunks.into_iter().rev().filter(admit) {
            self.queue(&chunk).put_back(chunk);
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

/// Counts a chunk, unless its call is withdrawn.
fn admit(chunk: &Chunk) -> bool {
    let is_wanted = !chunk.call.is_withdrawn();
    if is_wanted {
        chunk.call.enter_backlog();
    }
    is_wanted
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use nix::time::{ClockId, clock_gettime};

    use super::*;
    use crate::pool::RetryPolicy;
    use crate::pool::call::{Options, ResultBatch};
    use crate::pool::chunk::ChunkBuilder;
    use crate::task::{RunOnce, TaskId};

    fn chunk(call: &Arc<Call>) -> impl Iterator<Item = Chunk> + use<> {
        let mut builder = ChunkBuilder::new(0);
        builder.add(&(7_u64,)).unwrap();
        builder.pack(call, 0)
    }

    fn call(priority: i8) -> Arc<Call> {
        let task = TaskId::of::<RunOnce, _, (u64,)>(|number: u64| number).unwrap();
        Call::new(task, Options { priority, ..Options::default() }, false)
    }

    /// The priorities of all chunks, in their order.
    fn drain(backlog: &mut Backlog) -> Vec<i8> {
        let mut priorities = Vec::new();
        while let Some(chunk) = backlog.front_mut() {
            priorities.push(chunk.call.options.priority);
            backlog.pop_front();
        }
        priorities
    }

    #[test]
    fn a_step_of_priority_is_worth_ten_seconds_of_waiting() {
        const SECOND: u64 = 1_000_000_000;
        let mut backlog = Backlog::default();
        for (second, priority) in [(100, 0), (100, -1), (105, 1), (109, 0), (111, 1), (122, 2), (121, 1)] {
            backlog.extend(chunk(&call(priority)), second * SECOND);
        }
        assert_eq!(drain(&mut backlog), [1, 0, 1, 2, 0, -1, 1]);
        // The same moment: by priority, and in the order of submission among equals.
        for (priority, number) in [(0, 1), (127, 2), (-128, 3), (0, 4)] {
            let mut chunks: Vec<_> = chunk(&call(priority)).collect();
            chunks[0].first = number;
            backlog.extend(chunks.into_iter(), 5);
        }
        let numbers: Vec<_> = std::iter::from_fn(|| {
            let number = backlog.front_mut()?.first;
            backlog.pop_front();
            Some(number)
        })
        .collect();
        assert_eq!(numbers, [2, 1, 4, 3]);
    }

    /// Adds chunks of priorities by turns; returns the time.
    fn time_to_add(count: u64, priorities: [i8; 2]) -> Duration {
        let calls = priorities.map(call);
        let mut backlog = Backlog::default();
        let begun = Instant::now();
        for number in 0..count {
            backlog.extend(chunk(&calls[usize::from(number % 2 == 0)]), number);
        }
        let time = begun.elapsed();
        let order = drain(&mut backlog);
        assert!(order.is_sorted_by(|one, next| one >= next) && order.len() as u64 == count);
        time
    }

    #[test]
    fn to_add_a_chunk_of_a_higher_priority_takes_constant_time() {
        // Caches that other programs fill may slow down one of the two.
        let ratio = |_| time_to_add(40_000, [0, 1]).as_secs_f64() / time_to_add(40_000, [0, 0]).as_secs_f64();
        let ratios = [0, 1, 2].map(ratio);
        assert!(ratios.iter().any(|&ratio| ratio < 5.0), "{ratios:?}");
    }

    #[test]
    fn what_is_put_back_keeps_its_rank() {
        let (low, high) = (call(0), call(1));
        let mut backlog = Backlog::default();
        backlog.extend(chunk(&low).chain(chunk(&low)), 5);
        let revoked: Vec<_> = backlog.queues[0].chunks.drain(..).collect();
        low.leave_backlog(2);
        backlog.extend(chunk(&high).chain(chunk(&low)), 6);
        backlog.put_back(revoked);
        assert_eq!(drain(&mut backlog), [1, 0, 0, 0]);
    }

    /// A call whose items are run again after this pause.
    fn pausing_call(pause: Duration) -> Arc<Call> {
        let task = TaskId::of::<RunOnce, _, (u64,)>(|number: u64| number).unwrap();
        let retry = RetryPolicy::new(9).backoff(pause, pause);
        Call::new(task, Options { retry, ..Options::default() }, false)
    }

    /// A chunk of the call, whose worker has died.
    fn dead(call: &Arc<Call>) -> Vec<Chunk> {
        let died = |mut chunk: Chunk| {
            chunk.deaths.push(Error::invalid("it died"));
            chunk
        };
        chunk(call).map(died).collect()
    }

    #[test]
    fn a_pausing_chunk_is_not_dispatched_before_its_pause_is_over() {
        const PAUSE: Duration = Duration::from_millis(20);
        let (soon, late, other) =
            (pausing_call(PAUSE), pausing_call(Duration::MAX), pausing_call(Duration::ZERO));
        let mut backlog = Backlog::default();
        let end = RunningTime::after(PAUSE);
        backlog.run_again(dead(&late));
        backlog.run_again(dead(&soon));
        assert!(backlog.front_mut().is_none() && !backlog.is_empty() && backlog.pausing() == 2);
        backlog.run_again(dead(&other));
        assert!(Arc::ptr_eq(&backlog.front_mut().unwrap().call, &other));
        backlog.pop_front();
        while !backlog.end_pauses() {
            assert!(backlog.pauses_until().is_some_and(|until| Some(until) >= end));
        }
        assert!(end.is_some_and(RunningTime::is_past) && backlog.pauses_of_calls.len() == 1);
        assert!(Arc::ptr_eq(&backlog.front_mut().unwrap().call, &soon));
        backlog.pop_front();
        let error = Error::invalid("it is over");
        assert!(backlog.fail_pausing(&late, &error) && late.take().len() == 1);
        assert!(backlog.is_empty() && !backlog.fail_pausing(&late, &error));
        backlog.run_again(dead(&late));
        backlog.fail(&error);
        assert!(backlog.is_empty() && late.has_arrived());
    }

    #[test]
    fn a_call_of_many_pausing_items_fails_alone_and_as_a_whole() {
        let (many, one) = (pausing_call(Duration::MAX), pausing_call(Duration::MAX));
        let mut backlog = Backlog::default();
        for _ in 0..100 {
            backlog.run_again(dead(&many));
        }
        backlog.run_again(dead(&one));
        assert!(backlog.fail_pausing(&many, &Error::invalid("it is cancelled")));
        assert!(backlog.pausing() == 1 && backlog.pauses_of_calls.len() == 1);
        assert!(!one.has_arrived() && many.take().len() == 100);
    }

    /// How long this thread has run, so that other load does not count.
    fn thread_time() -> Duration {
        Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap())
    }

    /// The time for each of `count` calls, each with one item in a pause, to cancel them one by one.
    fn time_to_cancel(count: u32) -> Duration {
        let calls: Vec<_> = (0..count).map(|_| pausing_call(Duration::MAX)).collect();
        let mut backlog = Backlog::default();
        for call in &calls {
            backlog.run_again(dead(call));
        }
        let error = Error::invalid("it is cancelled");
        let begun = thread_time();
        for call in calls.iter().rev() {
            assert!(backlog.fail_pausing(call, &error));
        }
        let time = thread_time().saturating_sub(begun);
        assert!(backlog.is_empty() && backlog.pauses_of_calls.is_empty());
        time / count
    }

    #[test]
    fn to_cancel_a_pausing_item_does_not_take_longer_the_more_there_are() {
        // Caches that other programs fill may slow down one of the two.
        let ratio = |_| time_to_cancel(20_000).as_secs_f64() / time_to_cancel(1_000).as_secs_f64();
        let ratios = [0, 1, 2].map(ratio);
        assert!(ratios.iter().any(|&ratio| ratio < 4.0), "{ratios:?}");
    }

    fn calls(count: usize) -> Vec<Arc<Call>> {
        let task = TaskId::of::<RunOnce, _, (u64,)>(|number: u64| number).unwrap();
        (0..count).map(|_| Call::new(task, Options::default(), false)).collect()
    }

    #[test]
    fn withdrawn_chunks_are_not_dispatched_and_do_not_stay() {
        let calls = calls(1_000);
        let mut backlog = Backlog::default();
        backlog.extend(calls.iter().flat_map(chunk), 1);
        for (number, call) in calls.iter().enumerate().filter(|(number, _)| number % 10 != 3) {
            assert!(backlog.withdraw(call) && !backlog.withdraw(call), "{number}");
            let live = 1_000 - (0..=number).filter(|number| number % 10 != 3).count();
            assert!(backlog.len() <= (2 * live).max(live + MIN_SWEEP), "{live}");
        }
        assert_eq!(backlog.items(usize::MAX), 100);
        assert_eq!(backlog.items(7), 7);
        let mut number = 3;
        while let Some(chunk) = backlog.front_mut() {
            assert!(Arc::ptr_eq(&chunk.call, &calls[number]));
            number += 10;
            backlog.pop_front();
        }
        assert!(number == 1_003 && backlog.is_empty());
    }

    #[test]
    fn revoked_chunks_of_a_withdrawn_call_are_dropped() {
        let calls = calls(3);
        let mut backlog = Backlog::default();
        backlog.extend(calls.iter().flat_map(chunk), 1);
        assert!(backlog.withdraw(&calls[1]));
        backlog.put_back(chunk(&calls[1]).collect());
        backlog.put_back(chunk(&calls[2]).collect());
        assert!(Arc::ptr_eq(&backlog.front_mut().unwrap().call, &calls[2]));
        assert_eq!(backlog.items(9), 3);
        backlog.fail(&Error::invalid("it is over"));
        assert!(backlog.is_empty() && backlog.front_mut().is_none());
        let lost: Vec<u64> =
            calls.iter().map(|call| call.take().iter().map(ResultBatch::count).sum()).collect();
        assert_eq!(lost, [1, 0, 2]);
    }
}
