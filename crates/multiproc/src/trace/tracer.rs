//! This process's part in a trace.

use std::cell::Cell;
use std::sync::OnceLock;
use std::thread;

use super::buffers::{Buffer, Buffers};
use super::event::{Event, Track};
use super::file::Writer;
use crate::error::Result;
use crate::sys::clock;
use crate::sys::fork_detect::ForkDetector;
use crate::sys::process::own_pid;
use crate::sys::thread_id::ThreadId;

pub(super) struct Tracer {
    pub(super) buffer: Buffer,
    pub(super) pid: u32,
    /// In the process that has begun the trace.
    pub(super) writer: Option<Writer>,
    fork_detector: ForkDetector,
}

static TRACER: OnceLock<Tracer> = OnceLock::new();

thread_local! {
    /// This thread's name is in the trace.
    static IS_NAMED: Cell<bool> = const { Cell::new(false) };
}

/// `None` without a trace, and in a copy of this process that a task has forked.
#[inline]
pub(super) fn tracer() -> Option<&'static Tracer> {
    TRACER.get().filter(|tracer| tracer.fork_detector.in_original_process())
}

impl Tracer {
    /// Makes this process a part of the trace with these buffers, by the name that its track shall have. No
    /// events come from a process that finds no free buffer, or if there is a trace already.
    pub(super) fn begin(
        buffers: &Buffers,
        name: &str,
        writer: Option<Writer>,
    ) -> Result<Option<&'static Self>> {
        let (pid, fork_detector) = (own_pid(), ForkDetector::new()?);
        let Some(buffer) = buffers.claim(pid).filter(|_| TRACER.get().is_none()) else { return Ok(None) };
        let tracer = TRACER.get_or_init(|| Self { buffer, pid, writer, fork_detector });
        tracer.name_process(name);
        Ok(Some(tracer))
    }

    pub(super) fn name_process(&self, name: &str) {
        self.put(Event::name("process_name", Track::of_process(self.pid), name));
    }

    pub(super) fn put(&self, event: Event) {
        self.buffer.put(&event.end());
    }

    /// The track of the calling thread.
    pub(super) fn track(&self) -> Track {
        let track = Track { pid: self.pid, tid: ThreadId::current().number() };
        if track.tid != track.pid && !IS_NAMED.replace(true) {
            let thread = thread::current();
            self.put(Event::name("thread_name", track, thread.name().unwrap_or("thread")));
        }
        track
    }

    /// A slice of the calling thread, from `begin` until now.
    pub(super) fn slice_since(&self, category: &str, name: &str, begin: u64) -> Event {
        Event::slice(category, name, self.track(), (begin, clock::nanos()))
    }
}
