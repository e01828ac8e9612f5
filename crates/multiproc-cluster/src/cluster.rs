//! `Cluster`: the connection of a caller, and the thread that serves it.

use std::fmt;
use std::mem::forget;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use async_nats::jetstream::stream::StorageType;
use multiproc::Result;
use multiproc::pool::encoded::{self, OriginalProcess};
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use crate::build_id;
use crate::caller::{Caller, Settings};
use crate::connection::Connection;
use crate::options::{ClusterBuilder, Storage};
use crate::original;
use crate::pool::Pool;

/// Many hosts that run this program, behind a NATS server with `JetStream`.
///
/// ```no_run
/// use multiproc_cluster::Cluster;
///
/// fn main() -> multiproc::Result<()> {
///     multiproc_cluster::init(); // with MULTIPROC_AGENT set, this program is an agent
///     let pool = Cluster::connect("nats://10.0.0.1:4222")?.pool("squares")?;
///     assert_eq!(pool.map(|n: u64| n * n, 1..=3)?, [1, 4, 9]);
///     Ok(())
/// }
/// ```
///
/// It can be cloned; the connection ends with the last clone and the last of its pools.
#[derive(Clone)]
pub struct Cluster {
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    connection: Connection,
    settings: Settings,
    runtime: Runtime,
}

/// A thread that runs asynchronous tasks.
struct Runtime {
    original: OriginalProcess,
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Cluster {
    /// Connects to a server, such as `nats://10.0.0.1:4222`, or `nats://token@host`, or several that belong
    /// together, with commas between them; with the default options of [`builder`](Self::builder). Blocks until
    /// a server has answered, for at most five seconds for each address, and for as long as the system takes to look up
    /// names.
    ///
    /// Special characters of a token, a user or a password are percent-encoded: `%2C` is a comma, `%25` a percent sign.
    ///
    /// # Errors
    /// When no server answers, or when it refuses the credentials.
    pub fn connect(url: &str) -> Result<Self> {
        Self::builder(url).connect()
    }

    /// The options of a connection.
    pub fn builder(url: &str) -> ClusterBuilder {
        ClusterBuilder::new(url)
    }

    pub(crate) fn start(builder: ClusterBuilder) -> Result<Self> {
        let build = build_id::own()?;
        let runtime = Runtime::start()?;
        let (url, options) = (builder.url, builder.connect);
        let connecting = async move { Connection::new(&url, options, "multiproc caller").await };
        let connection = runtime.run(connecting)?.map_err(|refusal| refusal.error)?;
        let storage = match builder.storage {
            Storage::Memory => StorageType::Memory,
            Storage::File => StorageType::File,
        };
        let settings = Settings { build, lease: builder.lease, storage, max_pending: builder.max_pending };
        Ok(Self { shared: Arc::new(Shared { connection, settings, runtime }) })
    }

    /// A pool of all workers of all agents. Blocks while the broker makes its stream.
    ///
    /// Several callers may use a name at once: each has a stream of its own. The name is part of subjects, so
    /// that the broker's permissions can be given by pool; it consists of letters, digits, `-` and `_`.
    ///
    /// # Errors
    /// When the name has other characters, or when the broker does not make the stream.
    pub fn pool(&self, name: &str) -> Result<Pool> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if name.is_empty() || name.len() > 64 || !name.chars().all(is_plain) {
            return Err(encoded::invalid(format!(
                "a pool's name has 1 to 64 letters, digits, `-` and `_`, unlike {name:?}"
            )));
        }
        let Shared { connection, settings, runtime } = &*self.shared;
        let handle = runtime.handle.clone();
        let caller = Caller::begin(name.to_owned(), connection.clone(), *settings, handle);
        Ok(Pool::new(Arc::clone(&self.shared), runtime.run(caller)??))
    }
}

/// A heartbeat is a third of it, and the clocks of hosts and broker must tell that from none.
const MIN_LEASE: Duration = Duration::from_millis(500);

/// A day. After a lease the work of a lost host is given to others, so a longer one is a mistake.
const MAX_LEASE: Duration = Duration::from_secs(24 * 60 * 60);

impl ClusterBuilder {
    /// Connects. Blocks as [`Cluster::connect`] does.
    ///
    /// # Errors
    /// When no broker answers, or when it refuses the credentials.
    pub fn connect(self) -> Result<Cluster> {
        if !(MIN_LEASE..=MAX_LEASE).contains(&self.lease) {
            return Err(encoded::invalid(format!("`lease` must be from {MIN_LEASE:?} to {MAX_LEASE:?}")));
        }
        if self.max_pending == 0 {
            return Err(encoded::invalid("`max_pending` must be at least 1".to_owned()));
        }
        Cluster::start(self)
    }
}

impl Shared {
    /// Runs an asynchronous function to its end.
    pub(crate) fn run<T: Send + 'static>(&self, task: impl Future<Output = T> + Send + 'static) -> Result<T> {
        self.runtime.run(task)
    }
}

impl Runtime {
    fn start() -> Result<Self> {
        let failed = |error: std::io::Error| encoded::unreachable(format!("cannot start a thread: {error}"));
        let runtime = Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let serve = move || {
            let _ = runtime.block_on(stopped);
            runtime.shutdown_background(); // it may be looking up a name, which has no time limit
        };
        let thread =
            std::thread::Builder::new().name("mp-cluster".to_owned()).spawn(serve).map_err(failed)?;
        let original = OriginalProcess::current();
        Ok(Self { original, handle, stop: Some(stop), thread: Some(thread) })
    }

    fn run<T: Send + 'static>(&self, task: impl Future<Output = T> + Send + 'static) -> Result<T> {
        original::check(self.original)?;
        let (sender, receiver) = mpsc::sync_channel(1);
        self.handle.spawn(async move {
            let _ = sender.send(task.await);
        });
        receiver.recv().map_err(|_| encoded::unreachable("the thread of the cluster has ended".to_owned()))
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        if !self.original.is_current() {
            forget((self.stop.take(), self.thread.take())); // they are those of the original
            return;
        }
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("lease", &self.shared.settings.lease).finish_non_exhaustive()
    }
}
