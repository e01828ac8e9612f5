//! A pool in inline mode: runs the items of a chunk in the thread that submits them.

use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use super::call::{Call, ResultBatch};
use super::chunk::{Body, Chunk};
use super::item_loop::ItemLoop;
use super::state::{self, PoolKey};
use crate::error::{Error, Origin, Result};
use crate::ipc::frame::{Frames, begin_frame, end_frame};
use crate::ipc::wire::{self, SharedFd};
use crate::pool::worker_rings::{ERROR, OneResult, VALUE};
use crate::spawn::inline;
use crate::spawn::supervisor::lock;
use crate::sys::process::own_pid;
use crate::task::initializer::Initializer;

/// The threads that submit items to an inline pool, in place of its workers. Each runs the initializers once,
/// and has a state of its own.
pub(crate) struct InlineWorkers {
    /// Its key, while it lives.
    pool: Arc<()>,
    initializers: Mutex<Vec<Initializer>>,
}

thread_local! {
    /// The pools whose initializers this thread has run.
    static READY: RefCell<Vec<PoolKey>> = const { RefCell::new(Vec::new()) };
}

impl InlineWorkers {
    pub(crate) fn new(initializers: Vec<Initializer>) -> Self {
        Self { pool: Arc::new(()), initializers: Mutex::new(initializers) }
    }

    /// Runs the initializers if this thread has not done so. Returns their error, then and at the next call.
    pub(crate) fn make_ready(&self) -> Result<()> {
        let this = Arc::downgrade(&self.pool);
        if READY.with_borrow(|ready| ready.iter().any(|other| other.ptr_eq(&this))) {
            return Ok(());
        }
        // At once, since an initializer may use the pool. A pool that has ended is forgotten.
        READY.with_borrow_mut(|ready| {
            ready.retain(|other| other.strong_count() > 0);
            ready.push(PoolKey::clone(&this));
        });
        let initializers = lock(&self.initializers).clone();
        let run = |all: Vec<Initializer>| all.into_iter().try_for_each(|first| inline::run(|| first.run()));
        state::within(&self.pool, || run(initializers)).map_err(|error| {
            READY.with_borrow_mut(|ready| ready.retain(|other| !other.ptr_eq(&this)));
            error.during_startup()
        })
    }

    /// Later threads run this one, too.
    pub(crate) fn add(&self, initializer: Initializer) {
        lock(&self.initializers).push(initializer);
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
    let Chunk { call, first, body, .. } = chunk;
    let task = call.header.task.find::<ItemLoop>();
    let run = |args: &[u8], descriptors: Vec<OwnedFd>, out: &mut Vec<u8>| {
        inline::run(|| task.clone()?.once.run(args, descriptors, out))?
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
