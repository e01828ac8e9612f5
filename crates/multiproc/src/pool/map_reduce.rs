//! `map_reduce`: workers map batches of items and merge the results of each, the caller merges the batches'.
//!
//! A batch is one task of a pool. Its length follows the target time, and decreases towards the end of an
//! input of known length, so that the workers finish together (guided self-scheduling, after Polychronopoulos
//! and Kuck).

use std::any::type_name;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::iter::Fuse;
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use serde_core::Serialize;
use serde_core::de::DeserializeOwned;

use crate::error::{Error, Result};
use crate::ipc::panic::catch_panic;
use crate::pool::results::Results;
use crate::spawn::bootstrap::worker_origin;
use crate::sys::entry::zst_instance;
use crate::task::{RemoteFn, sealed};

/// Much longer than it takes to send, decode and merge a result of some thousand entries.
const TARGET_TIME: Duration = Duration::from_millis(25);
/// The most items of a batch, and the most growth over the batch before.
const MAX_LEN: usize = 4096;
const MAX_GROWTH: usize = 8;
/// About the most encoded bytes of a batch: some are there for each worker, also as values.
const MAX_BYTES: usize = 4 << 20;

/// Maps and merges a batch.
pub(crate) struct MapReduce<F, M>(PhantomData<fn() -> (F, M)>);

/// The merged result of a batch and its nanoseconds, or the number of the item within the batch that failed.
type Outcome<R> = std::result::Result<(R, u64), (u64, Error)>;

impl<F, M> MapReduce<F, M> {
    pub(crate) fn new(_map: F, _merge: M) -> Self {
        Self(PhantomData)
    }
}

impl<F, M> Clone for MapReduce<F, M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<F, M> Copy for MapReduce<F, M> {}

impl<F, M, T> sealed::Function<(Vec<T>,)> for MapReduce<F, M> {
    fn name() -> &'static str {
        type_name::<F>()
    }
}

impl<F, M, T> RemoteFn<(Vec<T>,)> for MapReduce<F, M>
where
    F: RemoteFn<(T,)>,
    M: RemoteFn<(F::Output, F::Output), Output = F::Output>,
{
    type Output = Outcome<F::Output>;

    fn call(self, (items,): (Vec<T>,)) -> Outcome<F::Output> {
        let (map, merge) = (zst_instance::<F>(), zst_instance::<M>());
        let begun = Instant::now();
        let mut merged = None;
        for (number, item) in (0..).zip(items) {
            let before = merged.take();
            let run = || {
                let result = map.call((item,));
                match before {
                    Some(before) => merge.call((before, result)),
                    None => result,
                }
            };
            merged = Some(catch_panic(run).map_err(|error| (number, error.or_with_origin(worker_origin)))?);
        }
        let nanos = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        merged.map(|merged| (merged, nanos)).ok_or_else(|| (0, Error::internal("a batch without items")))
    }
}

/// Splits an input into batches.
pub(crate) struct Batches<I> {
    /// Not asked again once it has ended: it may go on behind its end.
    input: Fuse<I>,
    workers: usize,
    plan: Rc<Plan>,
    taken: u64,
}

/// The state shared by the iterator of batches and the reader of their results.
pub(crate) struct Plan {
    /// The length that takes the target time.
    len: Cell<usize>,
    /// The most items of a batch.
    max_len: usize,
    /// The items of the last batch, and its encoded bytes.
    last_len: Cell<usize>,
    last_bytes: Arc<AtomicUsize>,
    /// The first item and the length of each batch whose result is pending.
    pending: RefCell<VecDeque<(u64, u64)>>,
}

impl Plan {
    pub(crate) fn new(is_timed: bool) -> Rc<Self> {
        // A time limit is that of an item.
        let max_len = if is_timed { 1 } else { MAX_LEN };
        let (len, last_len, last_bytes) = (Cell::new(1), Cell::new(1), Arc::default());
        Rc::new(Self { len, max_len, last_len, last_bytes, pending: RefCell::default() })
    }

    /// Where the caller of [`Batches`] puts the encoded bytes of each.
    pub(crate) fn last_bytes(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.last_bytes)
    }

    /// The length of a batch by its time and its bytes.
    fn len(&self) -> usize {
        let bytes_per_item = self.last_bytes.load(Relaxed) / self.last_len.get();
        self.len.get().min(MAX_BYTES / bytes_per_item.clamp(1, MAX_BYTES))
    }

    fn learn(&self, items: u64, nanos: u64) {
        let items = usize::try_from(items).unwrap_or(usize::MAX);
        let target = u64::try_from(TARGET_TIME.as_nanos()).unwrap_or(u64::MAX);
        let worth = usize::try_from(target.saturating_mul(items as u64) / nanos.max(1)).unwrap_or(usize::MAX);
        self.len.set(worth.min(items.saturating_mul(MAX_GROWTH)).clamp(1, self.max_len));
    }
}

impl<I: Iterator> Batches<I> {
    pub(crate) fn new(input: I, workers: usize, plan: Rc<Plan>) -> Self {
        Self { input: input.fuse(), workers, plan, taken: 0 }
    }
}

impl<I: Iterator> Iterator for Batches<I> {
    type Item = (Vec<I::Item>,);

    fn next(&mut self) -> Option<Self::Item> {
        let share = self.input.size_hint().1.map_or(usize::MAX, |left| left.div_ceil(2 * self.workers));
        let len = self.plan.len().min(share.max(1));
        let items: Vec<_> = self.input.by_ref().take(len).collect();
        let count = items.len() as u64;
        (count > 0).then(|| {
            self.plan.last_len.set(items.len());
            self.plan.pending.borrow_mut().push_back((self.taken, count));
            self.taken += count;
            (items,)
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let (least, most) = self.input.size_hint();
        (least.min(1), most)
    }
}

/// Merges the results of the batches, in the order of the input.
pub(crate) fn merge_batches<T, I, R, M>(
    results: Results<'_, Batches<I>, Outcome<R>>,
    plan: &Plan,
    merge: M,
) -> Result<Option<R>>
where
    T: Serialize + DeserializeOwned,
    I: Iterator<Item = T>,
    R: Serialize + DeserializeOwned,
    M: RemoteFn<(R, R), Output = R>,
{
    let mut merged = None;
    results.for_each(|outcome| {
        let (first, count) = plan.pending.borrow_mut().pop_front().unwrap_or_default();
        let (result, nanos) = outcome
            .map_err(|error| error.with_items(Some((first, count))))?
            .map_err(|(number, error)| error.with_index(Some(first + number)))?;
        plan.learn(count, nanos);
        merged = Some(match merged.take() {
            Some(before) => catch_panic(|| merge.call((before, result)))?,
            None => result,
        });
        Ok(())
    })?;
    Ok(merged)
}
