//! The items in flight of a worker: assigned and without a result, in its order.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::error::Error;
use crate::ipc::packet::Message;
use crate::ipc::wire::{self, Segments};
use crate::pool::call::Call;
use crate::pool::chunk::{Body, Chunk};
use crate::pool::recording::ItemArguments;
use crate::pool::worker_rings::PoolSide;

#[derive(Default)]
pub(crate) struct InFlight {
    spans: VecDeque<Span>,
    /// The number of items.
    count: u32,
    /// The shortest time limit of any item; `None` without limits.
    least_timeout: Option<Duration>,
    /// The first item must not be revoked: by it the worker takes the segments that were sent in front of it.
    is_pinned: bool,
}

/// Consecutive items of one call in a worker's rings.
struct Span {
    call: Arc<Call>,
    /// The input index of the first item.
    first: u64,
    count: u32,
    /// The number of items with a result.
    done: u32,
    /// The deaths of workers that ran them before.
    deaths: Vec<Error>,
    sort_key: i64,
    /// The position of the first item in the ring.
    start: u32,
    /// The bytes of each item, if they are values of arrays, else 0.
    size: u32,
    /// What the items name.
    segments: Segments,
    /// The single item, if it is out of line.
    message: Option<Box<Message>>,
}

impl InFlight {
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// The number of items that can be revoked: all but out-of-line and [pinned](Self::pin) ones.
    pub(crate) fn revocable(&self) -> u32 {
        let messages = self.spans.iter().filter(|span| span.message.is_some() && span.left() > 0).count();
        let kept = messages + usize::from(self.is_pinned);
        self.count.saturating_sub(u32::try_from(kept).unwrap_or(u32::MAX))
    }

    /// Has the worker keep its only item: segments were sent with it.
    pub(crate) fn pin(&mut self) {
        self.is_pinned = !self.is_front_message();
    }

    #[inline]
    pub(crate) fn is_pinned(&self) -> bool {
        self.is_pinned
    }

    /// The call of the oldest item.
    pub(crate) fn front(&self) -> Option<&Arc<Call>> {
        self.spans.front().map(|span| &span.call)
    }

    /// The call of the newest item.
    pub(crate) fn back(&self) -> Option<&Arc<Call>> {
        self.spans.back().map(|span| &span.call)
    }

    /// The ring position from which bytes must be kept.
    pub(crate) fn start(&self) -> Option<u32> {
        self.spans.front().map(|span| span.start)
    }

    pub(crate) fn are_of(&self, call: &Arc<Call>) -> bool {
        self.spans.iter().any(|span| Arc::ptr_eq(&span.call, call))
    }

    pub(crate) fn count_of(&self, call: &Arc<Call>) -> u32 {
        self.spans.iter().filter(|span| Arc::ptr_eq(&span.call, call)).map(Span::left).sum()
    }

    /// Whether the first `count` items are of one call.
    pub(crate) fn are_of_one_call(&self, count: u32) -> bool {
        let Some(first) = self.spans.front() else { return true };
        let mut left = count;
        for span in &self.spans {
            if left == 0 {
                break;
            }
            if !Arc::ptr_eq(&span.call, &first.call) {
                return false;
            }
            left = left.saturating_sub(span.left());
        }
        true
    }

    /// The shortest time limit of any item; `None` without limits.
    pub(crate) fn least_timeout(&self) -> Option<Duration> {
        self.least_timeout
    }

    /// Whether the item that killed its worker may run again.
    ///
    /// An item with ends of queues, files and the like may not: the pool closed them when it was claimed, and the
    /// peer has seen that.
    pub(crate) fn may_front_run_again(&self) -> bool {
        self.spans.front().is_some_and(|span| {
            span.call.may_retry(span.deaths.len())
                && span.message.as_ref().is_none_or(|message| message.is_repeatable())
        })
    }

    /// The number of consecutive items at the front with a common history, and the deaths of workers that ran
    /// them before.
    pub(crate) fn front_deaths(&self) -> Option<(u32, &[Error])> {
        self.spans.front().map(|span| (span.left(), &span.deaths[..]))
    }

    /// Adds the first `count` items of a chunk, which begin at `start` in the ring. Takes the message of an
    /// out-of-line item.
    pub(crate) fn add(&mut self, chunk: &mut Chunk, count: u32, start: u32) {
        self.count += count;
        self.least_timeout = self.least_timeout.into_iter().chain(chunk.call.options.timeout).min();
        match self.spans.back_mut() {
            Some(last) if last.continues_with(chunk, start) => last.count += count,
            _ => self.spans.push_back(Span::new(chunk, count, start)),
        }
    }

    /// Removes the first `count` items. Passes the call, the input index of the first, and the number of each
    /// run of them to `done`.
    pub(crate) fn complete(&mut self, count: u32, mut done: impl FnMut(&Arc<Call>, u64, u32)) {
        let mut left = count.min(self.count);
        self.is_pinned &= left == 0;
        self.subtract(left);
        while let Some(span) = self.spans.front_mut().filter(|_| left > 0) {
            let some = left.min(span.left());
            done(&span.call, span.first + u64::from(span.done), some);
            span.done += some;
            left -= some;
            if span.left() > 0 {
                break;
            }
            if let Some(message) = self.spans.pop_front().and_then(|span| span.message) {
                message.recycle();
            }
        }
    }

    /// Turns the last `count` items back into chunks; also returns their position in the ring.
    pub(crate) fn reclaim(&mut self, count: u32, rings: &PoolSide) -> (Vec<Chunk>, u32) {
        let mut chunks = VecDeque::new();
        let mut left = count.min(self.count);
        self.subtract(left);
        let mut position = rings.position();
        while let Some(span) = self.spans.back_mut().filter(|_| left > 0) {
            let some = left.min(span.left());
            let (chunk, start) = span.split_off_back(some, rings);
            chunks.push_front(chunk);
            position = start;
            left -= some;
            if span.left() == 0 {
                self.spans.pop_back();
            }
        }
        (chunks.into(), position)
    }

    fn subtract(&mut self, count: u32) {
        self.count -= count;
        if self.count == 0 {
            self.least_timeout = None; // otherwise it stays a lower bound
            self.is_pinned = false;
        }
    }

    /// The arguments of the first item, which is to be completed next.
    pub(crate) fn take_arguments(&mut self, rings: &PoolSide) -> Option<ItemArguments> {
        let span = self.spans.front_mut()?;
        let arguments = match span.message.take() {
            Some(message) if !message.holds_descriptors() && span.segments.is_empty() => {
                ItemArguments::OutOfLine(*message)
            }
            Some(_) => ItemArguments::HoldDescriptors,
            None => {
                let bytes = rings.copy_item(span.start, span.done, span.size);
                let names_segment = !span.segments.is_empty() && wire::has_attachments(&bytes);
                if names_segment { ItemArguments::HoldDescriptors } else { ItemArguments::Inline(bytes) }
            }
        };
        Some(arguments)
    }

    /// Closes the first item's descriptors, but memory.
    pub(crate) fn close_ends(&mut self) {
        if let Some(message) = self.spans.front_mut().and_then(|span| span.message.as_mut()) {
            message.close_ends();
        }
    }

    /// Whether the first item is out of line.
    pub(crate) fn is_front_message(&self) -> bool {
        self.spans.front().is_some_and(|span| span.message.is_some())
    }
}

impl Span {
    fn new(chunk: &mut Chunk, count: u32, start: u32) -> Self {
        let (call, first, deaths) = (Arc::clone(&chunk.call), chunk.first, chunk.deaths.clone());
        let segments = chunk.segments.clone();
        let size = chunk.value_size();
        let mut message = None;
        if let Body::OutOfLine(_) = chunk.body {
            chunk.count = 0;
            let body = std::mem::replace(&mut chunk.body, Body::Frames { bytes: Vec::new(), start: 0 });
            message = if let Body::OutOfLine(message) = body { Some(message) } else { None };
        }
        Self { call, first, count, done: 0, deaths, sort_key: chunk.sort_key, start, size, segments, message }
    }

    fn left(&self) -> u32 {
        self.count - self.done
    }

    /// Whether the first items of a chunk, which begin at `start`, can be added to this span. Spans stay short, since
    /// the ring bytes of a span are released together.
    fn continues_with(&self, chunk: &Chunk, start: u32) -> bool {
        let is_next = self.first + u64::from(self.count) == chunk.first;
        let is_message = self.message.is_some() || matches!(chunk.body, Body::OutOfLine(_));
        let is_small = start.wrapping_sub(self.start) < 16 * 1024;
        let has_history = !self.deaths.is_empty() || !chunk.deaths.is_empty();
        let is_alike = self.size == chunk.value_size() && self.segments == chunk.segments;
        is_next && !is_message && is_small && !has_history && is_alike && Arc::ptr_eq(&self.call, &chunk.call)
    }

    /// Splits the last `count` items off; returns them and their position in the ring.
    fn split_off_back(&mut self, count: u32, rings: &PoolSide) -> (Chunk, u32) {
        let kept = self.count - count;
        let first = self.first + u64::from(kept);
        let (body, start) = match self.message.take() {
            Some(message) => (Body::OutOfLine(message), self.start),
            None => rings.cut_items(self.start, kept, count, self.size),
        };
        self.count = kept;
        let (call, deaths, segments) = (Arc::clone(&self.call), self.deaths.clone(), self.segments.clone());
        (Chunk { call, first, count, deaths, sort_key: self.sort_key, segments, body }, start)
    }
}
