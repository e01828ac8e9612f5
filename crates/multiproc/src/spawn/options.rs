//! How a child starts: by which method, and within what time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::Result;
use crate::spawn::exec::{self, DEFAULT_START_TIMEOUT, PreparedChild, SpawnedChild};
use crate::spawn::fork_server;
use crate::start_method::StartMethod;
use crate::sys::poll::Deadline;
use crate::task::RemoteFn;

/// How a child is to be started.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SpawnOptions {
    /// None is for the environment to say.
    pub(crate) method: Option<StartMethod>,
    /// How long the child may take to come up.
    pub(crate) timeout: Duration,
}

impl Default for SpawnOptions {
    fn default() -> Self {
        Self { method: None, timeout: DEFAULT_START_TIMEOUT }
    }
}

impl SpawnOptions {
    /// Starts a child that calls `function` with these arguments.
    pub(crate) fn spawn<F, Args>(self, name: String, function: F, args: &Args) -> Result<SpawnedChild>
    where
        F: RemoteFn<Args>,
        Args: Serialize + DeserializeOwned,
    {
        let deadline = Deadline::after(self.timeout);
        self.start(exec::prepare(name, function, args)?, deadline)
    }

    /// As [`call`](Self::spawn), for a function of the library's own.
    pub(crate) fn spawn_own<F, Args>(self, name: String, function: F, args: &Args) -> Result<SpawnedChild>
    where
        F: RemoteFn<Args>,
        Args: Serialize + DeserializeOwned,
    {
        let deadline = Deadline::after(self.timeout);
        self.start(exec::prepare_own(name, function, args)?, deadline)
    }

    fn start(self, prepared: PreparedChild, deadline: Deadline) -> Result<SpawnedChild> {
        let method = self.method.map_or_else(StartMethod::from_environment, Ok)?;
        if method == StartMethod::ForkServer
            && !CANNOT_FORK.load(Ordering::Relaxed)
            && let Some(bootstrap) = prepared.packet()
        {
            match fork_server::start(bootstrap, self.timeout, deadline)? {
                Some(child) => return prepared.adopt(child),
                None => CANNOT_FORK.store(true, Ordering::Relaxed),
            }
        }
        prepared.exec(Some(self.timeout), deadline)
    }

    /// Has so many children forked, or as many of them as may wait, while the caller prepares what else it takes to start
    /// them. What does not go well here, the starts will find out. Waits for nobody else's start.
    pub(crate) fn prefork(self, starts: usize) {
        let method = self.method.map_or_else(StartMethod::from_environment, Ok);
        if matches!(method, Ok(StartMethod::ForkServer)) && !CANNOT_FORK.load(Ordering::Relaxed) {
            fork_server::prefork(starts, Deadline::after(self.timeout));
        }
    }

    /// Starts that were announced will not come.
    pub(crate) fn cancel_prefork(self) {
        fork_server::cancel_prefork(Deadline::after(self.timeout));
    }
}

/// A zygote has found out that this system has not what it needs.
static CANNOT_FORK: AtomicBool = AtomicBool::new(false);
