//! One call of a pool: where its results arrive.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::protocol::{ERROR, Frames, VALUE};
use crate::error::{Error, Result};
use crate::sys::poll::Deadline;
use crate::task::{TaskId, catch_panic};
use crate::wire;

/// What a call shares with the pool's dispatcher.
pub(crate) struct Call {
    pub(crate) task: TaskId,
    /// Does the call have numbered items, or is it about one task?
    numbered: bool,
    inbox: Mutex<Inbox>,
    arrived: Condvar,
}

#[derive(Default)]
struct Inbox {
    parcels: VecDeque<Parcel>,
    /// How many items make a worthwhile chunk, as far as one can say.
    worthwhile: Option<u64>,
    /// Nobody will look any more.
    abandoned: bool,
}

/// Fates of consecutive items.
pub(crate) enum Parcel {
    /// A frame for each of `count` items from `first` on stands in `bytes` from `start` on.
    Results { first: u64, count: u32, bytes: Vec<u8>, start: usize },
    /// All of them have this error in common.
    Lost { first: u64, count: u32, error: Error },
}

/// A chunk should keep a worker busy for about so long: much longer than handing it over takes (some 30 µs), and
/// short enough that at the end of the input no worker waits long for the others.
pub(crate) const WORTHWHILE: Duration = Duration::from_millis(1);
/// A chunk has at most so many items, and at most so many times those of the one before.
const LARGEST: u64 = 16 * 1024;
const GROWTH: u64 = 8;

impl Call {
    pub(crate) fn new(task: TaskId, numbered: bool) -> Arc<Self> {
        Arc::new(Self { task, numbered, inbox: Mutex::default(), arrived: Condvar::new() })
    }

    pub(crate) fn deliver(&self, parcel: Parcel) {
        let mut inbox = self.lock();
        if !inbox.abandoned {
            inbox.parcels.push_back(parcel);
            self.arrived.notify_all();
        }
    }

    /// Learns what some items have cost together.
    pub(crate) fn learn_cost(&self, items: u32, nanos: u64) {
        let items = u64::from(items);
        let worth = u64::try_from(WORTHWHILE.as_nanos()).unwrap_or(u64::MAX);
        let worthwhile = (worth * items).checked_div(nanos).unwrap_or(LARGEST);
        self.lock().worthwhile = Some(worthwhile.clamp(1, LARGEST).min(items * GROWTH).max(1));
    }

    /// How many items make a worthwhile chunk, as far as one can say.
    pub(crate) fn worthwhile(&self) -> u64 {
        self.lock().worthwhile.unwrap_or(1)
    }

    /// Takes what has arrived. Blocks until something has, or the deadline is over.
    pub(crate) fn take(&self, deadline: Deadline) -> VecDeque<Parcel> {
        let mut inbox = self.lock();
        while inbox.parcels.is_empty() {
            inbox = match deadline.left() {
                None => self.arrived.wait(inbox).unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => break,
                Some(left) => {
                    self.arrived.wait_timeout(inbox, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        std::mem::take(&mut inbox.parcels)
    }

    pub(crate) fn has_arrived(&self) -> bool {
        !self.lock().parcels.is_empty()
    }

    pub(crate) fn abandon(&self) {
        let mut inbox = self.lock();
        inbox.abandoned = true;
        inbox.parcels.clear();
    }

    /// The one result of a call about one task; nothing when the deadline comes first.
    pub(crate) fn only_result<R: DeserializeOwned>(&self, deadline: Deadline) -> Option<Result<R>> {
        let mut result = None;
        for parcel in self.take(deadline) {
            parcel.open(self.numbered, |_, it| result = Some(it));
        }
        result
    }

    fn lock(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Parcel {
    /// Gives each item's place and result.
    pub(crate) fn open<R: DeserializeOwned>(self, numbered: bool, mut give: impl FnMut(u64, Result<R>)) {
        let name = |place: u64| numbered.then_some(place);
        match self {
            Self::Results { first, count, bytes, start } => {
                let mut frames = Frames(bytes.get(start..).unwrap_or_default());
                for place in first..first + u64::from(count) {
                    let result = frames
                        .next()
                        .ok_or_else(|| Error::decode("a result", "it is missing in the worker's report"))
                        .and_then(open_frame);
                    give(place, result.map_err(|error| error.at(name(place))));
                }
            }
            Self::Lost { first, count, error } => {
                for place in first..first + u64::from(count) {
                    give(place, Err(error.clone().at(name(place))));
                }
            }
        }
    }
}

fn open_frame<R: DeserializeOwned>(frame: &[u8]) -> Result<R> {
    match frame {
        // A `Deserialize` that panics is that item's error; the others are still to come.
        [VALUE, value @ ..] => catch_panic(|| wire::decode(value, Vec::new(), "the result"))?,
        [ERROR, error @ ..] => Err(wire::decode(error, Vec::new(), "a task's error")?),
        _ => Err(Error::decode("a result", "it begins with no known mark")),
    }
}
