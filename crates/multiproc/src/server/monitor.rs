//! The thread in the spawning process that learns how a server ends, and makes its state again.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::server_main::{Start, serve};
use super::status_page::{End, StatusPage};
use crate::error::{Cause, Error, ErrorKind, Result};
use crate::ipc::wire::{self, SharedMemory};
use crate::spawn::options::SpawnOptions;
use crate::spawn::spawned_child::SpawnedChild;
use crate::spawn::supervisor::Child;
use crate::sys::failpoint::{self, Failpoint};
use crate::sys::poll::Deadline;
use crate::sys::running_time::RunningTime;
use crate::sys::signals::with_signals_blocked;
use crate::sys::thread_id::ThreadId;

/// How often the state of a [server](super::Server) is made again.
///
/// ```
/// use multiproc::server::{Limit, Server};
/// use std::time::Duration;
///
/// fn main() -> multiproc::Result<()> {
///     multiproc::init();
///     let limit = Limit::new(3, Duration::from_secs(60));
///     let server = Server::builder().restart(limit).spawn(|| 0_u64, ())?;
///     let error = server.call(|_: &mut u64| -> () { std::process::abort() }, ()).unwrap_err();
///     assert_eq!(error.signal(), Some(6));
///     assert_eq!(server.call(|number: &mut u64| *number, ())?, 0);
///     Ok(())
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    restarts: usize,
    within: Duration,
}

impl Limit {
    /// At most `restarts` within any period of this length.
    pub fn new(restarts: usize, within: Duration) -> Self {
        Self { restarts, within }
    }
}

/// The spawning process's view of a server.
pub(super) struct Monitor {
    /// The latest process.
    child: Mutex<Arc<Child>>,
}

/// What is needed to make the state again.
struct Restarts {
    start: Start,
    options: SpawnOptions,
    limit: Limit,
    /// When those were that count.
    latest: VecDeque<Instant>,
}

impl Monitor {
    /// Starts the server process, and the thread.
    pub(super) fn start(start: Start, options: SpawnOptions, limit: Option<Limit>) -> Result<Arc<Self>> {
        let memory = start.memory.clone();
        StatusPage(&memory).set_monitor(ThreadId::current_and_process().1);
        let name = start.name.clone();
        let started = spawn(&start, &options)?;
        StatusPage(&memory).set_pid(started.child.pid());
        let monitor = Arc::new(Self { child: Mutex::new(Arc::clone(&started.child)) });
        let restarts = limit.map(|limit| Restarts { start, options, limit, latest: VecDeque::new() });
        let child = Arc::clone(&started.child);
        let keep = {
            let monitor = Arc::clone(&monitor);
            move || monitor.keep(started, &memory, &name, restarts)
        };
        let thread = thread::Builder::new().name("mp-server".to_owned());
        if let Err(error) = with_signals_blocked(|| thread.spawn(keep)) {
            child.kill();
            return Err(Error::io("start a thread for a server", &error));
        }
        Ok(monitor)
    }

    pub(super) fn child(&self) -> Arc<Child> {
        Arc::clone(&self.child.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn keep(
        &self,
        mut started: SpawnedChild,
        memory: &SharedMemory,
        name: &str,
        mut restarts: Option<Restarts>,
    ) {
        let page = StatusPage(memory);
        page.set_monitor(ThreadId::current());
        loop {
            started.wait(Deadline::Never);
            if started.child.exit().is_none() {
                started.child.kill(); // it has sent its outcome, and cannot exit
                started.child.wait(Deadline::Never);
            }
            failpoint::hit(Failpoint::ServerReaped);
            let error = end_of(&started, page, name);
            let next = match &mut restarts {
                Some(restarts) if error.kind() != ErrorKind::Closed && !page.is_ending() => {
                    restarts.next(page, error)
                }
                _ => Err(error),
            };
            match next {
                Ok(next) => {
                    page.set_pid(next.child.pid());
                    *self.child.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&next.child);
                    started = next;
                }
                Err(error) => {
                    let failed = restarts.and_then(|restarts| restarts.start.failed);
                    return page.end(&End { error, failed });
                }
            }
        }
    }
}

impl Restarts {
    /// Starts the next process, after the last one has ended with this error; an error if that is one too many.
    fn next(&mut self, page: StatusPage<'_>, error: Error) -> Result<SpawnedChild> {
        let Limit { restarts, within } = self.limit;
        let now = Instant::now();
        self.latest.retain(|then| now.duration_since(*then) < within);
        if self.latest.len() >= restarts {
            return Err(error);
        }
        self.latest.push_back(now);
        // A process that dies while it makes the state has told no caller of an earlier failure. To tell one
        // twice does no harm.
        if let Some(running) = page.running() {
            self.start.failed = Some((running, error));
        }
        page.restart();
        self.spawn_in_time()
    }

    /// Starts a process; tries again for a while where the kernel refuses one, since the server may have died of the
    /// same shortage.
    fn spawn_in_time(&self) -> Result<SpawnedChild> {
        let since = RunningTime::now();
        loop {
            match spawn(&self.start, &self.options) {
                Err(error) if error.os_error().is_some() && since.elapsed() < GIVE_UP => {
                    thread::sleep(RETRY);
                }
                outcome => return outcome,
            }
        }
    }
}

/// A process is tried again after this time, for as long as a [pool](crate::Pool) without workers tries.
const RETRY: Duration = Duration::from_millis(100);
const GIVE_UP: Duration = Duration::from_secs(3);

fn spawn(start: &Start, options: &SpawnOptions) -> Result<SpawnedChild> {
    options.spawn_internal(start.name.clone(), |start: Start| serve(start), &(start.clone(),), None)
}

/// Why a server process has ended.
fn end_of(started: &SpawnedChild, page: StatusPage<'_>, name: &str) -> Error {
    let origin = || page.origin(name);
    let outcome = started
        .result(&origin)
        .and_then(|(bytes, _)| wire::decode_internal::<Option<Error>>(&bytes, Vec::new(), "a server's end"));
    match outcome {
        Ok(None) => Error::new(Cause::Stopped).with_origin(origin()),
        Ok(Some(error)) | Err(error) => error.or_with_origin(origin),
    }
}
