//! One call of a pool: where its results arrive.

use std::collections::VecDeque;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::codec::raw;
use crate::error::{Error, Result};
use crate::ipc::frame::Frames;
use crate::ipc::packet::Content;
use crate::ipc::wire;
use crate::pool::worker_rings::{ERROR, VALUE};
use crate::task::{self, TaskId};

/// What a call shares with the pool's dispatcher.
pub(crate) struct Call {
    pub(crate) header: TaskHeader,
    pub(crate) options: Options,
    inbox: Mutex<Inbox>,
    /// How many items make a worthwhile chunk, as far as one can say.
    target_len: AtomicU64,
    /// No worker is to be given any more of it. This and the next are written under the pool's lock only.
    withdrawn: AtomicBool,
    /// How many of its chunks wait in the pool's backlog.
    backlog: AtomicUsize,
}

/// What the caller wants beside the results.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Options {
    /// How long an item may run.
    pub(crate) timeout: Option<Duration>,
    /// How many times more an item is run of which a worker has died.
    pub(crate) retries: u32,
    /// How many items may have been taken of the input and not been given a result, where results are given one by one.
    pub(crate) buffer_size: Option<u64>,
}

/// What a worker must know before the first of some items.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TaskHeader {
    /// What they are for.
    pub(crate) task: TaskId,
    /// Is it to say when it begins one?
    pub(crate) is_timed: bool,
}

#[derive(Default)]
struct Inbox {
    batches: VecDeque<ResultBatch>,
    /// Nobody will look any more.
    abandoned: bool,
}

/// Fates of consecutive items.
pub(crate) enum ResultBatch {
    /// A frame for each item of these runs, of which each begins behind the one before: the place of the first item, and
    /// how many there are.
    Results { runs: Vec<(u64, u32)>, results: Frames },
    /// One result that came by itself.
    Result { index: u64, kind: u32, content: Content },
    /// All of them have this error in common.
    Lost { first: u64, count: u32, error: Error },
}

/// A chunk should keep a worker busy for about so long: much longer than handing it over takes (some 30 µs), and
/// short enough that at the end of the input no worker waits long for the others.
pub(crate) const TARGET_CHUNK_TIME: Duration = Duration::from_millis(1);
/// A chunk has at most so many items, and at most so many times those of the one before.
const MAX_CHUNK_LEN: u64 = 32 * 1024;
const MAX_GROWTH: u64 = 64;

impl Call {
    pub(crate) fn new(task: TaskId, options: Options) -> Arc<Self> {
        let header = TaskHeader { task, is_timed: options.timeout.is_some() };
        Arc::new(Self {
            header,
            options,
            inbox: Mutex::default(),
            target_len: AtomicU64::new(1),
            withdrawn: AtomicBool::new(false),
            backlog: AtomicUsize::new(0),
        })
    }

    pub(crate) fn is_withdrawn(&self) -> bool {
        self.withdrawn.load(Relaxed)
    }

    /// A chunk of it comes to the backlog.
    pub(crate) fn enter_backlog(&self) {
        self.backlog.store(self.backlog.load(Relaxed) + 1, Relaxed);
    }

    /// So many chunks of it go from the backlog.
    pub(crate) fn leave_backlog(&self, count: usize) {
        self.backlog.store(self.backlog.load(Relaxed).saturating_sub(count), Relaxed);
    }

    /// Withdraws what waits in the backlog; gives how many chunks that is. With none it changes nothing.
    pub(crate) fn withdraw(&self) -> usize {
        let count = self.backlog.swap(0, Relaxed);
        self.withdrawn.fetch_or(count > 0, Relaxed);
        count
    }

    pub(crate) fn deliver(&self, batch: ResultBatch) {
        let mut inbox = self.lock();
        if !inbox.abandoned {
            inbox.batches.push_back(batch);
        }
    }

    /// Learns what some items have cost together.
    pub(crate) fn learn_cost(&self, items: u32, nanos: u64) {
        let items = u64::from(items);
        let worth = u64::try_from(TARGET_CHUNK_TIME.as_nanos()).unwrap_or(u64::MAX);
        let target_len = (worth * items).checked_div(nanos).unwrap_or(MAX_CHUNK_LEN);
        self.target_len.store(target_len.clamp(1, MAX_CHUNK_LEN).min(items * MAX_GROWTH).max(1), Relaxed);
    }

    /// How many items make a worthwhile chunk, as far as one can say.
    pub(crate) fn target_len(&self) -> u64 {
        self.target_len.load(Relaxed)
    }

    /// How long so many items take, as far as one can say.
    pub(crate) fn time_for(&self, items: u32) -> Duration {
        TARGET_CHUNK_TIME * items / u32::try_from(self.target_len()).unwrap_or(u32::MAX)
    }

    /// Takes what has arrived.
    pub(crate) fn take(&self) -> VecDeque<ResultBatch> {
        std::mem::take(&mut self.lock().batches)
    }

    pub(crate) fn has_arrived(&self) -> bool {
        !self.lock().batches.is_empty()
    }

    pub(crate) fn abandon(&self) {
        let mut inbox = self.lock();
        inbox.abandoned = true;
        inbox.batches.clear();
    }

    pub(crate) fn is_abandoned(&self) -> bool {
        self.lock().abandoned
    }

    /// The one result of a call about one task, if it has arrived.
    pub(crate) fn only_result<R: DeserializeOwned>(&self) -> Option<Result<R>> {
        self.take().pop_front().map(|batch| batch.open().next().map_err(|error: Error| error.at(None)))
    }

    fn lock(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ResultBatch {
    /// How many results these are.
    pub(crate) fn count(&self) -> u64 {
        match self {
            Self::Results { runs, .. } => runs.iter().map(|&(_, count)| u64::from(count)).sum(),
            Self::Result { .. } => 1,
            Self::Lost { count, .. } => (*count).into(),
        }
    }

    pub(crate) fn open(self) -> ResultCursor {
        let (mut runs, content) = match self {
            Self::Results { runs, results } => (runs, Contents::Frames(results)),
            Self::Result { index, kind, content } => (vec![(index, 1)], Contents::Single { kind, content }),
            Self::Lost { first, count, error } => (vec![(first, count)], Contents::Lost(error)),
        };
        runs.reverse();
        ResultCursor { runs, next: 0, content }
    }
}

/// A parcel, whose results are decoded one after the other as they are asked for.
#[derive(Default)]
pub(crate) struct ResultCursor {
    /// What is left of the runs, the next one last.
    runs: Vec<(u64, u32)>,
    /// The place of the next result of the run that was begun.
    next: u64,
    content: Contents,
}

#[derive(Default)]
enum Contents {
    Frames(Frames),
    Single {
        kind: u32,
        content: Content,
    },
    Lost(Error),
    #[default]
    Nothing,
}

impl ResultCursor {
    /// The next run: the place of its first result, and how many they are.
    pub(crate) fn run(&self) -> Option<(u64, u32)> {
        self.runs.last().copied()
    }

    /// Begins the next run: so many results come one after the other.
    pub(crate) fn begin_run(&mut self) -> u32 {
        let (first, count) = self.runs.pop().unwrap_or_default();
        self.next = first;
        count
    }

    /// Adds up to `most` results of the run to `results`, as long as they are plain values; says how many these were.
    #[inline]
    pub(crate) fn take_raw<R: DeserializeOwned>(&mut self, most: u32, results: &mut Vec<R>) -> u32 {
        let (Contents::Frames(frames), Some(length)) = (&mut self.content, raw::fixed_size::<R>()) else {
            return 0;
        };
        results.reserve(most as usize);
        let count = frames.next_like(VALUE, length, most, |bytes| {
            let Some(Ok(value)) = raw::from_bytes(bytes) else { return false };
            results.push(value);
            true
        });
        self.next += u64::from(count);
        count
    }

    /// The next result of the run.
    #[inline]
    pub(crate) fn next<R: DeserializeOwned>(&mut self) -> Result<R> {
        let index = self.next;
        self.next += 1;
        let result = match &mut self.content {
            Contents::Frames(frames) => match frames.next() {
                Some((kind, frame)) => decode_result(kind, frame),
                None => Err(Error::decode("a result", "it is missing in the ring")),
            },
            Contents::Single { kind, content } => content.with_bytes(|bytes| decode_result(*kind, bytes)),
            Contents::Lost(error) => Err(error.clone()),
            Contents::Nothing => Err(Error::decode("a result", "there is none")),
        };
        result.map_err(|error| error.at(Some(index)))
    }
}

#[inline]
fn decode_result<R: DeserializeOwned>(kind: u32, frame: &[u8]) -> Result<R> {
    match kind {
        VALUE => task::decode(frame, Vec::new(), "the result"),
        ERROR => Err(wire::decode_own(frame, Vec::new(), "a task's error")?),
        _ => Err(Error::decode("a result", "it begins with no known mark")),
    }
}
