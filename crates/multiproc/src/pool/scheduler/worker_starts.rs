//! Starts workers, the first ones and replacements for dead ones, and settles the items of a dead worker.

use std::time::Duration;

use super::{Phase, Scheduler};
use crate::error::{Cause, Error};
use crate::pool::worker_handle::{ExitReason, WorkerConfig, WorkerExit, WorkerHandle};
use crate::sys::running_time::RunningTime;
use crate::trace;

/// Fail the pool after this many consecutive start-up failures. (Random kills hit a new worker now and then;
/// one that crashes at start-up always does.)
const MAX_STARTUP_FAILURES: u32 = 20;
/// After this many consecutive early exits, pause before each start, so that a worker that cannot live does
/// not keep the machine busy. This is no error, since no call may have been harmed.
const MAX_EARLY_EXITS: u32 = 20;
/// The pause after a refused start or repeated deaths.
const RETRY: Duration = Duration::from_millis(100);
/// How long a pool without workers retries before its work fails.
const GIVE_UP: Duration = Duration::from_secs(3);

/// The start of a worker that goes on, and how the last starts went.
#[derive(Default)]
pub(super) struct Starts {
    slot: StartSlot,
    /// Since when the kernel has refused workers to a pool that has none, and its error.
    refused: Option<(RunningTime, Error)>,
    /// At least one worker has become ready.
    had_success: bool,
    /// Consecutive workers that died before they were ready.
    failures: u32,
    /// Consecutive workers that died soon after their start without running anything.
    early_exits: u32,
    /// The number of indices that workers have had.
    indices: usize,
}

/// Workers start one at a time.
#[derive(Default)]
enum StartSlot {
    #[default]
    Idle,
    /// No worker is started before this instant.
    Paused(RunningTime),
    /// A worker is being started. The next one is not started before the instant, if any.
    Spawning(Option<RunningTime>),
}

impl Starts {
    fn may_begin(&self) -> bool {
        match self.slot {
            StartSlot::Idle => true,
            StartSlot::Paused(until) => until.is_past(),
            StartSlot::Spawning(_) => false,
        }
    }

    pub(super) fn is_spawning(&self) -> bool {
        matches!(self.slot, StartSlot::Spawning(_))
    }

    /// When the next start may begin, if there is a pause.
    pub(super) fn paused_until(&self) -> Option<RunningTime> {
        match self.slot {
            StartSlot::Idle => None,
            StartSlot::Paused(until) => Some(until),
            StartSlot::Spawning(until) => until,
        }
    }

    fn pause(&mut self) {
        let until = RunningTime::after(RETRY);
        self.slot = match self.slot {
            StartSlot::Spawning(_) => StartSlot::Spawning(until),
            _ => until.map_or(StartSlot::Idle, StartSlot::Paused),
        };
    }

    fn begin(&mut self) {
        self.slot = StartSlot::Spawning(None);
    }

    fn end(&mut self) {
        self.slot = self.paused_until().map_or(StartSlot::Idle, StartSlot::Paused);
    }

    pub(super) fn on_ready(&mut self) {
        (self.had_success, self.failures) = (true, 0);
    }
}

/// For the thread that starts workers, and for the pool's thread:
impl Scheduler {
    /// Whether to start a worker.
    pub(crate) fn needs_worker(&self) -> bool {
        if !self.starts.may_begin() {
            return false;
        }
        let accepting = || self.workers.iter().filter(|worker| worker.accepts_work());
        let with_work = || {
            let busy_workers = accepting().filter(|worker| worker.in_flight() > 0).count();
            busy_workers + self.backlog.items(self.policy.workers)
        };
        let wanted = match self.phase {
            Phase::Ending { .. } | Phase::Ended => 0,
            _ if self.broken.is_some() => 0,
            Phase::Open if self.policy.idle_timeout.is_none() => self.policy.workers,
            // After a refusal one is started without work, so that the pool takes work again.
            Phase::Open => {
                let wanted = with_work().max(self.starts.refused.is_some().into());
                self.policy.workers.min(self.policy.min_workers.max(wanted))
            }
            Phase::Closed => self.policy.workers.min(with_work()),
        };
        accepting().count() < wanted && self.free_index().is_some()
    }

    /// The first index that no worker has which may run a task. A retired worker keeps its index until its last task
    /// has ended, and one that has lost its link or was killed until it is reaped, or for a second if it hangs.
    fn free_index(&self) -> Option<usize> {
        let mut is_used = vec![false; self.policy.workers];
        for worker in self.workers.iter().filter(|worker| worker.may_run_task()) {
            if let Some(is_used) = is_used.get_mut(worker.index()) {
                *is_used = true;
            }
        }
        is_used.iter().position(|is_used| !is_used)
    }

    /// If a worker is needed, counts it as being started, until [`add`](Self::add) or
    /// [`spawn_failed`](Self::spawn_failed).
    pub(crate) fn begin_start(&mut self) -> Option<WorkerConfig> {
        let index = self.free_index().filter(|_| self.needs_worker())?;
        self.starts.begin();
        let policy = self.policy.clone();
        Some(WorkerConfig {
            name: policy.name,
            index,
            initializers: policy.initializers,
            initializer_timeout: policy.initializer_timeout,
            memory_limit: policy.memory_limit,
            is_measured: policy.max_growth.is_some(),
            shutdown_timeout: policy.shutdown_timeout,
            recording: policy.recording,
        })
    }

    pub(crate) fn add(&mut self, mut worker: WorkerHandle) {
        self.starts.end();
        self.starts.refused = None;
        if self.starts.indices > worker.index() {
            trace::restarted(worker.pid(), worker.index());
        }
        self.starts.indices = self.starts.indices.max(worker.index() + 1);
        if matches!(self.phase, Phase::Ended) {
            return worker.shut_down_now();
        }
        if worker.initializers() < self.policy.initializers.len() {
            worker.retire(ExitReason::Other); // it has missed a broadcast, and will be replaced
        }
        self.workers.push(worker);
        self.retire_surplus(); // the pool may have been resized meanwhile
    }

    /// Settles the items of a dead worker: only the one that it was running fails, or runs again.
    pub(super) fn reap(&mut self, mut worker: WorkerHandle) {
        if !worker.is_ready() {
            worker.collect(); // it may have been ready, and have died by its first item, since the last poll
            if worker.is_ready() {
                self.starts.on_ready();
            }
        }
        let may_retry = self.broken.is_none() && !matches!(self.phase, Phase::Ending { .. });
        let index = worker.index();
        let WorkerExit { error, failed_startup, exited_early, initializer_failed, again, rest, stats } =
            worker.reap(may_retry);
        *self.ended.worker(index) += &stats;
        self.backlog.put_back(rest);
        self.backlog.run_again(again);
        self.starts.early_exits = if exited_early { self.starts.early_exits + 1 } else { 0 };
        if self.starts.early_exits >= MAX_EARLY_EXITS {
            self.starts.pause();
        }
        if failed_startup {
            self.starts.failures += 1;
            let has_setup = !self.policy.initializers.is_empty() || self.policy.memory_limit.is_some();
            let is_permanent =
                initializer_failed && has_setup || error.is_start() && !self.starts.had_success;
            if is_permanent || self.starts.failures >= MAX_STARTUP_FAILURES {
                self.fail(&error);
            } else if self.starts.failures > 1 {
                self.starts.pause();
            }
        }
        if self.broken.is_some() || matches!(self.phase, Phase::Ending { .. }) {
            let error = self.broken.clone().unwrap_or_else(|| Error::new(Cause::Cancelled));
            self.fail_waiting(&error); // what the dead worker had not claimed
        }
    }

    /// Records that the kernel refused a new worker. The pool continues with the others. Without any for a
    /// while, waiting and new work fails with this error until a worker starts. Retries continue.
    pub(crate) fn spawn_failed(&mut self, error: Error) {
        self.starts.end();
        let since = self.starts.refused.take().map_or_else(RunningTime::now, |(since, _)| since);
        self.starts.refused = self.workers.is_empty().then_some((since, error));
        if let Some(error) = self.persistent_spawn_error().cloned() {
            if error.os_error().is_some() {
                self.fail_waiting(&error);
            } else {
                self.fail(&error); // a retry helps only against a shortage
            }
        }
        self.starts.pause();
    }

    pub(super) fn persistent_spawn_error(&self) -> Option<&Error> {
        let (since, error) = self.starts.refused.as_ref()?;
        (since.elapsed() >= GIVE_UP).then_some(error)
    }

    fn fail(&mut self, error: &Error) {
        self.broken.get_or_insert_with(|| error.clone());
        for starting in self.workers.iter_mut().filter(|worker| !worker.is_ready()) {
            self.backlog.put_back(starting.revoke(u32::MAX));
        }
        self.fail_waiting(error);
    }

    pub(super) fn fail_waiting(&mut self, error: &Error) {
        self.backlog.fail(error);
        self.workers.iter_mut().for_each(|worker| worker.fail_worker_bound(error));
    }

    /// Ends everything at once: all remaining items fail with `error`.
    pub(crate) fn give_up(&mut self, error: &Error) {
        self.fail(error);
        for worker in std::mem::take(&mut self.workers) {
            worker.fail_all(error);
        }
        self.phase = Phase::Ended;
    }

    pub(crate) fn kill_all(&mut self) {
        for worker in std::mem::take(&mut self.workers) {
            worker.shut_down_now();
        }
    }
}
