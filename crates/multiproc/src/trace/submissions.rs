//! Trace slices and flow arrows of what a pool submits to a worker, and takes from it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};

use super::event::Event;
use super::tracer::tracer;
use crate::impl_serde::impl_serde;
use crate::ipc::ring::just_before_overflow;
use crate::sys::clock;

/// Names a submission to the worker, in front of its items.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tag {
    /// The number of the arrows from it; 0 without a trace.
    pub(super) flow: u64,
    /// The input index of its first item.
    pub(super) first: u64,
}

impl_serde!(struct Tag { flow, first });

/// Of the next submission. (The id of the process beside it is not 0.)
static NUMBER: AtomicU32 = AtomicU32::new(just_before_overflow(4));

/// Items on their way to a worker.
#[derive(Clone, Copy)]
pub(crate) struct Submission {
    begun: u64,
    tag: Tag,
}

/// The submissions to a worker without a result: the number of the first item, and the number of the arrows.
#[derive(Default)]
pub(crate) struct Submissions(VecDeque<(u32, u64)>);

impl Submission {
    /// A submission of the items from an input index on.
    #[inline]
    pub(crate) fn begin(first: u64) -> Self {
        let Some(tracer) = tracer() else { return Self { begun: 0, tag: Tag::default() } };
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let flow = u64::from(tracer.pid) << 32 | u64::from(number);
        Self { begun: clock::nanos(), tag: Tag { flow, first } }
    }

    #[inline]
    pub(crate) fn tag(self) -> Tag {
        self.tag
    }
}

impl Submissions {
    /// A worker has got `count` items, the first with this number.
    #[inline]
    pub(crate) fn submitted(
        &mut self,
        Submission { begun, tag }: Submission,
        worker: u32,
        first: u32,
        count: u32,
    ) {
        if let Some(tracer) = tracer().filter(|_| tag.flow != 0) {
            while self.0.back().is_some_and(|(number, _)| !is_before(*number, first)) {
                self.0.pop_back(); // its items were taken back
            }
            self.0.push_back((first, tag.flow));
            let slice = tracer.slice_since("pool", "submit", begun).flow(tag.flow, false, true);
            let slice = slice.count("worker", worker).count("count", count);
            tracer.put(slice.count("index", tag.first));
        }
    }

    /// When results began to be taken; 0 without a trace.
    #[inline]
    pub(crate) fn begin_taking() -> u64 {
        if tracer().is_some() { clock::nanos() } else { 0 }
    }

    /// The results of `count` items were taken from a worker, the first of them with this number.
    #[inline]
    pub(crate) fn taken(&mut self, begun: u64, worker: u32, first: u32, count: u32) {
        let Some(tracer) = tracer().filter(|_| begun != 0) else { return };
        let ended = clock::nanos();
        let put = |flow: Option<u64>, count: u32| {
            let slice = Event::slice("pool", "take", tracer.track(), (begun, ended));
            let slice = if let Some(flow) = flow { slice.flow(flow, true, false) } else { slice };
            tracer.put(slice.count("worker", worker).count("count", count));
        };
        // One slice for each submission, since a slice has one arrow. The first may have begun earlier.
        let end = first.wrapping_add(count);
        let (mut from, mut flow) = (first, None);
        while let Some(&(number, id)) = self.0.front().filter(|(number, _)| is_before(*number, end)) {
            self.0.pop_front();
            if is_before(from, number) {
                put(flow, number.wrapping_sub(from));
            }
            let is_begun = is_before(number, first); // its arrow has ended
            (from, flow) = (if is_begun { first } else { number }, Some(id).filter(|_| !is_begun));
        }
        put(flow, end.wrapping_sub(from));
    }
}

/// Whether an item comes before another one; their numbers may have overflown.
fn is_before(number: u32, other: u32) -> bool {
    other.wrapping_sub(number).cast_signed() > 0
}
