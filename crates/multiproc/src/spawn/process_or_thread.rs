//! What a `Process` is: a child, or in inline mode a thread.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use serde_core::Serialize;
use serde_core::de::DeserializeOwned;

use crate::error::{Origin, Result};
use crate::spawn::inline::InlineChild;
use crate::spawn::options::SpawnOptions;
use crate::spawn::spawned_child::SpawnedChild;
use crate::spawn::supervisor::OnChange;
use crate::sys::pidfd::Exit;
use crate::sys::poll::Deadline;
use crate::sys::process::own_pid;
use crate::task::RemoteFn;

pub(crate) enum ProcessOrThread {
    Child(SpawnedChild),
    Thread(InlineChild),
}

impl ProcessOrThread {
    pub(crate) fn new<F, Args>(options: &SpawnOptions, name: String, function: F, args: &Args) -> Result<Self>
    where
        F: RemoteFn<Args>,
        Args: Serialize + DeserializeOwned,
    {
        if options.is_inline()? {
            InlineChild::start(name, function, args).map(Self::Thread)
        } else {
            options.spawn(name, function, args).map(Self::Child)
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        match self {
            Self::Child(started) => started.child.pid(),
            Self::Thread(_) => own_pid(),
        }
    }

    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Child(started) => started.child.name(),
            Self::Thread(thread) => thread.name(),
        }
    }

    pub(crate) fn is_alive(&self) -> bool {
        match self {
            Self::Child(started) => started.child.is_alive(),
            Self::Thread(thread) => thread.exit_code().is_none(),
        }
    }

    /// How it has ended.
    pub(crate) fn exit(&self) -> Option<Exit> {
        match self {
            Self::Child(started) => started.child.exit(),
            Self::Thread(thread) => thread.exit_code().map(Exit::Code),
        }
    }

    pub(crate) fn terminate(&self) -> Result<()> {
        match self {
            Self::Child(started) => {
                started.child.check_not_forked()?;
                started.child.terminate()
            }
            Self::Thread(thread) => thread.kill(),
        }
    }

    pub(crate) fn kill(&self) -> Result<()> {
        match self {
            Self::Child(started) => {
                started.child.check_not_forked()?;
                started.child.kill();
                Ok(())
            }
            Self::Thread(thread) => thread.kill(),
        }
    }

    /// Waits until it has ended; returns whether that was before the deadline.
    pub(crate) fn wait(&self, deadline: Deadline) -> Result<bool> {
        match self {
            Self::Child(started) => {
                started.child.check_not_forked()?;
                Ok(started.wait(deadline))
            }
            Self::Thread(thread) => thread.wait(deadline),
        }
    }

    /// The encoded result and its descriptors, once it has ended.
    pub(crate) fn result(&self, origin: &dyn Fn() -> Origin) -> Result<(Vec<u8>, Vec<OwnedFd>)> {
        match self {
            Self::Child(started) => started.result(origin),
            Self::Thread(thread) => thread.result(origin),
        }
    }

    /// Has `on_change` called when it has ended, and now, since it may have already.
    pub(crate) fn set_on_change(&self, on_change: OnChange) {
        match self {
            Self::Child(started) => started.child.set_on_change(on_change),
            Self::Thread(thread) => thread.set_on_change(on_change),
        }
    }

    /// Readable once it has ended.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Child(started) => started.child.as_fd(),
            Self::Thread(thread) => thread.as_fd(),
        }
    }
}
