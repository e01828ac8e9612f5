//! The cause of an error, and what failed.

use std::time::Duration;

use super::TaskError;

use crate::impl_serde::impl_serde;

/// What failed.
#[derive(Clone)]
pub(crate) enum Origin {
    /// Of a pool without a name.
    Worker {
        pid: u32,
    },
    Process {
        name: String,
        pid: u32,
    },
    /// A process of which this one knows no name.
    Pid(u32),
    /// A process that owns a state; the method that it was running, and the one whose caller waited for its turn.
    Server {
        name: String,
        pid: u32,
        running: Option<String>,
        waiting: Option<String>,
    },
    NamedWorker {
        pool: String,
        pid: u32,
    },
}

impl_serde!(enum Origin {
    Worker { pid }, Process { name, pid }, Pid(value), Server { name, pid, running, waiting },
    NamedWorker { pool, pid },
});

/// The process name of the workers of a pool without a name.
pub(crate) const WORKER_NAME: &str = "pool-worker";

impl Origin {
    /// A pool's worker with this process name, which is that of its pool, or [`WORKER_NAME`].
    pub(crate) fn worker(name: &str, pid: u32) -> Self {
        if name == WORKER_NAME {
            Self::Worker { pid }
        } else {
            Self::NamedWorker { pool: name.to_owned(), pid }
        }
    }
}

/// How the holder of a lock, or a party of a barrier, failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    Died,
    /// One of its threads, and not the process.
    ThreadEnded,
    Signal(i32),
    Exit(i32),
    Panicked,
    TimedOut,
    Aborted,
    Reset,
}

impl_serde!(
    enum Failure {
        Died,
        ThreadEnded,
        Signal(value),
        Exit(value),
        Panicked,
        TimedOut,
        Aborted,
        Reset,
    }
);

/// The cause of an error, in more detail than [`ErrorKind`](super::ErrorKind).
#[derive(Clone)]
pub(crate) enum Cause {
    Os {
        operation: String,
        errno: i32,
    },
    NotInitialised,
    Start(String),
    Signal(i32),
    /// The exit code of a child whose function had not returned.
    Exit(i32),
    /// A child ended, and its status was collected outside this library.
    StatusLost,
    /// A worker has closed its socket to the pool, and lives.
    SocketClosed,
    Panic {
        message: String,
        location: Option<String>,
        backtrace: Option<String>,
    },
    Task(TaskError),
    Encode {
        what: String,
        why: String,
    },
    Decode {
        what: String,
        why: String,
    },
    /// The time that the caller gave passed first.
    Timeout(String),
    /// The task ran for longer than it may, and was ended.
    TimeLimit(Duration),
    /// "queue" or "pipe"; likewise in `Empty`.
    Full(String),
    Empty(String),
    /// Which ends are gone.
    Disconnected(String),
    Closed,
    /// A server was made again, and a reply of its earlier process did not come.
    ReplyLost,
    /// A server was stopped, or its last handle had gone.
    Stopped,
    Cancelled,
    /// The task was cancelled, or has exceeded this limit, and has ended by itself.
    EndedInGrace(Option<Duration>),
    /// A host of a cluster was given up while it had the item.
    HostLost(String),
    /// The hosts of a cluster cannot be reached.
    Unreachable(String),
    /// This method of a server panicked.
    StatePoisoned(String),
    /// The holder of a lock died or panicked.
    Poisoned {
        lock: String,
        failure: Failure,
    },
    /// A party of a barrier died or gave up.
    Broken(Failure),
    /// How many items of a joinable queue were taken and not acknowledged.
    Unacknowledged(u32),
    Invalid(String),
    Internal(String),
    /// What a call that does not wait would have waited for, as a sentence.
    NotFree(String),
}

impl_serde!(enum Cause {
    Os { operation, errno }, NotInitialised, Start(value), Signal(value), Exit(value), StatusLost,
    SocketClosed, Panic { message, location, backtrace }, Task(value), Encode { what, why },
    Decode { what, why }, Timeout(value), TimeLimit(value), Full(value), Empty(value),
    Disconnected(value), Closed, ReplyLost, Stopped, Cancelled, EndedInGrace(value), HostLost(value),
    Unreachable(value), StatePoisoned(value), Poisoned { lock, failure }, Broken(value),
    Unacknowledged(value), Invalid(value), Internal(value), NotFree(value),
});
