//! `ServerBuilder`: the options of a server.

use std::ffi::OsStr;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_core::Serialize;
use serde_core::de::DeserializeOwned;

use super::Server;
use super::monitor::{Limit, Monitor};
use super::server_main::{Start, requests};
use super::status_page::{self, StatusPage};
use crate::channel::sockets;
use crate::error::{Error, Result, TaskError};
use crate::ipc::wire::{self, SharedMemory};
use crate::spawn::options::SpawnOptions;
use crate::start_method::StartMethod;
use crate::task::TaskId;
use crate::task::method::{MakeState, RemoteInit};

/// Options for a server. Made by [`Server::builder`].
#[derive(Clone, Debug)]
pub struct ServerBuilder {
    name: Option<String>,
    capacity: u32,
    restart: Option<Limit>,
    options: SpawnOptions,
}

const DEFAULT_CAPACITY: u32 = 1000;

impl ServerBuilder {
    pub(super) fn new() -> Self {
        Self { name: None, capacity: DEFAULT_CAPACITY, restart: None, options: SpawnOptions::default() }
    }

    /// The server's name in errors and in `ps`, as that of a [`Process`](crate::Process). The default is
    /// `Server-1`, `Server-2` and so on.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// How many calls may wait, from all callers together. A further one blocks until the server takes one, or
    /// is an error of [`Server::try_submit`]. The default is 1000. A process connects with its first call, which
    /// then counts as two until the server has taken the connection. An idle server takes it at once.
    ///
    /// Calls also wait for room in 1 MiB for their arguments, of which at least half is always usable, and for the
    /// limits that the messages of a [pipe](crate::Connection::send) wait for.
    #[must_use]
    pub fn capacity(mut self, calls: u32) -> Self {
        self.capacity = calls;
        self
    }

    /// Has the state made again, in a new process, when the server dies or a method panics.
    ///
    /// The caller of the running call gets the error; the calls after it go on with the new state. A call is
    /// never run twice. When that happens more often than the limit allows, the server has ended, and all
    /// calls get the last error. The spawning process keeps a copy of the arguments, also of ends of queues
    /// and pipes among them.
    ///
    /// The new process keeps the result of a call that waited until its caller connects again, which it does at its
    /// next call or wait. If that process ends or dies before, the call has an error although it has run. A server
    /// that is [stopped](Server::stop) is not made again however its process ends. One that dies in a call after its
    /// last handle is gone may be made once more, and ends then.
    #[must_use]
    pub fn restart(mut self, limit: Limit) -> Self {
        self.restart = Some(limit);
        self
    }

    /// The time within which the process must have started; see
    /// [`ProcessBuilder::start_timeout`](crate::ProcessBuilder::start_timeout). The default is 10 seconds.
    #[must_use]
    pub fn start_timeout(mut self, time: Duration) -> Self {
        self.options.timeout = time;
        self
    }

    /// The start method. The default is [`StartMethod::default`].
    #[must_use]
    pub fn start_method(mut self, method: StartMethod) -> Self {
        self.options.method = Some(method);
        self
    }

    /// Sets a variable of the process's environment; see
    /// [`ProcessBuilder::env`](crate::ProcessBuilder::env).
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.options.environment.change(name.as_ref(), Some(value.as_ref()));
        self
    }

    /// Removes a variable from the process's environment; see
    /// [`ProcessBuilder::env`](crate::ProcessBuilder::env).
    #[must_use]
    pub fn env_remove(mut self, name: impl AsRef<OsStr>) -> Self {
        self.options.environment.change(name.as_ref(), None);
        self
    }

    /// Starts the server. See [`Server::spawn`].
    ///
    /// # Errors
    /// Those of [`Server::spawn`]; and when the [capacity](Self::capacity) is 0.
    pub fn spawn<F, Args>(self, make: F, args: Args) -> Result<Server<F::State>>
    where
        F: RemoteInit<Args>,
        Args: Serialize + DeserializeOwned,
    {
        self.start(MakeState::id(make)?, args)
    }

    /// Starts the server, whose state is made by a function that may fail. See [`Server::try_spawn`].
    ///
    /// # Errors
    /// Those of [`spawn`](Self::spawn).
    pub fn try_spawn<F, Args, S, E>(self, make: F, args: Args) -> Result<Server<S>>
    where
        F: RemoteInit<Args, State = std::result::Result<S, E>>,
        Args: Serialize + DeserializeOwned,
        S: 'static,
        TaskError: From<E>,
    {
        self.start(MakeState::id_of_fallible(make)?, args)
    }

    fn start<S, Args: Serialize + DeserializeOwned>(self, make: TaskId, args: Args) -> Result<Server<S>> {
        static COUNT: AtomicU64 = AtomicU64::new(1);
        if self.capacity == 0 {
            return Err(Error::invalid("a server's capacity must be at least 1"));
        }
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = self.name.unwrap_or_else(|| format!("Server-{number}"));
        let mut encoded = Vec::new();
        let descriptors = wire::encode_with_descriptors(&args, &mut encoded, "the arguments")?;
        drop(args); // its ends of queues and pipes have moved
        let layout = requests(self.capacity);
        let size = NonZeroUsize::new(layout.end()).unwrap_or(NonZeroUsize::MIN);
        let memory = SharedMemory::create(size)?;
        StatusPage(&memory).init();
        let (from, to) = sockets()?;
        let (sender, receiver) = layout.create(&memory, from, to)?;
        let start = Start {
            name: name.clone(),
            memory,
            fds: receiver.end().fds().clone(),
            capacity: self.capacity,
            make,
            args: encoded,
            descriptors,
            restarts: self.restart.is_some(),
            failed: None,
        };
        drop(receiver);
        let mut options = self.options;
        options.fix_method()?; // for restarts
        let monitor = Monitor::start(start, options, self.restart)?;
        Ok(Server::new(name, sender, Some(monitor)))
    }
}

const _: () = assert!(status_page::SIZE.is_multiple_of(4096));
