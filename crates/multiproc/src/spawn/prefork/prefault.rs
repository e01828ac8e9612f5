//! Pre-faulting: running an empty task once, to initialise what is made at first use and to copy the pages
//! that a task will write to.

use crate::ipc::packet::{self, Message};
use crate::ipc::wire;
use crate::spawn::bootstrap;
use crate::spawn::outcome;
use crate::sys::output::flush_single_threaded;
use crate::task::{RunOnce, TaskId};

/// A bootstrap message for a task that does nothing.
///
/// The zygote runs it once, so that its children inherit what that initialises. A child that was forked ahead
/// runs it while no start waits: each of its copy-on-write faults takes as long as several system calls.
pub(crate) struct Prefault(Vec<u8>);

impl Prefault {
    pub(crate) fn new(name: &str) -> Self {
        let mut encode = |body: &mut Vec<u8>| wire::encode_with_descriptors(&(), body, "the arguments");
        let task = TaskId::of::<RunOnce, _, ()>(|| ()).ok();
        let bootstrap = bootstrap::encode(name, task, &mut encode);
        Self(bootstrap.map(|(body, _)| packet::packet(&body)).unwrap_or_default())
    }

    pub(crate) fn run(&self) {
        let start = bootstrap::receive(&self.0, Vec::new());
        if let Some(Ok(task)) = start.ok().and_then(|start| start.task) {
            let mut outcome = outcome::returned();
            let descriptors = task.run(&[], Vec::new(), &mut outcome);
            let _ = descriptors.and_then(|descriptors| Message::new(outcome, descriptors));
        }
        flush_single_threaded();
    }
}
