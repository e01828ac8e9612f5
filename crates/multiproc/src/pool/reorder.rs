//! A reorder buffer: results that have arrived and were not returned yet.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::mem::swap;

use serde_core::de::DeserializeOwned;

use super::result_batch::{ResultBatch, ResultCursor};
use crate::error::Result;

/// The order in which results are returned.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum ResultOrder {
    Input,
    Arrival,
}

/// Batches stay encoded until their results are needed, so a result that waits for another takes no more
/// memory than in transit.
pub(crate) struct ReorderBuffer {
    order: ResultOrder,
    /// The current batch, and the results left in its current span.
    current: Box<ResultCursor>,
    left_in_span: u32,
    others: BinaryHeap<WaitingBatch>,
    arrived: u64,
    returned: u64,
}

impl ReorderBuffer {
    pub(crate) fn new(order: ResultOrder) -> Self {
        Self {
            order,
            current: Box::default(),
            left_in_span: 0,
            others: BinaryHeap::new(),
            arrived: 0,
            returned: 0,
        }
    }

    pub(crate) fn add(&mut self, batch: ResultBatch) {
        let batch = batch.open();
        let Some((index, _)) = batch.span() else { return };
        let key = if self.order == ResultOrder::Input { index } else { self.arrived };
        self.arrived += 1;
        self.others.push(WaitingBatch { key, batch: Box::new(batch) });
    }

    /// The number of returned results.
    #[inline]
    pub(crate) fn returned(&self) -> u64 {
        self.returned
    }

    /// Whether the current span has ended.
    #[inline]
    pub(crate) fn span_is_over(&self) -> bool {
        self.left_in_span == 0
    }

    /// The next result of the current span.
    #[inline]
    pub(crate) fn next<R: DeserializeOwned>(&mut self) -> Option<Result<R>> {
        if self.left_in_span == 0 {
            return None;
        }
        self.left_in_span -= 1;
        self.returned += 1;
        Some(self.current.next())
    }

    /// Appends next results of the current span if they are numbers; returns how many.
    pub(crate) fn take_numbers<R: DeserializeOwned>(&mut self, results: &mut Vec<R>) -> u32 {
        let count = self.current.take_numbers(self.left_in_span, results);
        self.left_in_span -= count;
        self.returned += u64::from(count);
        count
    }

    /// Begins the next span, unless one is current; returns whether there is one.
    pub(crate) fn begin_span(&mut self) -> bool {
        if self.left_in_span > 0 {
            return true;
        }
        if !self.is_next() {
            self.exchange_current();
        }
        if self.is_next() {
            self.left_in_span = self.current.begin_span();
        }
        self.left_in_span > 0
    }

    /// Makes the first batch the current one. If results of several workers alternate, this happens for each of
    /// them, so the batches change places, which costs less than to remove one and insert the other.
    fn exchange_current(&mut self) {
        match (self.current.span(), self.others.peek_mut()) {
            (Some((index, _)), Some(mut first)) if first.key < index => {
                swap(&mut self.current, &mut first.batch);
                first.key = index;
            }
            (None, Some(first)) => self.current = PeekMut::pop(first).batch,
            (None, None) => *self.current = ResultCursor::default(),
            (Some(_), _) => {}
        }
    }

    /// Whether the current batch comes next.
    fn is_next(&self) -> bool {
        let span = self.current.span();
        match self.order {
            ResultOrder::Input => span.is_some_and(|(index, _)| index == self.returned),
            ResultOrder::Arrival => span.is_some(),
        }
    }
}

/// A batch that is not the current one. The greatest is the first in order.
struct WaitingBatch {
    /// The input index of its next result, or its number in the order of arrival.
    key: u64,
    batch: Box<ResultCursor>,
}

impl Ord for WaitingBatch {
    fn cmp(&self, other: &Self) -> Ordering {
        other.key.cmp(&self.key)
    }
}

impl PartialOrd for WaitingBatch {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for WaitingBatch {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Eq for WaitingBatch {}
