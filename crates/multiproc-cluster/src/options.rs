//! What a caller may choose: of a cluster, and of one call.

use std::time::Duration;

use async_nats::ConnectOptions;

/// Where the broker keeps a pool's work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Storage {
    /// In its memory. If the broker restarts, every call ends in an error that says so.
    #[default]
    Memory,
    /// In its files. If the broker restarts within the lease, the work goes on.
    File,
}

/// What becomes of the items of a host that dies, hangs or is cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostLoss {
    /// Other hosts run them after the lease, so a task may begin twice; each item has one result. After this
    /// number of lost hosts the items fail. The default is `Retry(4)`.
    ///
    /// A host whose machine loses its power at the moment in which it begins a task may not count. With
    /// `Retry(0)` it counts: the host asks the caller first.
    Retry(u32),
    /// They fail, if a task of theirs may have begun: a task begins at most once.
    Fail,
}

impl Default for HostLoss {
    fn default() -> Self {
        Self::Retry(4)
    }
}

/// Options of a [`Cluster`](crate::Cluster). Made by [`Cluster::builder`](crate::Cluster::builder).
#[must_use]
pub struct ClusterBuilder {
    pub(crate) url: String,
    pub(crate) connect: ConnectOptions,
    pub(crate) lease: Duration,
    pub(crate) storage: Storage,
    pub(crate) max_pending: usize,
}

/// Small tasks take a few megabytes at the broker, and tasks of 100 KB a gigabyte.
const MAX_PENDING: usize = 10_000;

impl ClusterBuilder {
    pub(crate) fn new(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            connect: ConnectOptions::new(),
            lease: Duration::from_secs(10),
            storage: Storage::default(),
            max_pending: MAX_PENDING,
        }
    }

    /// How the client connects: TLS, a token, an nkey, a file with credentials. Its name, its intervals and
    /// its callbacks are this crate's.
    pub fn connect_options(mut self, options: ConnectOptions) -> Self {
        self.connect = options;
        self
    }

    /// How long a host, the broker or this process may be silent before it is given up. Default 10 s, at least
    /// 0.5 s. A dead host's items begin elsewhere after it; a caller's work is withdrawn after it.
    pub fn lease(mut self, time: Duration) -> Self {
        self.lease = time;
        self
    }

    /// As [`multiproc::pool::PoolBuilder::max_pending`]: the maximum number of submitted tasks of a pool that
    /// have no result. At the limit [`submit`](crate::Pool::submit) blocks until one has, and
    /// [`try_submit`](crate::Pool::try_submit) gives the arguments back. Default: 10,000.
    pub fn max_pending(mut self, tasks: usize) -> Self {
        self.max_pending = tasks;
        self
    }

    /// Where the broker keeps the work. Default: in memory.
    pub fn storage(mut self, storage: Storage) -> Self {
        self.storage = storage;
        self
    }
}

/// The options of a call.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Options {
    pub(crate) timeout: Option<Duration>,
    pub(crate) grace: Duration,
    pub(crate) retries: u32,
    pub(crate) buffer_size: Option<usize>,
    pub(crate) on_host_loss: HostLoss,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_takes_ten_seconds_by_default() {
        assert_eq!(ClusterBuilder::new("").lease, Duration::from_secs(10));
    }
}
