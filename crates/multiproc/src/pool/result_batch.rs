//! Results of consecutive items, encoded until a caller reads them.

use std::os::fd::OwnedFd;

use serde_core::de::DeserializeOwned;

use crate::codec::raw;
use crate::error::{Error, Result};
use crate::ipc::frame::{Frames, as_u32, frame_size};
use crate::ipc::panic;
use crate::ipc::wire;
use crate::pool::worker_rings::{ERROR, OneResult, VALUE};

/// Results of consecutive items.
pub(crate) enum ResultBatch {
    /// A frame for each item of these spans, in input order. A span: the input index of its first item, a count.
    Results { spans: Vec<(u64, u32)>, results: Frames },
    /// A single result.
    Result { index: u64, result: OneResult },
    /// One error for all of them.
    Lost { first: u64, count: u32, error: Error },
}

impl ResultBatch {
    /// The number of results.
    pub(crate) fn count(&self) -> u64 {
        match self {
            Self::Results { spans, .. } => spans.iter().map(|&(_, count)| u64::from(count)).sum(),
            Self::Result { .. } => 1,
            Self::Lost { count, .. } => (*count).into(),
        }
    }

    pub(crate) fn open(self) -> ResultCursor {
        let (mut spans, content) = match self {
            Self::Results { spans, results } => (spans, Contents::Frames(results)),
            Self::Result { index, result } => (vec![(index, 1)], Contents::Single(result)),
            Self::Lost { first, count, error } => (vec![(first, count)], Contents::Lost(error)),
        };
        spans.reverse();
        ResultCursor { spans, next: 0, content }
    }
}

/// A batch whose results are decoded one by one on demand.
#[derive(Default)]
pub(crate) struct ResultCursor {
    /// The remaining spans, the next one last.
    spans: Vec<(u64, u32)>,
    /// The input index of the next result of the current span.
    next: u64,
    content: Contents,
}

#[derive(Default)]
enum Contents {
    Frames(Frames),
    Single(OneResult),
    Lost(Error),
    #[default]
    Nothing,
}

impl ResultCursor {
    /// The next span: the input index of its first result, and a count.
    pub(crate) fn span(&self) -> Option<(u64, u32)> {
        self.spans.last().copied()
    }

    /// Begins the next span; returns its count.
    pub(crate) fn begin_span(&mut self) -> u32 {
        let (first, count) = self.spans.pop().unwrap_or_default();
        self.next = first;
        count
    }

    /// Appends up to `most` results of the span to `results` if they are numbers; returns how many.
    #[inline]
    pub(crate) fn take_numbers<R: DeserializeOwned>(&mut self, most: u32, results: &mut Vec<R>) -> u32 {
        let (Contents::Frames(frames), Some(length)) = (&mut self.content, raw::fixed_size::<R>()) else {
            return 0;
        };
        let before = results.len();
        let (values, offset) = frames.peek_values(length, most);
        let stride = if offset == 0 { length.max(1) } else { frame_size(as_u32(length)) as usize };
        if raw::append_numbers(results, values, stride, offset).is_none() {
            let value = |value: &[u8]| raw::from_bytes(&value[offset..offset + length])?.ok();
            results.extend(values.chunks_exact(stride).map_while(value));
        }
        let count = results.len() - before;
        frames.pass_values(length, count); // an invalid one is decoded by `next`, for its error
        self.next += count as u64;
        as_u32(count)
    }

    /// The next result of the span.
    #[inline]
    pub(crate) fn next<R: DeserializeOwned>(&mut self) -> Result<R> {
        let index = self.next;
        self.next += 1;
        let result = match &mut self.content {
            Contents::Frames(frames) => match frames.next() {
                Some((kind, frame)) => decode_result(kind, frame, Vec::new()),
                None => Err(Error::decode("a result", "the ring has no frame for it")),
            },
            Contents::Single(OneResult { kind, content, descriptors }) => {
                let descriptors = std::mem::take(descriptors);
                content.with_bytes(|bytes| decode_result(*kind, bytes, descriptors))
            }
            Contents::Lost(error) => Err(error.clone()),
            Contents::Nothing => Err(Error::decode("a result", "there is none")),
        };
        result.map_err(|error| error.with_index(Some(index)))
    }
}

#[inline]
fn decode_result<R: DeserializeOwned>(kind: u32, frame: &[u8], descriptors: Vec<OwnedFd>) -> Result<R> {
    match kind {
        VALUE => panic::decode(frame, descriptors, "the result"),
        ERROR => Err(wire::decode_internal(frame, Vec::new(), "a task's error")?),
        _ => Err(Error::decode("a result", format!("unknown frame kind {kind}"))),
    }
}
