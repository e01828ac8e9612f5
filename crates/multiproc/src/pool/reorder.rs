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
    turn: u64,
    parcel: ResultCursor,
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

    pub(crate) fn add(&mut self, parcel: ResultBatch) {
        let parcel = parcel.open();
        let Some((place, _)) = parcel.run() else { return };
        let turn = if self.order == ResultOrder::Input { place } else { self.arrived };
        self.arrived += 1;
        self.others.push(Waiting { turn, parcel });
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
    pub(crate) fn take_plain<R: DeserializeOwned>(&mut self, results: &mut Vec<R>) {
        let count = self.current.take_plain(self.run, results);
        self.run -= count;
        self.given += u64::from(count);
    }

    /// Begins the run of results whose turn it is, unless one is begun; says whether there is one.
    pub(crate) fn begin_run(&mut self) -> bool {
        if self.run > 0 {
            return true;
        }
        if !self.is_next() {
            let behind = std::mem::take(&mut self.current);
            self.others.extend(behind.run().map(|(turn, _)| Waiting { turn, parcel: behind }));
            self.current = self.others.pop().map(|first| first.parcel).unwrap_or_default();
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
            ResultOrder::Input => run.is_some_and(|(place, _)| place == self.given),
            ResultOrder::Arrival => run.is_some(),
        }
    }
}

/// The one whose turn comes first is the greatest, as the heap wants it.
impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> Ordering {
        other.turn.cmp(&self.turn)
    }
}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        self.turn == other.turn
    }
}

impl Eq for Waiting {}
