//! The task of a `Process`, kept in its parent to be recorded if it fails.

use std::sync::Arc;

use crate::error::Error;
use crate::record::{Arguments, HOLD_DESCRIPTORS, Recorder, Runner, TaskRecord};
use crate::task::{RunOnce, TaskId};

pub(crate) struct RecordedTask {
    recorder: Arc<Recorder>,
    task: TaskId,
    arguments: Arguments,
}

impl RecordedTask {
    pub(super) fn new(recorder: Arc<Recorder>, task: TaskId, bytes: &[u8], has_descriptors: bool) -> Self {
        let arguments = if has_descriptors {
            Err(HOLD_DESCRIPTORS.to_owned())
        } else {
            recorder.arguments(bytes.len(), || Ok(bytes.to_vec()))
        };
        Self { recorder, task, arguments }
    }

    /// Records it, if it is to be with this error.
    pub(super) fn record(self, error: Error) -> Error {
        let Self { recorder, task, arguments } = self;
        if !recorder.takes(&error) {
            return error;
        }
        let function = task.function::<RunOnce>().to_owned();
        let (runner, setup) = (Runner::Process, Vec::new());
        recorder.record(&TaskRecord { function, task, runner, error, setup, arguments })
    }
}
