//! A pool in inline mode: runs the items of a chunk in the thread that submits them.

use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use super::call::Call;
use super::chunk::{Body, Chunk};
use super::item_loop::ItemLoop;
use super::result_batch::ResultBatch;
use super::state::{self, PoolKey};
use crate::error::{Error, Origin, Result};
use crate::ipc::frame::{Frames, begin_frame, end_frame};
use crate::ipc::wire::{self, Arrived, SharedFd};
use crate::pool::worker_rings::{ERROR, OneResult, VALUE};
use crate::spawn::inline;
use crate::sys::process::own_pid;
use crate::task::initializer::Initializer;

/// The threads that submit items to an inline pool, in place of its workers. The first one runs all initializers;
/// each has a state of its own.
pub(crate) struct InlineWorkers {
    /// Its key, while it lives.
    pool: Arc<()>,
    initializers: Vec<Initializer>,
    has_begun: AtomicBool,
}

thread_local! {
    /// The pools for which this thread has run initializers.
    static READY: RefCell<Vec<PoolKey>> = const { RefCell::new(Vec::new()) };
}

impl InlineWorkers {
    pub(crate) fn new(initializers: Vec<Initializer>) -> Self {
        Self { pool: Arc::new(()), initializers, has_begun: AtomicBool::new(false) }
    }

    /// Runs the initializers in the first thread, and what makes the state in each other. Returns their error, then
    /// and at the next call.
    pub(crate) fn make_ready(&self) -> Result<()> {
        let this = Arc::downgrade(&self.pool);
        // At once, since an initializer may use the pool. A pool that has ended is forgotten.
        let enter = |ready: &RefCell<Vec<PoolKey>>| {
            let mut ready = ready.borrow_mut();
            ready.retain(|other| other.strong_count() > 0);
            let is_new = !ready.iter().any(|other| other.ptr_eq(&this));
            ready.extend(is_new.then(|| PoolKey::clone(&this)));
            is_new
        };
        match READY.try_with(enter) {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            Err(_) => {
                return Err(Error::invalid("a pool in inline mode cannot be used by a thread that ends"));
            }
        }
        state::drop_ended_states();
        let is_first = !self.has_begun.swap(true, Relaxed);
        let mut needed = self.initializers.iter().filter(|one| is_first || one.makes_state).cloned();
        let run = || needed.try_for_each(|one| inline::run(|| one.run()));
        state::within(&self.pool, run).map_err(|error| {
            let _ = READY.try_with(|ready| ready.borrow_mut().retain(|other| !other.ptr_eq(&this)));
            error.during_startup()
        })
    }

    /// Drops the state of this thread.
    pub(crate) fn drop_state(&self) {
        state::drop_inline_state(&self.pool);
    }

    /// Runs every item, and delivers the results.
    pub(crate) fn run_chunk(&self, chunk: Chunk) {
        state::within(&self.pool, || run_chunk(chunk));
    }
}

fn run_chunk(chunk: Chunk) {
    let Chunk { call, first, segments, body, .. } = chunk;
    let task = call.header.task.find::<ItemLoop>();
    let run = |args: &[u8], descriptors: Vec<OwnedFd>, out: &mut Vec<u8>| {
        let arrived = Arrived::new(descriptors, segments.clone());
        inline::run(|| task.clone()?.once.run(args, arrived, out))?
            .into_iter()
            .map(SharedFd::into_descriptor)
            .collect::<Result<Vec<_>>>()
    };
    let mut results = Finished { call, first, count: 0, frames: Vec::new() };
    match body {
        Body::Frames { bytes, start } => {
            let mut items = Frames::new(bytes.get(start..).unwrap_or_default());
            while let Some((_, args)) = items.next() {
                results.add(|out| run(args, Vec::new(), out));
            }
        }
        Body::Values { bytes, start, size } => {
            for args in bytes.get(start..).unwrap_or_default().chunks_exact(size as usize) {
                results.add(|out| run(args, Vec::new(), out));
            }
        }
        Body::OutOfLine(message) => results.add(|out| {
            let (args, descriptors) = message.into_parts()?;
            run(&args, descriptors, out)
        }),
    }
    results.deliver();
}

/// Results to deliver together: those of `count` items from `first` on.
struct Finished {
    call: Arc<Call>,
    first: u64,
    count: u32,
    frames: Vec<u8>,
}

impl Finished {
    /// Appends the frame of a result, or of an error. A result with descriptors is delivered by itself.
    fn add(&mut self, run: impl FnOnce(&mut Vec<u8>) -> Result<Vec<OwnedFd>>) {
        let start = begin_frame(&mut self.frames);
        let value = self.frames.len();
        let kind = match run(&mut self.frames) {
            Ok(descriptors) if !descriptors.is_empty() => {
                let bytes = self.frames.split_off(value);
                self.frames.truncate(start);
                return self.deliver_alone(OneResult { descriptors, ..OneResult::of(VALUE, bytes) });
            }
            Ok(_) => VALUE,
            Err(error) => {
                let error: Error = error.or_with_origin(|| Origin::Worker { pid: own_pid() });
                self.frames.truncate(value);
                let _ = wire::encode_internal(&error, &mut self.frames, "an error"); // of strings: cannot fail
                ERROR
            }
        };
        end_frame(&mut self.frames, start, kind);
        self.count += 1;
    }

    fn deliver_alone(&mut self, result: OneResult) {
        self.deliver();
        self.call.deliver(ResultBatch::Result { index: self.first, result });
        self.first += 1;
    }

    fn deliver(&mut self) {
        if self.count > 0 {
            let results = Frames::new(std::mem::take(&mut self.frames));
            self.call.deliver(ResultBatch::Results { spans: vec![(self.first, self.count)], results });
        }
        self.first += u64::from(std::mem::take(&mut self.count));
    }
}
