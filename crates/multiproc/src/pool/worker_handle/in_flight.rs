//! What a worker has in hand: items that it was given and that have no result yet, in its order.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::ipc::packet::Message;
use crate::pool::call::Call;
use crate::pool::chunk::{Body, Chunk};
use crate::pool::worker_rings::PoolSide;

#[derive(Default)]
pub(crate) struct InFlight {
    runs: VecDeque<Run>,
    /// How many items that is.
    count: u32,
    /// No item may run for a shorter time than this; `None` if each may run for ever.
    least_timeout: Option<Duration>,
}

/// Consecutive items of one call in a worker's rings.
struct Run {
    call: Arc<Call>,
    /// The place of the first of them in the call's input.
    first: u64,
    count: u32,
    /// How many of them have a result.
    done: u32,
    /// How many workers have died of them.
    deaths: u32,
    /// Where they begin in the rings.
    start: u32,
    /// The one item, if it was too large for the rings or holds descriptors.
    message: Option<Message>,
}

/// Items that are done with: their call, the place of the first, and how many they are.
pub(crate) type Completed = (Arc<Call>, u64, u32);

impl InFlight {
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// How many of them can be had back: not one that came as a message.
    pub(crate) fn revocable(&self) -> u32 {
        let messages = self.runs.iter().filter(|run| run.message.is_some() && run.left() > 0).count();
        self.count.saturating_sub(u32::try_from(messages).unwrap_or(u32::MAX))
    }

    /// The call of the item that is next to have a result, or runs.
    pub(crate) fn front(&self) -> Option<&Arc<Call>> {
        self.runs.front().map(|run| &run.call)
    }

    /// The call of the last item.
    pub(crate) fn back(&self) -> Option<&Arc<Call>> {
        self.runs.back().map(|run| &run.call)
    }

    /// Where the first of what must be kept begins in the rings.
    pub(crate) fn start(&self) -> Option<u32> {
        self.runs.front().map(|run| run.start)
    }

    pub(crate) fn are_of(&self, call: &Arc<Call>) -> bool {
        self.runs.iter().any(|run| Arc::ptr_eq(&run.call, call))
    }

    /// Are the first `count` items of one call?
    pub(crate) fn are_of_one_call(&self, count: u32) -> bool {
        let Some(first) = self.runs.front() else { return true };
        let mut left = count;
        for run in &self.runs {
            if left == 0 {
                break;
            }
            if !Arc::ptr_eq(&run.call, &first.call) {
                return false;
            }
            left = left.saturating_sub(run.left());
        }
        true
    }

    /// No item may run for a shorter time than this; `None` if each may run for ever.
    pub(crate) fn least_timeout(&self) -> Option<Duration> {
        self.least_timeout
    }

    /// May the item that has cost a worker its life be run once more?
    ///
    /// Not one with descriptors. The pool has let go of them when it was begun, and whoever holds the other end of what
    /// they were has seen it close.
    pub(crate) fn may_front_run_again(&self) -> bool {
        self.runs.front().is_some_and(|run| {
            run.deaths < run.call.options.retries
                && !run.call.is_abandoned()
                && run.message.as_ref().is_none_or(|message| !message.had_descriptors())
        })
    }

    /// Adds the first `count` items of a chunk, which begin there in the rings. Takes its message, if it is one.
    pub(crate) fn add(&mut self, chunk: &mut Chunk, count: u32, start: u32) {
        let run = Run::new(chunk, count, start);
        self.count += count;
        self.least_timeout = self.least_timeout.into_iter().chain(run.call.options.timeout).min();
        match self.runs.back_mut() {
            Some(last) if last.continues_with(&run) => last.count += count,
            _ => self.runs.push_back(run),
        }
    }

    /// The first `count` items are done with.
    pub(crate) fn complete(&mut self, count: u32) -> Vec<Completed> {
        let mut done = Vec::with_capacity(1);
        let mut left = count.min(self.count);
        self.revoke(left);
        while let Some(run) = self.runs.front_mut().filter(|_| left > 0) {
            let some = left.min(run.left());
            done.push((Arc::clone(&run.call), run.first + u64::from(run.done), some));
            run.done += some;
            left -= some;
            if run.left() == 0 {
                let message = self.runs.pop_front().and_then(|run| run.message);
                message.into_iter().for_each(Message::recycle);
            }
        }
        done
    }

    /// Makes chunks of the last `count` items again; gives also where they began in the rings.
    pub(crate) fn reclaim(&mut self, count: u32, rings: &PoolSide) -> (Vec<Chunk>, u32) {
        let mut chunks = VecDeque::new();
        let mut left = count.min(self.count);
        self.revoke(left);
        let mut position = rings.position();
        while let Some(run) = self.runs.back_mut().filter(|_| left > 0) {
            let some = left.min(run.left());
            let (chunk, start) = run.cut(some, rings);
            chunks.push_front(chunk);
            position = start;
            left -= some;
            if run.left() == 0 {
                self.runs.pop_back();
            }
        }
        (chunks.into(), position)
    }

    fn revoke(&mut self, count: u32) {
        self.count -= count;
        if self.count == 0 {
            self.least_timeout = None; // else it is no longer than that of those that are left, which is all it promises
        }
    }

    /// Lets go of the first item's descriptors.
    pub(crate) fn drop_descriptors(&mut self) {
        if let Some(message) = self.runs.front_mut().and_then(|run| run.message.as_mut()) {
            message.drop_descriptors();
        }
    }

    /// Came the first item as a message?
    pub(crate) fn is_front_message(&self) -> bool {
        self.runs.front().is_some_and(|run| run.message.is_some())
    }
}

impl Run {
    fn new(chunk: &mut Chunk, count: u32, start: u32) -> Self {
        let (call, first, deaths) = (Arc::clone(&chunk.call), chunk.first, chunk.deaths);
        let message = match &mut chunk.body {
            Body::Frames { .. } => None,
            body @ Body::Message(_) => {
                chunk.count = 0;
                match std::mem::replace(body, Body::Frames { bytes: Vec::new(), start: 0 }) {
                    Body::Message(message) => Some(message),
                    Body::Frames { .. } => None,
                }
            }
        };
        Self { call, first, count, done: 0, deaths, start, message }
    }

    fn left(&self) -> u32 {
        self.count - self.done
    }

    /// Do these items continue this job? Not for ever, since its bytes in the rings are freed only when all is done.
    fn continues_with(&self, next: &Self) -> bool {
        let is_message = self.message.is_some() || next.message.is_some();
        let is_small = next.start.wrapping_sub(self.start) < 16 * 1024;
        let is_next = self.first + u64::from(self.count) == next.first && self.deaths == next.deaths;
        is_next && is_small && !is_message && Arc::ptr_eq(&self.call, &next.call)
    }

    /// Takes the last `count` items off; gives them, and where they began in the rings.
    fn cut(&mut self, count: u32, rings: &PoolSide) -> (Chunk, u32) {
        let kept = self.count - count;
        let first = self.first + u64::from(kept);
        let mut frames = Vec::new();
        let start = match self.message {
            Some(_) => self.start,
            None => rings.copy_items(self.start, kept, count, &mut frames),
        };
        self.count = kept;
        let body = self.message.take().map_or(Body::Frames { bytes: frames, start: 0 }, Body::Message);
        (Chunk { call: Arc::clone(&self.call), first, count, deaths: self.deaths, body }, start)
    }
}
