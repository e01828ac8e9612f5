//! A function that a process runs before it does anything for its pool.

use super::{RunOnce, TaskId};
use crate::error::Result;
use crate::impl_serde::impl_serde;
use crate::ipc::wire::{self, SharedFd};

#[derive(Clone, Debug)]
pub(crate) struct Initializer {
    pub(crate) task: TaskId,
    pub(crate) args: Vec<u8>,
    pub(crate) descriptors: Vec<SharedFd>,
    /// In inline mode, each thread runs it.
    pub(crate) makes_state: bool,
}

impl_serde!(struct Initializer { task, args, descriptors, makes_state });

impl Initializer {
    pub(crate) fn run(self) -> Result<()> {
        let descriptors =
            self.descriptors.into_iter().map(SharedFd::into_descriptor).collect::<Result<Vec<_>>>()?;
        let mut outcome = Vec::new();
        self.task.find::<RunOnce>()?.run(&self.args, descriptors, &mut outcome)?;
        wire::decode::<Result<()>>(&outcome, Vec::new(), "an initializer's outcome")?
    }
}
