//! The pool's own thread: reaps and replaces workers, and drives the pool when no caller does.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::PoolCore;
use super::drivers::SPIN;
use crate::error::{Error, Result};
use crate::ipc::event_count::{Sleeper, Ticket, WakeCount};
use crate::pool::worker_handle::{WorkerConfig, WorkerHandle};
use crate::pool::worker_rings::WakeupPage;
use crate::spawn::preload_server::PreloadServer;
use crate::sys::cpus::{cpus, is_smp};
use crate::sys::signals::with_signals_blocked;

/// The pool's own thread: its event count, which workers notify as well, and a reliable wake-up within this
/// process.
pub(super) struct PoolThread {
    wakeup_page: WakeupPage,
    sleeper: Sleeper,
}

impl PoolThread {
    pub(super) fn new(wakeup_page: &WakeupPage) -> Arc<Self> {
        Arc::new(Self { wakeup_page: wakeup_page.clone(), sleeper: Sleeper::new() })
    }

    pub(super) fn wake(&self) {
        self.sleeper.wake(&self.wakeup_page.thread());
    }

    /// Call before checking for work; then pass the ticket to `wait`.
    fn prepare_wait(&self) -> (Ticket, WakeCount) {
        let seen = self.sleeper.wakes();
        (self.wakeup_page.thread().prepare_wait(), seen)
    }

    fn wait(&self, (ticket, seen): (Ticket, WakeCount), time: Option<Duration>) {
        self.sleeper.wait(&self.wakeup_page.thread(), ticket, seen, time);
    }
}

/// For the pool's own thread.
impl PoolCore {
    /// Runs until the pool has ended and its last worker was reaped.
    pub(crate) fn run(self: &Arc<Self>) {
        let guard = FailOnPanic(self);
        loop {
            let ticket = self.thread.prepare_wait();
            let is_running = self.lock().run_housekeeping();
            self.wakeup_page.callers().notify_all();
            if !is_running {
                break;
            }
            self.spawn_workers();
            let until = self.lock().prepare_sleep();
            let left = until.map(|time| time.saturating_duration_since(Instant::now()));
            self.thread.wait(ticket, left);
        }
        self.preload_server.iter().for_each(PreloadServer::stop);
        std::mem::forget(guard);
    }

    /// Starts missing workers on another thread, since a start may take long and other exits must be handled
    /// meanwhile.
    fn spawn_workers(self: &Arc<Self>) {
        let Some(config) = self.spawn_request() else { return };
        let core = Arc::clone(self);
        let spawn_all = move || {
            let mut next = Some(config);
            while let Some(config) = next {
                next = core.spawn_worker(config).is_ok().then(|| core.spawn_request()).flatten();
                core.thread.wake();
            }
        };
        let thread = thread::Builder::new().name("mp-spawner".to_owned()).stack_size(128 * 1024);
        if let Err(error) = with_signals_blocked(|| thread.spawn(spawn_all)) {
            self.lock().spawn_failed(Error::io("start a thread", &error));
        }
    }

    /// The configuration of the next worker to [start](PoolCore::spawn_worker), if one is missing.
    pub(super) fn spawn_request(&self) -> Option<WorkerConfig> {
        self.lock().begin_start()
    }

    /// Starts a worker. Does not hold the lock while it does.
    pub(super) fn spawn_worker(&self, config: WorkerConfig) -> Result<()> {
        let spin = if self.workers() <= cpus() && is_smp() { SPIN } else { Duration::ZERO };
        let thread = Arc::clone(&self.thread);
        let (options, server) = (&self.options, self.preload_server.as_ref());
        let started =
            WorkerHandle::start(&self.wakeup_page, spin, config, options, server, move || thread.wake());
        let mut state = self.lock();
        match started {
            Ok(worker) => {
                state.add(worker);
                Ok(())
            }
            Err(error) => {
                state.spawn_failed(error.clone());
                Err(error)
            }
        }
    }
}

/// If the pool's thread panics, which is a bug of this library, every call fails instead of waiting forever.
struct FailOnPanic<'a>(&'a PoolCore);

impl Drop for FailOnPanic<'_> {
    fn drop(&mut self) {
        self.0.lock().give_up(&Error::internal("the pool's thread panicked"));
        self.0.wakeup_page.callers().notify_all();
    }
}
