//! Results that have come and were not given yet, in the order in which they will be.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use serde::de::DeserializeOwned;

use super::call::{ResultBatch, ResultCursor};
use crate::error::Result;

/// In which order results are given.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum ResultOrder {
    Input,
    Arrival,
}

/// Parcels stay encoded until their results are asked for: then a result is decoded where it is needed, and one that
/// waits for another takes no more room than it did on its way.
pub(crate) struct ReorderBuffer {
    order: ResultOrder,
    /// The parcel whose results are being given, and how many of them come next.
    current: ResultCursor,
    run: u32,
    others: BinaryHeap<Waiting>,
    arrived: u64,
    given: u64,
}

/// A parcel, and when it comes to it.
struct Waiting {
    key: u64,
    batch: ResultCursor,
}

impl ReorderBuffer {
    pub(crate) fn new(order: ResultOrder) -> Self {
        Self {
            order,
            current: ResultCursor::default(),
            run: 0,
            others: BinaryHeap::new(),
            arrived: 0,
            given: 0,
        }
    }

    pub(crate) fn add(&mut self, batch: ResultBatch) {
        let batch = batch.open();
        let Some((index, _)) = batch.run() else { return };
        let key = if self.order == ResultOrder::Input { index } else { self.arrived };
        self.arrived += 1;
        self.others.push(Waiting { key, batch });
    }

    /// How many were given.
    #[inline]
    pub(crate) fn given(&self) -> u64 {
        self.given
    }

    /// Whether all results of the run that was begun were given.
    #[inline]
    pub(crate) fn run_is_over(&self) -> bool {
        self.run == 0
    }

    /// The next result of the run that was begun.
    #[inline]
    pub(crate) fn next<R: DeserializeOwned>(&mut self) -> Option<Result<R>> {
        if self.run == 0 {
            return None;
        }
        self.run -= 1;
        self.given += 1;
        Some(self.current.next())
    }

    /// Gives the next results of the run that was begun, as long as they are plain ones.
    pub(crate) fn take_raw<R: DeserializeOwned>(&mut self, results: &mut Vec<R>) {
        let count = self.current.take_raw(self.run, results);
        self.run -= count;
        self.given += u64::from(count);
    }

    /// Begins the run of results whose turn it is, unless one is begun; says whether there is one.
    pub(crate) fn begin_run(&mut self) -> bool {
        if self.run > 0 {
            return true;
        }
        if !self.is_next() {
            let later = std::mem::take(&mut self.current);
            self.others.extend(later.run().map(|(key, _)| Waiting { key, batch: later }));
            self.current = self.others.pop().map(|first| first.batch).unwrap_or_default();
        }
        if self.is_next() {
            self.run = self.current.begin_run();
        }
        self.run > 0
    }

    /// Is it the turn of the current parcel?
    fn is_next(&self) -> bool {
        let run = self.current.run();
        match self.order {
            ResultOrder::Input => run.is_some_and(|(index, _)| index == self.given),
            ResultOrder::Arrival => run.is_some(),
        }
    }
}

/// The one whose turn comes first is the greatest, as the heap wants it.
impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> Ordering {
        other.key.cmp(&self.key)
    }
}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Eq for Waiting {}
