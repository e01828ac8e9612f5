//! Has items that fail recorded, with their arguments from the worker's rings.

use std::sync::Arc;

use super::WorkerHandle;
use crate::error::{Error, Result};
use crate::ipc::frame::Frames;
use crate::ipc::wire;
use crate::pool::worker_rings::{ERROR, OneResult};

impl WorkerHandle {
    /// Whether some of these results are errors, of which the pool records panics.
    pub(super) fn may_record(&self, results: &mut Frames) -> bool {
        if self.recording.is_none() {
            return false;
        }
        let start = results.consumed();
        let mut has_error = false;
        while let Some((kind, _)) = results.next() {
            has_error |= kind == ERROR;
        }
        results.back_to(start);
        has_error
    }

    /// Completes the first item if its result is a panic that the pool records; returns whether it is.
    pub(super) fn record_panic(&mut self, result: &OneResult) -> bool {
        if self.recording.is_none() || result.kind != ERROR {
            return false;
        }
        let decode = |bytes: &[u8]| wire::decode_internal(bytes, Vec::new(), "a task's error");
        let error: Result<Error> = result.content.with_bytes(decode);
        error.is_ok_and(|error| error.is_panic() && self.record_front(&error))
    }

    /// Completes the first item, which has failed, if the pool records it; returns whether it does. A worker
    /// that was told to exit has not failed by itself.
    pub(super) fn record_front(&mut self, error: &Error) -> bool {
        let was_told_to_exit = self.phase.was_told_to_exit();
        let Some(recording) = self.recording.clone().filter(|_| !was_told_to_exit) else { return false };
        if self.in_flight.count() == 0 || !recording.takes(error) {
            return false;
        }
        let mut arguments = self.in_flight.take_arguments(&self.rings);
        self.complete(1, |call, index, _| {
            if let Some(arguments) = arguments.take() {
                recording.fail(Arc::clone(call), index, error.clone(), arguments);
            }
        });
        true
    }
}
