//! How a child is started: by which method, with which environment, and within which time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_core::Serialize;
use serde_core::de::DeserializeOwned;

use crate::error::{Error, Result};
use crate::ipc::wire;
use crate::record::Recorder;
use crate::spawn::bootstrap::EncodeArgs;
use crate::spawn::fork_server;
use crate::spawn::inline;
use crate::spawn::preload_server::PreloadServer;
use crate::spawn::recorded_task::RecordedTask;
use crate::spawn::spawned_child::{PreparedChild, SpawnedChild, prepare};
use crate::spawn::zygote::handle::ForkedChild;
use crate::start_method::StartMethod;
use crate::sys::environment::EnvChanges;
use crate::sys::poll::Deadline;
use crate::task::{RemoteFn, RunOnce, TaskId};

#[derive(Clone, Debug)]
pub(crate) struct SpawnOptions {
    /// If `None`, the program's.
    pub(crate) method: Option<StartMethod>,
    /// The time within which the child must reach `init`.
    pub(crate) timeout: Duration,
    /// Whether tasks run in this process. If `None`, as the environment says.
    pub(crate) inline: Option<bool>,
    pub(crate) environment: EnvChanges,
}

/// The time within which a child must reach [`init`](crate::init()), unless the caller sets another.
const DEFAULT_START_TIMEOUT: Duration = Duration::from_secs(10);

impl Default for SpawnOptions {
    fn default() -> Self {
        Self {
            method: None,
            timeout: DEFAULT_START_TIMEOUT,
            inline: None,
            environment: EnvChanges::default(),
        }
    }
}

impl SpawnOptions {
    /// Whether tasks run in this process, without a child.
    pub(crate) fn is_inline(&self) -> Result<bool> {
        self.inline.map_or_else(inline::is_wanted, Ok)
    }

    /// Starts a child that calls `function` with these arguments.
    pub(crate) fn spawn<F, Args>(&self, name: String, function: F, args: &Args) -> Result<SpawnedChild>
    where
        F: RemoteFn<Args>,
        Args: Serialize + DeserializeOwned,
    {
        let task = TaskId::of::<RunOnce, _, _>(function)?;
        self.spawn_task(name, task, &mut |body| wire::encode_with_descriptors(args, body, "the arguments"))
    }

    fn spawn_task(&self, name: String, task: TaskId, encode: &mut EncodeArgs<'_>) -> Result<SpawnedChild> {
        let deadline = Deadline::limit(self.timeout);
        let mut recorder = Recorder::from_environment()?;
        let mut kept = None;
        let mut encode = |body: &mut Vec<u8>| {
            let start = body.len();
            let descriptors = encode(body)?;
            let bytes = body.get(start..).unwrap_or_default();
            let recorder = recorder.take();
            kept = recorder.map(|recorder| RecordedTask::new(recorder, task, bytes, !descriptors.is_empty()));
            Ok(descriptors)
        };
        let prepared = prepare(name, Some(task), &mut encode)?;
        Ok(self.start(prepared, deadline)?.recorded_as(kept))
    }

    /// As [`spawn`](Self::spawn), for a function of this library. The child is forked by `server`, if any.
    pub(crate) fn spawn_internal<F, Args>(
        &self,
        name: String,
        function: F,
        args: &Args,
        server: Option<&PreloadServer>,
    ) -> Result<SpawnedChild>
    where
        F: RemoteFn<Args>,
        Args: Serialize + DeserializeOwned,
    {
        let deadline = Deadline::limit(self.timeout);
        let task = TaskId::of_internal(function)?;
        let mut encode =
            |body: &mut Vec<u8>| wire::encode_internal_with_descriptors(args, body, "the arguments");
        let prepared = prepare(name, Some(task), &mut encode)?;
        let Some(server) = server else { return self.start(prepared, deadline) };
        let too_many =
            || Error::invalid("the arguments of the pool's initializers hold too many descriptors");
        let bootstrap = prepared.packet().ok_or_else(too_many)?;
        let ForkedChild { pid, pidfd, start_socket } = server.start(bootstrap, self.timeout)?;
        prepared.watch(pid, pidfd, start_socket)
    }

    /// An error unless children are forked.
    pub(crate) fn check_can_preload(&self) -> Result<()> {
        match self.method()? {
            StartMethod::ForkServer => Ok(()),
            StartMethod::Spawn => Err(Error::invalid(
                "`preload` needs the start method `ForkServer`: an executed child shares no memory",
            )),
        }
    }

    fn start(&self, prepared: PreparedChild, deadline: Deadline) -> Result<SpawnedChild> {
        match self.method()? {
            StartMethod::ForkServer if self.can_fork() => self.fork(prepared, deadline),
            StartMethod::ForkServer | StartMethod::Spawn => self.exec(prepared, deadline),
        }
    }

    /// Has a zygote fork the child; executes it where that cannot be.
    fn fork(&self, prepared: PreparedChild, deadline: Deadline) -> Result<SpawnedChild> {
        if let Some(bootstrap) = prepared.packet() {
            match fork_server::start(bootstrap, self.timeout, deadline)? {
                Some(ForkedChild { pid, pidfd, start_socket }) => {
                    return prepared.watch(pid, pidfd, start_socket);
                }
                None => CANNOT_FORK.store(true, Ordering::Relaxed),
            }
        }
        self.exec(prepared, deadline)
    }

    fn exec(&self, prepared: PreparedChild, deadline: Deadline) -> Result<SpawnedChild> {
        prepared.exec(self.environment.clone(), Some(self.timeout), deadline)
    }

    fn method(&self) -> Result<StartMethod> {
        self.method.map_or_else(StartMethod::of_program, Ok)
    }

    /// Keeps the present method for all later starts.
    pub(crate) fn fix_method(&mut self) -> Result<()> {
        self.method = Some(self.method()?);
        Ok(())
    }

    /// Not with an environment of its own: what has run before the fork may have read the environment.
    fn can_fork(&self) -> bool {
        self.environment.is_empty() && !CANNOT_FORK.load(Ordering::Relaxed)
    }

    /// Has children forked for starts that will follow, while the caller prepares them. Waits for no other
    /// start, and ignores errors: the starts will report them.
    pub(crate) fn prefork(&self, starts: usize) {
        if matches!(self.method(), Ok(StartMethod::ForkServer)) && self.can_fork() {
            fork_server::prefork(starts, Deadline::limit(self.timeout));
        }
    }

    /// Ends children that [`prefork`](Self::prefork) has requested and no start has taken.
    pub(crate) fn cancel_prefork(&self) {
        fork_server::cancel_prefork(Deadline::limit(self.timeout));
    }
}

/// Whether a zygote has reported that this system lacks what it needs.
static CANNOT_FORK: AtomicBool = AtomicBool::new(false);
