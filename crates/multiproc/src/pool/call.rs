//! One call of a pool: its options, and the inbox for its results.

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicUsize};
use std::task::Waker;
use std::time::Duration;

use serde_core::de::DeserializeOwned;

use crate::error::{Cause, Error, Result};
use crate::impl_serde::impl_serde;
use crate::logs::FirstItem;
use crate::pool::cost_estimate::CostEstimate;
use crate::pool::reorder::{ReorderBuffer, ResultOrder};
use crate::pool::result_batch::ResultBatch;
use crate::pool::retry_policy::RetryPolicy;
use crate::pool::wake_list::{ArrivalWaker, WakeList};
use crate::sys::private_mutex::PrivateMutex;
use crate::task::TaskId;
use crate::trace;

/// The state that a call shares with the [`PoolCore`](crate::pool::pool_core::PoolCore).
pub(crate) struct Call {
    pub(crate) header: TaskHeader,
    pub(crate) options: Options,
    /// It has one item, which has no index.
    pub(crate) is_single: bool,
    /// In a forked copy of the process, nothing arrives.
    inbox: PrivateMutex<Inbox>,
    /// Single tasks of a function have it in common.
    pub(crate) cost: Arc<CostEstimate>,
    /// Chunks in the backlog are dropped, not dispatched. This and all below are written only under the pool's lock.
    withdrawn: AtomicBool,
    /// The number of retries of its items.
    retried: AtomicU32,
    /// Its chunks in the pool's backlog.
    backlog: AtomicUsize,
    /// The lowest and the highest sort key of those that were there with descriptors; the other way round without any.
    keys_with_descriptors: [AtomicI64; 2],
}

/// The options of a call.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Options {
    /// The time limit of each item.
    pub(crate) timeout: Option<Duration>,
    /// Whether and when an item runs again whose worker died while running it.
    pub(crate) retry: RetryPolicy,
    /// How many milliseconds an item may go on after it was cancelled, or has exceeded its time limit.
    pub(crate) grace: u32,
    /// Steps of [`PRIORITY_STEP`].
    pub(crate) priority: i8,
    /// For lazy calls: the maximum number of items taken from the input and without a returned result.
    pub(crate) buffer_size: Option<u64>,
    /// For log records: the number of the first item, in place of its index.
    pub(crate) first_number: Option<u64>,
}

/// The header that precedes items in a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TaskHeader {
    /// Their function.
    pub(crate) task: TaskId,
    /// Whether the worker stores the time at which it begins an item.
    pub(crate) is_timed: bool,
    /// The input index of the first of them, for log records.
    pub(crate) first: FirstItem,
    /// The submission, for a trace.
    pub(crate) trace: trace::Tag,
}

impl_serde!(struct TaskHeader { task, is_timed, first, trace });

#[derive(Default)]
struct Inbox {
    batches: VecDeque<ResultBatch>,
    /// If the call has one result for all of its items: how many of them lack theirs. Nothing arrives before the last.
    missing: Option<u64>,
    /// Freed at the first arrival.
    permit: Option<PendingPermit>,
    /// Called at the next arrival.
    on_arrival: Option<(ArrivalWaker, Arc<WakeList>)>,
    /// Called then, too: of threads that wait for several things.
    watchers: Vec<(Waker, Arc<WakeList>)>,
    /// The caller has dropped the results.
    abandoned: bool,
}

impl Inbox {
    fn has_arrived(&self) -> bool {
        self.missing.map_or(!self.batches.is_empty(), |missing| missing == 0)
    }
}

/// Counts the submitted tasks of a pool that have no result.
#[derive(Default)]
pub(crate) struct PendingPermits(Arc<AtomicUsize>);

/// Counts one of them until it drops.
pub(crate) struct PendingPermit(Arc<AtomicUsize>);

impl PendingPermits {
    /// `None` if there are `max` of them.
    pub(crate) fn take(&self, max: usize) -> Option<PendingPermit> {
        let add = |count| (count < max).then_some(count + 1);
        self.0.fetch_update(Relaxed, Relaxed, add).ok().map(|_| PendingPermit(Arc::clone(&self.0)))
    }
}

impl Drop for PendingPermit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// A worker gets single tasks for this part of a chunk's target time, and at most this many at once: cancelling one
/// takes all others back from its worker.
const SINGLE_SHARE: u64 = 10;
const MOST_SINGLE: u64 = 16;

/// A step of priority counts as this time (nanoseconds) of waiting, so that no priority starves.
const PRIORITY_STEP: i64 = 10_000_000_000;

impl Call {
    pub(crate) fn new(task: TaskId, options: Options, is_single: bool, cost: Arc<CostEstimate>) -> Arc<Self> {
        let first = FirstItem::of_call(is_single, options.first_number);
        let (is_timed, trace) = (options.timeout.is_some(), trace::Tag::default());
        Arc::new(Self {
            header: TaskHeader { task, is_timed, first, trace },
            options,
            is_single,
            inbox: PrivateMutex::default(),
            cost,
            withdrawn: AtomicBool::new(false),
            retried: AtomicU32::new(0),
            backlog: AtomicUsize::new(0),
            keys_with_descriptors: [AtomicI64::new(i64::MAX), AtomicI64::new(i64::MIN)],
        })
    }

    /// Where an item that is submitted `now` stands among all waiting items: the lowest key begins first.
    pub(crate) fn sort_key(&self, now: u64) -> i64 {
        i64::try_from(now).unwrap_or(i64::MAX) - i64::from(self.options.priority) * PRIORITY_STEP
    }

    /// When an item with this sort key was submitted.
    pub(crate) fn submitted_at(&self, sort_key: i64) -> u64 {
        let at = sort_key.saturating_add(i64::from(self.options.priority) * PRIORITY_STEP);
        u64::try_from(at).unwrap_or(0)
    }

    /// Counts it until its first arrival.
    pub(crate) fn hold_until_result(&self, permit: Option<PendingPermit>) {
        if let Some(mut inbox) = self.inbox.lock() {
            inbox.permit = permit;
        }
    }

    /// Holds the results back until all of these items have theirs.
    pub(crate) fn hold_back(&self, items: u64) {
        if let Some(mut inbox) = self.inbox.lock() {
            inbox.missing = Some(items);
        }
    }

    pub(crate) fn is_withdrawn(&self) -> bool {
        self.withdrawn.load(Relaxed)
    }

    /// Counts a chunk that enters the backlog, with this sort key if it holds descriptors.
    pub(crate) fn enter_backlog(&self, key_with_descriptors: Option<i64>) {
        self.backlog.store(self.backlog.load(Relaxed) + 1, Relaxed);
        if let Some(key) = key_with_descriptors {
            let [lowest, highest] = &self.keys_with_descriptors;
            lowest.fetch_min(key, Relaxed);
            highest.fetch_max(key, Relaxed);
        }
    }

    /// Between which sort keys its chunks that hold descriptors are, if there may be any.
    pub(crate) fn keys_with_descriptors(&self) -> Option<RangeInclusive<i64>> {
        let [lowest, highest] = self.keys_with_descriptors.each_ref().map(|key| key.load(Relaxed));
        (lowest <= highest).then_some(lowest..=highest)
    }

    /// Counts chunks that leave the backlog.
    pub(crate) fn leave_backlog(&self, count: usize) {
        self.backlog.store(self.backlog.load(Relaxed).saturating_sub(count), Relaxed);
    }

    /// Withdraws its chunks in the backlog; returns how many. Without any, the call stays as it is.
    pub(crate) fn withdraw(&self) -> usize {
        let count = self.backlog.swap(0, Relaxed);
        self.withdrawn.fetch_or(count > 0, Relaxed);
        count
    }

    /// Whether an item that has died `deaths` times before may run again.
    pub(crate) fn may_retry(&self, deaths: usize) -> bool {
        self.options.retry.allows(deaths, self.retried.load(Relaxed))
            && !self.is_abandoned()
            && !self.is_withdrawn()
    }

    /// Counts items that run again.
    pub(crate) fn count_retries(&self, items: u32) {
        self.retried.store(self.retried.load(Relaxed).saturating_add(items), Relaxed);
    }

    pub(crate) fn deliver(&self, batch: ResultBatch) {
        let Some(mut inbox) = self.inbox.lock() else { return };
        if inbox.abandoned {
            inbox.permit = None;
            return;
        }
        if let Some(missing) = &mut inbox.missing {
            *missing = missing.saturating_sub(batch.count());
        }
        inbox.batches.push_back(batch);
        if !inbox.has_arrived() {
            return;
        }
        inbox.permit = None;
        if let Some((waker, wake_list)) = inbox.on_arrival.take() {
            wake_list.add(waker);
        }
        for (waker, wake_list) in inbox.watchers.drain(..) {
            wake_list.add(ArrivalWaker::Internal(waker));
        }
    }

    /// Delivers one error for all items but the `left` that workers still have.
    pub(crate) fn deliver_cancelled(&self, left: u64) {
        if let Some(mut inbox) = self.inbox.lock()
            && let Some(missing) = &mut inbox.missing
        {
            *missing = left + 1;
        }
        self.deliver(ResultBatch::Lost { first: 0, count: 1, error: Error::new(Cause::Cancelled) });
    }

    /// Has the waker called at the next arrival; not if there is one. The latest waker counts.
    pub(crate) fn wake_at_arrival(&self, waker: ArrivalWaker, wake_list: &Arc<WakeList>) {
        let Some(mut inbox) = self.inbox.lock() else { return };
        if inbox.has_arrived() {
            return;
        }
        let replaced = inbox.on_arrival.replace((waker, Arc::clone(wake_list)));
        drop(inbox);
        drop(replaced); // may run foreign code, which may use this call
    }

    /// Has the waker of a thread called at the next arrival, beside others; not if there is one.
    /// Returns whether that is new.
    pub(crate) fn watch(&self, waker: &Waker, wake_list: &Arc<WakeList>) -> bool {
        let Some(mut inbox) = self.inbox.lock() else { return false };
        let is_known = inbox.watchers.iter().any(|(known, _)| known.will_wake(waker));
        let is_new = !inbox.has_arrived() && !is_known;
        if is_new {
            inbox.watchers.push((waker.clone(), Arc::clone(wake_list)));
        }
        is_new
    }

    /// Undoes [`watch`](Self::watch).
    pub(crate) fn unwatch(&self, waker: &Waker) {
        if let Some(mut inbox) = self.inbox.lock() {
            inbox.watchers.retain(|(known, _)| !known.will_wake(waker));
        }
    }

    /// How many items a worker gets at once: those of a chunk's target time. Of single tasks a part of that, since they
    /// differ more, and each waits for those before it.
    pub(crate) fn target_chunk_len(&self) -> u32 {
        let len = self.cost.target_chunk_len();
        u32::try_from(if self.is_single { (len / SINGLE_SHARE).clamp(1, MOST_SINGLE) } else { len })
            .unwrap_or(u32::MAX)
    }

    /// How many items a worker may have: as many again, so that it has work when it is through.
    pub(crate) fn most_in_flight(&self) -> u32 {
        self.target_chunk_len().saturating_mul(2)
    }

    /// Takes the arrived results.
    pub(crate) fn take(&self) -> VecDeque<ResultBatch> {
        self.inbox.lock().map(|mut inbox| std::mem::take(&mut inbox.batches)).unwrap_or_default()
    }

    pub(crate) fn has_arrived(&self) -> bool {
        self.inbox.lock().is_some_and(|inbox| inbox.has_arrived())
    }

    pub(crate) fn abandon(&self) {
        let Some(mut inbox) = self.inbox.lock() else { return };
        inbox.abandoned = true;
        inbox.batches.clear();
        inbox.watchers.clear();
        let waker = inbox.on_arrival.take();
        drop(inbox);
        drop(waker); // may run foreign code, which may use this call
    }

    pub(crate) fn is_abandoned(&self) -> bool {
        self.inbox.lock().is_none_or(|inbox| inbox.abandoned)
    }

    /// The result of a call of one task, if it has arrived.
    pub(crate) fn only_result<R: DeserializeOwned>(&self) -> Option<Result<R>> {
        self.take()
            .pop_front()
            .map(|batch| batch.open().next().map_err(|error: Error| error.with_index(None)))
    }

    /// The results of a call that [holds them back](Self::hold_back), once all have arrived; or that it was cancelled,
    /// or the first error in input order.
    pub(crate) fn all_results<R: DeserializeOwned>(&self) -> Option<Result<Vec<R>>> {
        self.has_arrived().then(|| {
            let (mut buffer, mut results) = (ReorderBuffer::new(ResultOrder::Input), Vec::new());
            for batch in self.take() {
                if let ResultBatch::Lost { error, .. } = &batch
                    && error.is_cancelled()
                {
                    return Err(error.clone());
                }
                buffer.add(batch);
            }
            while buffer.begin_span() {
                while !buffer.span_is_over() {
                    if buffer.take_numbers(&mut results) == 0 {
                        results.extend(buffer.next().transpose()?);
                    }
                }
            }
            Ok(results)
        })
    }
}
