//! Records the failed items of a pool. Under the pool's lock they are kept; when it is released, they are
//! written, and only then delivered: the file exists before the error is seen.

use std::mem;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use super::call::Call;
use super::item_loop::ItemLoop;
use super::result_batch::ResultBatch;
use crate::error::{Error, Result};
use crate::ipc::packet::Message;
use crate::record::{Arguments, HOLD_DESCRIPTORS, Recorder, Runner, TaskRecord, wanted_directory};
use crate::spawn::supervisor::lock;
use crate::sys::poll::Deadline;
use crate::task::TaskId;
use crate::task::initializer::Initializer;

/// Where failed tasks are recorded, and how much of them.
#[derive(Clone)]
pub(crate) struct RecordOptions {
    pub(crate) directory: Option<PathBuf>,
    pub(crate) max_files: usize,
    pub(crate) max_bytes: usize,
}

impl RecordOptions {
    pub(super) fn recording<'a>(
        self,
        setup: impl IntoIterator<Item = &'a Initializer>,
    ) -> Result<Option<Arc<Recording>>> {
        let Some(directory) = self.directory.or_else(wanted_directory) else { return Ok(None) };
        let recorder = Recorder::new(&directory, self.max_files, self.max_bytes)?;
        Ok(Some(Recording::new(recorder, setup)))
    }
}

pub(crate) struct Recording {
    recorder: Arc<Recorder>,
    setup: Mutex<Setup>,
    failed: Mutex<Failed>,
    /// The last delivery has ended.
    delivered: Condvar,
}

/// Items that are not delivered yet.
#[derive(Default)]
struct Failed {
    waiting: Vec<FailedItem>,
    /// How many threads write and deliver some.
    deliveries: usize,
}

/// What workers run before any task. No descriptor is kept here: it could be the last sender of a queue.
#[derive(Default)]
struct Setup {
    functions: Vec<(TaskId, Vec<u8>)>,
    has_descriptors: bool,
}

struct FailedItem {
    call: Arc<Call>,
    index: u64,
    error: Error,
    arguments: ItemArguments,
}

/// The encoded arguments of an item, as they were in flight.
pub(crate) enum ItemArguments {
    Inline(Vec<u8>),
    OutOfLine(Message),
    /// They hold descriptors, which cannot be kept.
    HoldDescriptors,
}

impl Recording {
    pub(super) fn new<'a>(
        recorder: Arc<Recorder>,
        setup: impl IntoIterator<Item = &'a Initializer>,
    ) -> Arc<Self> {
        let (failed, delivered) = (Mutex::default(), Condvar::new());
        let recording = Self { recorder, setup: Mutex::default(), failed, delivered };
        setup.into_iter().for_each(|first| recording.add_setup(first));
        Arc::new(recording)
    }

    /// Adds a function that later workers run first.
    pub(super) fn add_setup(&self, first: &Initializer) {
        let mut setup = lock(&self.setup);
        setup.functions.push((first.task, first.args.clone()));
        setup.has_descriptors |= !first.descriptors.is_empty();
    }

    /// Whether an item that fails with this error is recorded. Counts it if so.
    pub(crate) fn takes(&self, error: &Error) -> bool {
        self.recorder.takes(error)
    }

    /// Fails an item: it is recorded and delivered when the pool's lock is released.
    pub(crate) fn fail(&self, call: Arc<Call>, index: u64, error: Error, arguments: ItemArguments) {
        lock(&self.failed).waiting.push(FailedItem { call, index, error, arguments });
    }

    /// Writes the records, and delivers the errors; returns whether there were any. Call without any lock.
    pub(super) fn deliver(&self) -> bool {
        let mut failed = lock(&self.failed);
        if failed.waiting.is_empty() {
            return false;
        }
        let items = mem::take(&mut failed.waiting);
        failed.deliveries += 1;
        drop(failed);
        let _ends = EndOfDelivery(self);
        for FailedItem { call, index, error, arguments } in items {
            let error = error.with_index((!call.is_single).then_some(index));
            let error = self.record(call.header.task, error, arguments);
            call.deliver(ResultBatch::Lost { first: index, count: 1, error });
        }
        true
    }

    /// Blocks until what other threads deliver is delivered; returns whether it is. A pool that has ended
    /// calls this: the program may exit next, and would lose the records. Call without any lock.
    pub(super) fn wait(&self, deadline: Deadline) -> bool {
        let mut failed = lock(&self.failed);
        while failed.deliveries > 0 && !deadline.is_over() {
            failed = match deadline.left() {
                None => self.delivered.wait(failed).unwrap_or_else(PoisonError::into_inner),
                Some(left) => {
                    self.delivered.wait_timeout(failed, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        failed.deliveries == 0
    }

    fn record(&self, task: TaskId, error: Error, arguments: ItemArguments) -> Error {
        let (setup_length, has_descriptors) = {
            let setup = lock(&self.setup);
            (setup.functions.iter().map(|(_, bytes)| bytes.len()).sum(), setup.has_descriptors)
        };
        let arguments = if has_descriptors {
            Err(format!("nor are those of the pool's initializer: {HOLD_DESCRIPTORS}"))
        } else {
            self.arguments(arguments, setup_length)
        };
        // Both are limited together. One without the other cannot be replayed.
        let setup = arguments.as_ref().map_or_else(|_| Vec::new(), |_| lock(&self.setup).functions.clone());
        let function = task.function::<ItemLoop>().to_owned();
        let runner = Runner::Pool;
        self.recorder.record(&TaskRecord { function, task, runner, error, setup, arguments })
    }

    fn arguments(&self, arguments: ItemArguments, setup_length: usize) -> Arguments {
        match arguments {
            ItemArguments::Inline(bytes) => self.recorder.arguments(setup_length + bytes.len(), || Ok(bytes)),
            ItemArguments::HoldDescriptors => Err(HOLD_DESCRIPTORS.to_owned()),
            ItemArguments::OutOfLine(message) => {
                let length = setup_length + message.length();
                self.recorder.arguments(length, || message.into_parts().map(|(bytes, _)| bytes))
            }
        }
    }
}

/// Counts a delivery as ended, even if a bug of this library made it panic.
struct EndOfDelivery<'a>(&'a Recording);

impl Drop for EndOfDelivery<'_> {
    fn drop(&mut self) {
        lock(&self.0.failed).deliveries -= 1;
        self.0.delivered.notify_all();
    }
}
