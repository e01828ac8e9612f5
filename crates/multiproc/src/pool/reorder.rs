//! A reorder buffer: results that have arrived and were not returned yet.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;

use super::call::{ResultBatch, ResultCursor};
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
    current: ResultCursor,
    left_in_span: u32,
    /// By the input index of the next result, or in the order of arrival.
    others: BTreeMap<u64, ResultCursor>,
    arrived: u64,
    returned: u64,
}

impl ReorderBuffer {
    pub(crate) fn new(order: ResultOrder) -> Self {
        Self {
            order,
            current: ResultCursor::default(),
            left_in_span: 0,
            others: BTreeMap::new(),
            arrived: 0,
            returned: 0,
        }
    }

    pub(crate) fn add(&mut self, batch: ResultBatch) {
        let batch = batch.open();
        let Some((index, _)) = batch.span() else { return };
        let key = if self.order == ResultOrder::Input { index } else { self.arrived };
        self.arrived += 1;
        self.others.insert(key, batch);
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

    /// Appends the next results of the current span if they are numbers.
    pub(crate) fn take_numbers<R: DeserializeOwned>(&mut self, results: &mut Vec<R>) {
        let count = self.current.take_numbers(self.left_in_span, results);
        self.left_in_span -= count;
        self.returned += u64::from(count);
    }

    /// Begins the next span, unless one is current; returns whether there is one.
    pub(crate) fn begin_span(&mut self) -> bool {
        if self.left_in_span > 0 {
            return true;
        }
        if !self.is_next() {
            let later = std::mem::take(&mut self.current);
            self.others.extend(later.span().map(|(key, _)| (key, later)));
            self.current = self.others.pop_first().map(|(_, first)| first).unwrap_or_default();
        }
        if self.is_next() {
            self.left_in_span = self.current.begin_span();
        }
        self.left_in_span > 0
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
