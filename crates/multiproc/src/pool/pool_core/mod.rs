//! `PoolCore`: what a [`Pool`](super::Pool), its calls and its handles share. It is the lock around the
//! [`Scheduler`], and the threads that drive that.
//!
//! A caller that waits for results collects all results and dispatches all waiting chunks, for all
//! callers. The pool's own thread does so when no caller waits. Only that thread reaps dead workers and has them
//! replaced.

mod drivers;
mod pool_thread;
#[cfg(test)]
mod tests;

use std::ops::{Deref, DerefMut};
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use self::drivers::Callers;
pub(crate) use self::drivers::{CountedWaker, DriverGuard};
use self::pool_thread::PoolThread;
use super::call::{Call, PendingPermit, PendingPermits};
use super::chunk::Chunk;
use super::cost_estimate::{CostEstimate, FunctionCosts};
use super::inline::InlineWorkers;
use super::recording::{RecordOptions, Recording};
use super::scheduler::{Policy, Scheduler};
use super::stats::PoolStats;
use super::wake_list::WakeList;
use crate::error::{Cause, Error, Result};
use crate::logs;
use crate::pool::worker_rings::WakeupPage;
use crate::spawn::inline;
use crate::spawn::options::SpawnOptions;
use crate::spawn::preload_server::PreloadServer;
use crate::sys::fork_detect::OriginalProcess;
use crate::sys::poll::Deadline;
use crate::sys::running_time::RunningTime;
use crate::task::TaskId;
use crate::task::initializer::Initializer;

/// The configuration of a pool.
#[derive(Clone)]
pub(crate) struct Config {
    pub(crate) options: SpawnOptions,
    pub(crate) policy: Policy,
    /// Makes the state that workers are forked with.
    pub(crate) preload: Vec<Initializer>,
    /// The maximum of submitted tasks without a result.
    pub(crate) max_pending: Option<usize>,
    pub(crate) record: RecordOptions,
}

pub(crate) struct PoolCore {
    workers: AtomicUsize,
    chunk_size: Option<u32>,
    max_pending: Option<usize>,
    pending_permits: PendingPermits,
    function_costs: FunctionCosts,
    options: SpawnOptions,
    /// Forks the workers, if they have a preloaded state.
    preload_server: Option<PreloadServer>,
    /// In inline mode: each item runs in the thread that submits it.
    inline: Option<InlineWorkers>,
    shutdown_timeout: Duration,
    scheduler: Mutex<Scheduler>,
    /// A forked copy of this process must not use the pool.
    original: OriginalProcess,
    callers: Mutex<Callers>,
    wake_list: Arc<WakeList>,
    recording: Option<Arc<Recording>>,
    wakeup_page: WakeupPage,
    thread: Arc<PoolThread>,
}

/// For callers.
impl PoolCore {
    /// A pool without workers, whose tasks run in the threads that submit them. As with workers, a preloaded state that
    /// cannot be made is an error here, and any other that of each call.
    pub(crate) fn start_inline(config: Config) -> Result<Arc<Self>> {
        inline::check_initialised()?;
        let is_preloaded = !config.preload.is_empty();
        let preload = config.preload.iter().cloned().map(|one| Initializer { makes_state: true, ..one });
        let workers = InlineWorkers::new(preload.chain(config.policy.initializers.iter().cloned()).collect());
        let policy = Policy { workers: 1, ..config.policy };
        let core = Self::new(Config { policy, ..config }, Some(workers))?;
        if let Some(Err(error)) = core.inline.as_ref().map(InlineWorkers::make_ready) {
            if is_preloaded {
                return Err(error);
            }
            core.lock().give_up(&error);
        }
        Ok(core)
    }

    /// Makes the preloaded state, and starts all workers that the pool has without work, or none.
    pub(crate) fn start(config: Config) -> Result<Arc<Self>> {
        let (options, workers) = (config.options.clone(), config.policy.least_workers());
        if config.preload.is_empty() {
            options.prefork(workers);
        }
        let core = Self::new(config, None).inspect_err(|_| options.cancel_prefork())?;
        if let Some(server) = &core.preload_server {
            server.make(options.timeout)?;
        }
        for spawned in 1.. {
            let Some(config) = core.spawn_request() else { break };
            if let Err(error) = core.spawn_worker(config) {
                core.abort();
                options.cancel_prefork();
                return Err(error);
            }
            if core.preload_server.is_none() {
                options.prefork(workers.saturating_sub(spawned));
            }
        }
        Ok(core)
    }

    fn new(config: Config, inline: Option<InlineWorkers>) -> Result<Arc<Self>> {
        let Config { options, mut policy, preload, max_pending, record } = config;
        if inline.is_none() {
            policy.recording = record.recording(preload.iter().chain(&policy.initializers))?;
        }
        let environment = options.environment.clone();
        let preload_server = (!preload.is_empty())
            .then(|| PreloadServer::new(environment, preload, policy.initializer_timeout));
        let wakeup_page = WakeupPage::create()?;
        let thread = PoolThread::new(&wakeup_page);
        Ok(Arc::new(Self {
            workers: AtomicUsize::new(policy.workers),
            chunk_size: policy.chunk_size,
            max_pending,
            pending_permits: PendingPermits::default(),
            function_costs: FunctionCosts::default(),
            options,
            preload_server,
            inline,
            shutdown_timeout: policy.shutdown_timeout,
            recording: policy.recording.clone(),
            scheduler: Mutex::new(Scheduler::new(policy)),
            original: OriginalProcess::current(),
            callers: Mutex::default(),
            wake_list: Arc::default(),
            wakeup_page,
            thread,
        }))
    }

    /// Undoes [`PoolCore::start`].
    pub(crate) fn abort(&self) {
        self.lock().kill_all();
    }

    pub(crate) fn is_inline(&self) -> bool {
        self.inline.is_some()
    }

    /// Drops the state that this thread has in inline mode.
    pub(crate) fn drop_inline_state(&self) {
        self.inline.iter().for_each(InlineWorkers::drop_state);
    }

    pub(crate) fn workers(&self) -> usize {
        self.workers.load(Relaxed)
    }

    /// Keeps this many workers from now on.
    pub(crate) fn resize(&self, workers: usize) -> Result<()> {
        self.check_not_forked()?;
        if self.is_inline() {
            return self.check_open(); // it has no workers
        }
        let missing = self.change(|scheduler| {
            let missing = scheduler.resize(workers)?;
            self.workers.store(workers, Relaxed);
            Ok::<_, Error>(missing)
        })?;
        if self.preload_server.is_none() {
            self.options.prefork(missing);
        }
        Ok(())
    }

    /// Room for one more submitted task without a result; waits for it until the deadline, and fails then. `None`
    /// without a limit.
    pub(crate) fn wait_for_permit(&self, deadline: Deadline) -> Result<Option<PendingPermit>> {
        let Some(max) = self.max_pending else { return Ok(None) };
        self.check_open()?;
        if self.is_inline() {
            return Ok(None); // a task has its result when its submission returns, and may itself submit others
        }
        let permit = Mutex::new(None);
        let is_done = || {
            let mut permit = permit.lock().unwrap_or_else(PoisonError::into_inner);
            if permit.is_none() {
                *permit = self.pending_permits.take(max);
            }
            permit.is_some() || self.check_open().is_err()
        };
        if !is_done() && !self.become_driver(false).wait_until(deadline, is_done) {
            self.check_not_forked()?;
            return Err(Error::new(Cause::Full("pool".to_owned())));
        }
        self.check_open()?;
        Ok(permit.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until the pool has ended and its failed items are recorded; returns whether that is so at the deadline.
    /// Then delivers what the workers have logged.
    pub(crate) fn wait_for_end(&self, deadline: Deadline) -> bool {
        let has_ended =
            self.is_inline() || self.become_driver(false).wait_until(deadline, || self.lock().has_ended());
        let has_recorded = has_ended && self.wait_for_records(deadline);
        logs::deliver(deadline);
        has_recorded
    }

    /// Records failed items, and blocks until other threads have recorded those that they have taken; returns
    /// whether that is so at the deadline.
    pub(super) fn wait_for_records(&self, deadline: Deadline) -> bool {
        let recording = self.recording.as_ref().filter(|_| self.original.is_current());
        recording.is_none_or(|recording| {
            self.deliver();
            recording.wait(deadline)
        })
    }

    /// What is known of the cost of single tasks of this function.
    pub(crate) fn function_cost(&self, task: TaskId) -> Arc<CostEstimate> {
        self.function_costs.of(task)
    }

    pub(crate) fn chunk_size(&self) -> Option<u32> {
        self.chunk_size
    }

    pub(crate) fn shutdown_timeout(&self) -> Duration {
        self.shutdown_timeout
    }

    pub(crate) fn worker_pids(&self) -> Vec<u32> {
        if self.original.is_current() { self.lock().worker_pids() } else { Vec::new() }
    }

    pub(crate) fn stats(&self) -> PoolStats {
        self.check();
        if self.original.is_current() { self.lock().stats() } else { PoolStats::default() }
    }

    /// Returns the reason if the pool refuses new work.
    pub(crate) fn check_open(&self) -> Result<()> {
        self.check_not_forked()?;
        self.lock().check_open()
    }

    /// Fails in a forked copy of the process that created the pool.
    pub(crate) fn check_not_forked(&self) -> Result<()> {
        if self.original.is_current() {
            return Ok(());
        }
        Err(Error::invalid("only the process that created a pool can use it; this is a forked copy"))
    }

    /// Dispatches chunks to workers that have room, and queues the rest. In inline mode runs them.
    pub(crate) fn submit(&self, chunks: impl Iterator<Item = Chunk>) -> Result<()> {
        self.check_not_forked()?;
        if let Some(inline) = &self.inline {
            self.lock().check_open()?;
            inline.make_ready()?;
            chunks.for_each(|chunk| inline.run_chunk(chunk));
            return Ok(());
        }
        self.change(|scheduler| scheduler.submit(chunks))
    }

    /// Gives each worker an item that `make_chunk` makes; workers started later run the initializer. Returns the
    /// number of items.
    pub(crate) fn broadcast(
        &self,
        initializer: Initializer,
        make_chunk: impl Fn(u64) -> Result<Chunk>,
    ) -> Result<u64> {
        self.check_not_forked()?;
        if self.is_inline() {
            self.submit([make_chunk(0)?].into_iter())?;
            return Ok(1);
        }
        self.change(|scheduler| {
            let items = scheduler.broadcast(initializer.clone(), make_chunk)?;
            if let Some(recording) = &self.recording {
                recording.add_setup(&initializer);
            }
            Ok(items)
        })
    }

    /// Withdraws the items of a call that no worker has claimed.
    pub(crate) fn withdraw(&self, call: &Arc<Call>) {
        if self.original.is_current() {
            self.change(|scheduler| scheduler.withdraw(call));
            self.wakeup_page.callers().notify_all(); // one may wait for its permit
        }
    }

    /// Withdraws a call. An item that runs is asked to end if its call has a grace; otherwise its worker is killed.
    /// Returns whether an item was cancelled. The results of a lazy call are not read any more.
    pub(crate) fn cancel(&self, call: &Arc<Call>) -> bool {
        let is_cancelled = self.original.is_current() && self.change(|scheduler| scheduler.cancel(call));
        self.wakeup_page.callers().notify_all(); // results of other calls may have arrived
        is_cancelled
    }

    /// Whether a worker has claimed an item of this call.
    pub(crate) fn is_running(&self, call: &Arc<Call>) -> bool {
        self.original.is_current() && self.lock().is_running(call)
    }

    /// Changes the scheduler, and wakes the threads that would sleep past the next step.
    fn change<T>(&self, change: impl FnOnce(&mut Scheduler) -> T) -> T {
        let mut scheduler = self.lock();
        let result = change(&mut scheduler);
        let has_callers = self.callers().count > 0;
        let wake_callers = scheduler.needs_caller_wake();
        let wake_thread = scheduler.must_wake() || (!has_callers && scheduler.sleeps_past_next_step());
        drop(scheduler);
        if wake_callers {
            self.wakeup_page.callers().notify_all();
        }
        if wake_thread {
            self.thread.wake();
        }
        result
    }

    /// Refuses new work; the pool ends when none is left.
    pub(crate) fn close(&self) {
        if !self.original.is_current() {
            return;
        }
        self.lock().close();
        self.thread.wake();
    }

    /// Fails waiting items as cancelled and ends the workers: terminates busy ones after `timeout`, kills them after
    /// `kill_after`.
    pub(crate) fn end(&self, timeout: Duration, kill_after: Duration) {
        if !self.original.is_current() {
            return;
        }
        self.lock().end(RunningTime::after(timeout), RunningTime::after(kill_after));
        self.thread.wake();
        self.wakeup_page.callers().notify_all();
    }

    /// Records failed items, and calls the wakers of arrived results. The caller does not hold the lock.
    fn deliver(&self) {
        if self.recording.as_ref().is_some_and(|recording| recording.deliver()) {
            self.wakeup_page.callers().notify_all();
        }
        self.wake_list.wake();
    }

    fn lock(&self) -> SchedulerGuard<'_> {
        let scheduler = self.scheduler.lock().unwrap_or_else(PoisonError::into_inner);
        SchedulerGuard { scheduler, _delivery: DeliverOnDrop(self) }
    }
}

/// The locked scheduler. When it drops, the lock is released first; then failed items are recorded, and the wakers
/// of arrived results are called.
struct SchedulerGuard<'a> {
    scheduler: MutexGuard<'a, Scheduler>,
    _delivery: DeliverOnDrop<'a>,
}

struct DeliverOnDrop<'a>(&'a PoolCore);

impl Deref for SchedulerGuard<'_> {
    type Target = Scheduler;

    fn deref(&self) -> &Scheduler {
        &self.scheduler
    }
}

impl DerefMut for SchedulerGuard<'_> {
    fn deref_mut(&mut self) -> &mut Scheduler {
        &mut self.scheduler
    }
}

impl Drop for DeliverOnDrop<'_> {
    fn drop(&mut self) {
        self.0.deliver();
    }
}
