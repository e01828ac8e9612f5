//! Results that have come and were not given yet, in the order in which they will be.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use serde::de::DeserializeOwned;

use super::call::{Opened, Parcel};
use crate::error::Result;

/// In which order results are given.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Order {
    Input,
    Arrival,
}

/// Parcels stay encoded until their results are asked for: then a result is decoded where it is needed, and one that
/// waits for another takes no more room than it did on its way.
pub(crate) struct Ready {
    order: Order,
    current: Option<Opened>,
    others: BinaryHeap<Waiting>,
    arrived: u64,
    given: u64,
}

/// A parcel, and when it comes to it.
struct Waiting {
    turn: u64,
    parcel: Opened,
}

impl Ready {
    pub(crate) fn new(order: Order) -> Self {
        Self { order, current: None, others: BinaryHeap::new(), arrived: 0, given: 0 }
    }

    pub(crate) fn add(&mut self, parcel: Parcel) {
        let parcel = parcel.open();
        let Some(place) = parcel.place() else { return };
        let turn = if self.order == Order::Input { place } else { self.arrived };
        self.arrived += 1;
        self.others.push(Waiting { turn, parcel });
    }

    /// How many were given.
    #[inline]
    pub(crate) fn given(&self) -> u64 {
        self.given
    }

    /// Whether [`next`](Ready::next) has one to give.
    pub(crate) fn has_next(&mut self) -> bool {
        self.is_next(self.current.as_ref()) || {
            self.turn_to_next();
            self.is_next(self.current.as_ref())
        }
    }

    /// The next result, if it has come.
    #[inline]
    pub(crate) fn next<R: DeserializeOwned>(&mut self) -> Option<Result<R>> {
        if !self.has_next() {
            return None;
        }
        let (place, result) = self.current.as_mut()?.next()?;
        self.given += 1;
        Some(result.map_err(|error| error.at(Some(place))))
    }

    #[inline]
    fn is_next(&self, parcel: Option<&Opened>) -> bool {
        let place = parcel.and_then(Opened::place);
        match self.order {
            Order::Input => place == Some(self.given),
            Order::Arrival => place.is_some(),
        }
    }

    fn turn_to_next(&mut self) {
        let left = self.current.take().and_then(|parcel| Some(Waiting { turn: parcel.place()?, parcel }));
        self.others.extend(left);
        self.current = self.others.pop().map(|first| first.parcel);
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
