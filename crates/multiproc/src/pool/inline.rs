//! A pool in inline mode: runs the items of a chunk in the thread that submits them.

use std::os::fd::OwnedFd;

use super::call::ResultBatch;
use super::chunk::{Body, Chunk};
use super::item_loop::ItemLoop;
use crate::error::{Error, Origin, Result};
use crate::ipc::frame::{Frames, begin_frame, end_frame};
use crate::ipc::wire;
use crate::pool::worker_rings::{ERROR, VALUE};
use crate::spawn::inline;
use crate::sys::process::own_pid;

/// Runs every item, and delivers the results.
pub(crate) fn run_chunk(chunk: Chunk) {
    let Chunk { call, first, count, body, .. } = chunk;
    let task = call.header.task.find::<ItemLoop>();
    let run = |args: &[u8], descriptors: Vec<OwnedFd>, out: &mut Vec<u8>| {
        let task = task.clone()?;
        match inline::run(|| task.once.run(args, descriptors, out))?.len() {
            0 => Ok(()),
            _ => Err(wire::no_descriptors("the result")),
        }
    };
    let mut results = Vec::new();
    match body {
        Body::Frames { bytes, start } => {
            let mut items = Frames::new(bytes.get(start..).unwrap_or_default());
            while let Some((_, args)) = items.next() {
                add_result(&mut results, |out| run(args, Vec::new(), out));
            }
        }
        Body::Message(message) => add_result(&mut results, |out| {
            let (args, descriptors) = message.into_parts()?;
            run(&args, descriptors, out)
        }),
    }
    call.deliver(ResultBatch::Results { runs: vec![(first, count)], results: Frames::new(results) });
}

/// Appends the frame of a result, or of an error.
fn add_result(results: &mut Vec<u8>, run: impl FnOnce(&mut Vec<u8>) -> Result<()>) {
    let start = begin_frame(results);
    let kind = match run(results) {
        Ok(()) => VALUE,
        Err(error) => {
            let error: Error = error.or_with_origin(|| Origin::Worker { pid: own_pid() });
            let _ = wire::encode_internal(&error, results, "an error"); // of strings and numbers: cannot fail
            ERROR
        }
    };
    end_frame(results, start, kind);
}
