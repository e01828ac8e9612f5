//! This process's part in a trace.

use std::cell::Cell;
use std::sync::OnceLock;
use std::thread;

use super::buffer::Buffer;
use super::buffers::Buffers;
use super::event::{Event, Track};
use super::file::Writer;
use super::overflow::Overflow;
use crate::sys::clock;
use crate::sys::fork_detect::OriginalProcess;
use crate::sys::poll::Deadline;
use crate::sys::process::own_pid;
use crate::sys::thread_id::ThreadId;

pub(super) struct Tracer {
    pub(super) buffers: Buffers,
    pub(super) buffer: Buffer,
    overflow: Overflow,
    pub(super) pid: u32,
    /// In the process that has begun the trace.
    pub(super) writer: Option<Writer>,
    pub(super) original: OriginalProcess,
}

static TRACER: OnceLock<Tracer> = OnceLock::new();

thread_local! {
    /// This thread's name is in the trace.
    static IS_NAMED: Cell<bool> = const { Cell::new(false) };
}

/// `None` without a trace, and in a copy of this process that a task has forked.
#[inline]
pub(super) fn tracer() -> Option<&'static Tracer> {
    TRACER.get().filter(|tracer| tracer.original.is_current())
}

impl Tracer {
    /// Whether this process is a copy of one with a trace.
    pub(super) fn is_inherited() -> bool {
        TRACER.get().is_some_and(|tracer| !tracer.original.is_current())
    }

    /// Makes this process a part of the trace with these buffers, by the name that its track shall have. No
    /// events come from a process that finds no free buffer, or if there is a trace already.
    pub(super) fn begin(
        buffers: &Buffers,
        name: &str,
        parent: Option<ThreadId>,
        writer: Option<Writer>,
    ) -> Option<&'static Self> {
        if TRACER.get().is_some() {
            return None;
        }
        let tracer = Self::claim(buffers, parent, writer)?;
        let tracer = TRACER.get_or_init(|| tracer);
        tracer.name_process(name);
        Some(tracer)
    }

    /// `None` if no buffer is free.
    pub(super) fn claim(buffers: &Buffers, parent: Option<ThreadId>, writer: Option<Writer>) -> Option<Self> {
        let (pid, original) = (own_pid(), OriginalProcess::current());
        let process = ThreadId::current_and_process().1;
        let buffer = buffers.claim(process, parent)?;
        let (buffers, overflow) = (buffers.clone(), Overflow::default());
        Some(Self { buffers, buffer, overflow, pid, writer, original })
    }

    pub(super) fn name_process(&self, name: &str) {
        self.put(Event::name("process_name", Track::of_process(self.pid), name));
    }

    /// Writes an event. Never blocks: the caller may hold a lock, such as that of a pool.
    pub(super) fn put(&self, event: Event) {
        self.overflow.put(&self.buffer, event.end().as_bytes());
    }

    /// Writes an event, and those before it. Waits for room if there is none, so the caller holds no lock.
    pub(super) fn put_or_wait(&self, event: Event) {
        self.put_overflow();
        self.buffer.put(event.end().as_bytes());
    }

    /// Takes the lines that have overflown to the buffer, as [`put_or_wait`](Self::put_or_wait) does.
    pub(super) fn put_overflow(&self) {
        if let Some(lines) = self.overflow.take() {
            self.buffer.put(&lines);
        }
    }

    /// In the process that has begun the trace: takes the events of all processes to the file. Returns whether it
    /// has taken them all.
    pub(super) fn flush(&self, writer: &Writer, deadline: Deadline) -> bool {
        writer.flush(|| self.overflow.take().unwrap_or_default(), deadline)
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
