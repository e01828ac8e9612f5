//! Records the failed items of a pool. Under the pool's lock they are kept; when it is released, they are
//! written, and only then delivered: the file exists before the error is seen.

use std::mem;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use super::call::{Call, ResultBatch};
use super::item_loop::ItemLoop;
use crate::error::{Error, Result};
use crate::ipc::packet::Message;
use crate::record::{Arguments, HOLD_DESCRIPTORS, Recorder, Runner, TaskRecord, wanted_directory};
use crate::spawn::supervisor::lock;
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
    /// Items that are not written yet.
    failed: Mutex<Vec<FailedItem>>,
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
}

impl Recording {
    pub(super) fn new<'a>(
        recorder: Arc<Recorder>,
        setup: impl IntoIterator<Item = &'a Initializer>,
    ) -> Arc<Self> {
        let recording = Self { recorder, setup: Mutex::default(), failed: Mutex::default() };
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
        lock(&self.failed).push(FailedItem { call, index, error, arguments });
    }

    /// Writes the records, and delivers the errors; returns whether there were any. Call without any lock.
    pub(super) fn deliver(&self) -> bool {
        let failed = mem::take(&mut *lock(&self.failed));
        let is_any = !failed.is_empty();
        for FailedItem { call, index, error, arguments } in failed {
            let error = error.with_index((!call.is_single).then_some(index));
            let error = self.record(call.header.task, error, arguments);
            call.deliver(ResultBatch::Lost { first: index, count: 1, error });
        }
        is_any
    }

    fn record(&self, task: TaskId, error: Error, arguments: ItemArguments) -> Error {
        let (setup, has_descriptors) = {
            let setup = lock(&self.setup);
            (setup.functions.clone(), setup.has_descriptors)
        };
        let arguments = if has_descriptors {
            Err(format!("nor are those of the pool's initializer: {HOLD_DESCRIPTORS}"))
        } else {
            self.arguments(arguments)
        };
        let function = task.function::<ItemLoop>().to_owned();
        let runner = Runner::Pool;
        self.recorder.record(&TaskRecord { function, task, runner, error, setup, arguments })
    }

    fn arguments(&self, arguments: ItemArguments) -> Arguments {
        match arguments {
            ItemArguments::Inline(bytes) => self.recorder.arguments(bytes.len(), || Ok(bytes)),
            ItemArguments::OutOfLine(message) if message.had_descriptors() => {
                Err(HOLD_DESCRIPTORS.to_owned())
            }
            ItemArguments::OutOfLine(message) => {
                self.recorder.arguments(message.length(), || message.into_parts().map(|(bytes, _)| bytes))
            }
        }
    }
}
