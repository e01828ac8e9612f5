//! Trace events of the tasks of processes, and of how processes end: by themselves, or because the pool ends them.

use std::sync::atomic::Ordering::Relaxed;

use super::MAY_START_THREADS;
use super::buffer::Unfinished;
use super::event::{Event, Track};
use super::items::{INITIALIZER, ITEM, TASK, run_slice};
use super::tracer::{Tracer, tracer};
use crate::error::{Error, signal_name};
use crate::sys::clock;
use crate::sys::pidfd::Exit;

/// Runs the task of a process, which then ends, and writes a slice with its name. Functions of this library have
/// none.
#[inline]
pub(crate) fn task<R>(name: &str, run: impl FnOnce() -> R) -> R {
    MAY_START_THREADS.store(true, Relaxed); // this is no fork server
    let result = match tracer().filter(|_| !name.is_empty()) {
        Some(tracer) => tracer.open_slice(TASK, name, run),
        None => run(),
    };
    if let Some(tracer) = tracer() {
        tracer.put_overflow();
    }
    result
}

impl Tracer {
    /// Runs something that its parent adds to the trace if this process dies in it.
    pub(super) fn open_slice<R>(&self, kind: u32, name: &str, run: impl FnOnce() -> R) -> R {
        let begun = clock::nanos();
        self.buffer.set_label(kind, name);
        self.buffer.begin(begun, 0);
        let result = run();
        if !self.original.is_current() {
            return result; // the slice is the original's
        }
        self.buffer.end();
        self.put_or_wait(self.slice_since(category(kind), name, begun));
        result
    }

    /// Writes what processes did not finish whose parents had ended before, and frees their buffers.
    pub(super) fn release_orphans(&self) {
        for (pid, unfinished) in self.buffers.release_orphans() {
            let now = clock::nanos();
            put_unfinished(self, pid, now, &unfinished);
            let exit = Event::instant("exit", "exit", pid, now);
            self.put(exit.text("cause", "its parent had ended before, so this is not known"));
        }
    }
}

/// The category of something that a process does.
fn category(kind: u32) -> &'static str {
    match kind {
        TASK => "task",
        INITIALIZER => "init",
        _ => "item",
    }
}

/// A child has ended: writes what it did not finish, and how it ended.
pub(crate) fn exited(pid: u32, exit: Exit) {
    let Some(tracer) = tracer() else { return };
    let now = clock::nanos();
    if let Some(unfinished) = tracer.buffers.release(pid) {
        put_unfinished(tracer, pid, now, &unfinished);
    }
    let event = Event::instant("exit", "exit", pid, now);
    tracer.put(match exit {
        Exit::Code(code) => event.text("cause", &format!("exited with code {code}")).number("code", code),
        Exit::Signal(signal) => {
            event.text("cause", &format!("killed by {}", signal_name(signal))).number("signal", signal)
        }
        Exit::Lost => event.text("cause", "its status was collected outside this library"),
    });
}

fn put_unfinished(tracer: &Tracer, pid: u32, now: u64, unfinished: &Unfinished) {
    let Unfinished { kind, label, begun, index, run } = unfinished;
    let track = Track::of_process(pid);
    if run.count > 0 {
        let prefix = super::event::slice_prefix("item", label, track);
        tracer.put(run_slice(&prefix, *run, 0));
    }
    if *begun > 0 {
        let slice = Event::slice(category(*kind), label, track, (*begun, now));
        let slice = if *kind == ITEM { slice.count("count", 1_u32).count("index", *index) } else { slice };
        tracer.put(slice.flag("unfinished"));
    }
}

/// A worker has ended that was not told to.
pub(crate) fn died(worker: u32, error: &Error) {
    happened("death", worker, |event| event.text("cause", &error.to_string()));
}

/// A worker takes the place of an earlier one.
pub(crate) fn restarted(worker: u32, index: usize) {
    if let Some(tracer) = tracer() {
        let event = Event::instant("death", "restart", tracer.pid, clock::nanos());
        tracer.put(event.count("worker", worker).count("index", index as u64));
    }
}

/// An item has taken longer than its limit, and its worker is killed for it.
pub(crate) fn timed_out(worker: u32, limit: std::time::Duration) {
    happened("timeout", worker, |event| event.text("limit", &format!("{limit:?}")));
}

/// A task is cancelled, and the worker that runs it killed; or none runs it.
pub(crate) fn cancelled(worker: Option<u32>) {
    if let Some(tracer) = tracer() {
        tracer.put(Event::instant("death", "cancel", worker.unwrap_or(tracer.pid), clock::nanos()));
    }
}

fn happened(what: &str, pid: u32, add: impl FnOnce(Event) -> Event) {
    if let Some(tracer) = tracer() {
        tracer.put(add(Event::instant("death", what, pid, clock::nanos())));
    }
}
