//! Trace slices of the items that a worker runs.

use std::fmt;

use super::buffer::Run;
use super::event::{Event, slice_prefix};
use super::submissions::Tag;
use super::tracer::{Tracer, tracer};
use crate::sys::clock;

/// What a process may be doing when it dies.
pub(super) const TASK: u32 = 1;
pub(super) const INITIALIZER: u32 = 2;
pub(super) const ITEM: u32 = 3;

/// Items of less than this time, in nanoseconds, share a slice, if they follow each other within
/// [`LONGEST_GAP`] and for [`LONGEST_RUN`] at most.
const SHORT: u64 = 1_000;
const LONGEST_GAP: u64 = 50_000;
const LONGEST_RUN: u64 = 1_000_000;

/// A worker's items; nothing without a trace.
pub(crate) struct Items(Option<Box<State>>);

pub(super) struct State {
    tracer: &'static Tracer,
    /// The function, and the beginning of its slices.
    function: &'static str,
    prefix: String,
    /// The index of the item with the number `at`.
    index: u64,
    at: u32,
    /// The submission that the next item is the first of; 0 if it is not.
    flow: u64,
    /// Short items that wait for more of them.
    run: Run,
}

/// When an item began, and its number. The time is 0 without a trace.
#[derive(Clone, Copy)]
pub(crate) struct Begun(u64, u32);

impl Items {
    pub(crate) fn new() -> Self {
        Self(tracer().map(|tracer| Box::new(State::new(tracer))))
    }

    /// Runs an initializer.
    pub(crate) fn initialize<R>(run: impl FnOnce() -> R) -> R {
        match tracer() {
            Some(tracer) => tracer.open_slice(INITIALIZER, "initializer", run),
            None => run(),
        }
    }

    /// Says that the items from this number on are of one submission.
    pub(crate) fn on_header(&mut self, tag: Tag, function: &'static str, number: u32) {
        if let Some(state) = &mut self.0 {
            state.on_header(tag, function, number);
        }
    }

    /// An item begins.
    #[inline]
    pub(crate) fn begin(&self, number: u32) -> Begun {
        self.0.as_ref().map_or(Begun(0, 0), |state| state.begin(number))
    }

    /// The items from there up to this number are completed.
    #[inline]
    pub(crate) fn end(&mut self, begun: Begun, number: u32) {
        if let Some(state) = &mut self.0 {
            state.end(begun, number);
        }
    }

    /// The worker has no item, and is about to wait for more.
    pub(crate) fn pause(&mut self) {
        if let Some(state) = &mut self.0 {
            state.put_run();
        }
    }
}

impl fmt::Debug for Items {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Items" } else { "no trace" })
    }
}

impl State {
    pub(super) fn new(tracer: &'static Tracer) -> Self {
        let (function, prefix, run) = ("", String::new(), Run::default());
        Self { tracer, function, prefix, index: 0, at: 0, flow: 0, run }
    }

    pub(super) fn on_header(&mut self, tag: Tag, function: &'static str, number: u32) {
        self.put_run();
        if self.function != function || self.prefix.is_empty() {
            self.function = function;
            self.prefix = slice_prefix("item", function, self.tracer.track());
            self.tracer.buffer.set_label(ITEM, function);
        }
        (self.index, self.at, self.flow) = (tag.first, number, tag.flow);
    }

    fn begin(&self, number: u32) -> Begun {
        let now = clock::nanos();
        self.tracer.buffer.begin(now, self.index_of(number));
        Begun(now, number)
    }

    fn end(&mut self, Begun(begin, first): Begun, number: u32) {
        let count = u64::from(number.wrapping_sub(first));
        let run = Run { begin, end: clock::nanos(), index: self.index_of(first), count };
        if count > 0 {
            self.add(run);
        }
        self.tracer.buffer.end();
    }

    pub(super) fn add(&mut self, run: Run) {
        if let Some(both) = self.run.and(run) {
            self.run = both;
        } else {
            self.put_run();
            if !run.is_of_short_items() {
                return self.put(run);
            }
            self.run = run;
        }
        self.tracer.buffer.set_run(self.run);
    }

    pub(super) fn put_run(&mut self) {
        let run = std::mem::take(&mut self.run);
        if run.count > 0 {
            self.tracer.buffer.set_run(self.run); // first, or it is there twice if this process dies
            self.put(run);
        }
    }

    fn put(&mut self, run: Run) {
        let flow = std::mem::take(&mut self.flow);
        self.tracer.put_or_wait(run_slice(&self.prefix, run, flow));
    }

    fn index_of(&self, number: u32) -> u64 {
        self.index.wrapping_add(number.wrapping_sub(self.at).into())
    }
}

impl Run {
    fn is_of_short_items(self) -> bool {
        self.end.saturating_sub(self.begin) < SHORT.saturating_mul(self.count)
    }

    /// These items, which are short, and the next ones, if they share a slice.
    pub(super) fn and(self, next: Self) -> Option<Self> {
        let is_near = next.begin.saturating_sub(self.end) <= LONGEST_GAP;
        let fits = next.end.saturating_sub(self.begin) <= LONGEST_RUN;
        let both = Self { end: next.end, count: self.count + next.count, ..self };
        (self.count > 0 && next.is_of_short_items() && is_near && fits).then_some(both)
    }
}

/// The slice of some items.
pub(super) fn run_slice(prefix: &str, run: Run, flow: u64) -> Event {
    let slice = Event::slice_after(prefix, (run.begin, run.end));
    let slice = if flow == 0 { slice } else { slice.flow(flow, true, true) };
    slice.count("count", run.count).count("index", run.index)
}
