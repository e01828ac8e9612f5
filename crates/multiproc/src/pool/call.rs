//! One call of a pool: where its results arrive.

use std::collections::VecDeque;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::de::DeserializeOwned;

use crate::error::{Error, Result};
use crate::lane::{ERROR, VALUE};
use crate::ring::Copied;
use crate::task::{TaskId, catch_panic};
use crate::wire;

/// What a call shares with the pool's dispatcher.
pub(crate) struct Call {
    pub(crate) task: TaskId,
    /// Does the call have numbered items, or is it about one task?
    numbered: bool,
    inbox: Mutex<Inbox>,
    /// How many items make a worthwhile chunk, as far as one can say.
    worthwhile: AtomicU64,
}

#[derive(Default)]
struct Inbox {
    parcels: VecDeque<Parcel>,
    /// Nobody will look any more.
    abandoned: bool,
}

/// Fates of consecutive items.
pub(crate) enum Parcel {
    /// A frame for each item of these runs: the place of the first one, and how many.
    Results { runs: Vec<(u64, u32)>, results: Copied },
    /// One result, in `bytes` from `start` on.
    Result { place: u64, kind: u32, bytes: Vec<u8>, start: usize },
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
        Arc::new(Self { task, numbered, inbox: Mutex::default(), worthwhile: AtomicU64::new(1) })
    }

    pub(crate) fn deliver(&self, parcel: Parcel) {
        let mut inbox = self.lock();
        if !inbox.abandoned {
            inbox.parcels.push_back(parcel);
        }
    }

    /// Learns what some items have cost together.
    pub(crate) fn learn_cost(&self, items: u32, nanos: u64) {
        let items = u64::from(items);
        let worth = u64::try_from(WORTHWHILE.as_nanos()).unwrap_or(u64::MAX);
        let worthwhile = (worth * items).checked_div(nanos).unwrap_or(LARGEST);
        self.worthwhile.store(worthwhile.clamp(1, LARGEST).min(items * GROWTH).max(1), Relaxed);
    }

    /// How many items make a worthwhile chunk, as far as one can say.
    pub(crate) fn worthwhile(&self) -> u64 {
        self.worthwhile.load(Relaxed)
    }

    /// How long so many items take, as far as one can say.
    pub(crate) fn time_for(&self, items: u32) -> Duration {
        WORTHWHILE * items / u32::try_from(self.worthwhile()).unwrap_or(u32::MAX)
    }

    /// Takes what has arrived.
    pub(crate) fn take(&self) -> VecDeque<Parcel> {
        std::mem::take(&mut self.lock().parcels)
    }

    pub(crate) fn has_arrived(&self) -> bool {
        !self.lock().parcels.is_empty()
    }

    pub(crate) fn abandon(&self) {
        let mut inbox = self.lock();
        inbox.abandoned = true;
        inbox.parcels.clear();
    }

    /// The one result of a call about one task, if it has arrived.
    pub(crate) fn only_result<R: DeserializeOwned>(&self) -> Option<Result<R>> {
        let mut result = None;
        for parcel in self.take() {
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
            Self::Results { runs, results } => {
                let mut frames = results.frames();
                for place in runs.into_iter().flat_map(|(first, count)| first..first + u64::from(count)) {
                    let result = match frames.next() {
                        Some((kind, frame)) => open_frame(kind, frame),
                        None => Err(Error::decode("a result", "it is missing in the ring")),
                    };
                    give(place, result.map_err(|error| error.at(name(place))));
                }
            }
            Self::Result { place, kind, bytes, start } => {
                let frame = bytes.get(start..).unwrap_or_default();
                give(place, open_frame(kind, frame).map_err(|error| error.at(name(place))));
            }
            Self::Lost { first, count, error } => {
                for place in first..first + u64::from(count) {
                    give(place, Err(error.clone().at(name(place))));
                }
            }
        }
    }
}

fn open_frame<R: DeserializeOwned>(kind: u32, frame: &[u8]) -> Result<R> {
    match kind {
        // A `Deserialize` that panics is that item's error; the others are still to come.
        VALUE => catch_panic(|| wire::decode(frame, Vec::new(), "the result"))?,
        ERROR => Err(wire::decode(frame, Vec::new(), "a task's error")?),
        _ => Err(Error::decode("a result", "it begins with no known mark")),
    }
}
