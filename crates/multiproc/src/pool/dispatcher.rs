//! The lock around a pool's [`Scheduler`], and the threads that drive it.
//!
//! A caller that waits for results collects all results and dispatches all waiting chunks, for all
//! callers. The pool's own thread does so when no caller waits; only that thread reaps dead workers and
//! replaces them.

use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::thread;
use std::time::{Duration, Instant};

use super::call::{Call, Slot, Slots};
use super::chunk::Chunk;
use super::completions::Completions;
use super::inline::run_chunk;
use super::recording::Recording;
use super::scheduler::{CHECK_INTERVAL, Policy, PollResult, Scheduler};
use super::state::adopt_preloaded;
use super::stats::PoolStats;
use super::worker_handle::{WorkerConfig, WorkerHandle};
use crate::error::{Cause, Error, Result};
use crate::ipc::event_count::{Sleeper, Ticket, WakeCount};
use crate::logs;
use crate::pool::worker_rings::WakeupPage;
use crate::pool::worker_rings::wakeups::Waiting;
use crate::record::{Recorder, wanted_directory};
use crate::spawn::inline;
use crate::spawn::options::SpawnOptions;
use crate::spawn::preload_server::PreloadServer;
use crate::sys::cpus::{YIELD_AFTER, cpus, is_smp, spin};
use crate::sys::fork_detect::ForkDetector;
use crate::sys::poll::Deadline;
use crate::sys::signals::with_signals_blocked;
use crate::task::initializer::Initializer;
use crate::trace;

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

/// Where failed tasks are recorded, and how much of them.
#[derive(Clone)]
pub(crate) struct RecordOptions {
    pub(crate) directory: Option<PathBuf>,
    pub(crate) max_files: usize,
    pub(crate) max_bytes: usize,
}

pub(crate) struct Dispatcher {
    workers: AtomicUsize,
    chunk_size: Option<u32>,
    max_pending: Option<usize>,
    slots: Slots,
    options: SpawnOptions,
    /// Forks the workers, if they have a preloaded state.
    preload_server: Option<PreloadServer>,
    /// Each item runs in the thread that submits it, and there is no worker.
    is_inline: bool,
    shutdown_timeout: Duration,
    state: Mutex<Scheduler>,
    /// A forked copy of this process must not use the pool.
    fork_detector: ForkDetector,
    callers: Mutex<Callers>,
    completions: Arc<Completions>,
    recording: Option<Arc<Recording>>,
    wakeup_page: WakeupPage,
    thread: Arc<PoolThread>,
}

/// The threads that drive the pool while they wait for results.
#[derive(Default)]
struct Callers {
    count: usize,
    need_all: usize,
    /// Futures that wait for results, and drive nothing.
    futures: usize,
}

impl Callers {
    fn waiting(&self) -> Waiting {
        match (self.count, self.need_all, self.futures) {
            (0, ..) => Waiting::None,
            (1, 1, 0) => Waiting::OneNeedsAll,
            _ => Waiting::Callers,
        }
    }
}

/// The pool's own thread: its event count, which workers notify as well, and a reliable wake-up within this
/// process.
struct PoolThread {
    wakeup_page: WakeupPage,
    sleeper: Sleeper,
}

impl PoolThread {
    fn wake(&self) {
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

/// The time to spin for results, or for work, before sleeping: longer than the gap between two submissions of
/// a caller that submits one task after the other.
const SPIN: Duration = Duration::from_micros(30);

/// For callers.
impl Dispatcher {
    /// A pool without workers, whose tasks run in the threads that submit them.
    pub(crate) fn start_inline(config: Config) -> Result<Arc<Self>> {
        inline::check_initialised()?;
        let (preload, initializers) = (config.preload.clone(), config.policy.initializers.clone());
        let policy = Policy { workers: 1, ..config.policy };
        let dispatcher = Self::new(Config { policy, ..config }, true)?;
        let run_all =
            |all: Vec<Initializer>| all.into_iter().try_for_each(|first| inline::run(|| first.run()));
        let initialize = || {
            run_all(preload)?;
            adopt_preloaded();
            run_all(initializers)
        };
        if let Err(error) = initialize() {
            dispatcher.lock().give_up(&error.during_startup());
        }
        Ok(dispatcher)
    }

    /// Starts all workers, or none.
    pub(crate) fn start(config: Config) -> Result<Arc<Self>> {
        let (options, workers) = (config.options.clone(), config.policy.workers);
        if config.preload.is_empty() {
            options.prefork(workers);
        }
        let dispatcher = Self::new(config, false).inspect_err(|_| options.cancel_prefork())?;
        for spawned in 1.. {
            let Some(config) = dispatcher.spawn_request() else { break };
            if let Err(error) = dispatcher.spawn_worker(config) {
                dispatcher.abort();
                options.cancel_prefork();
                return Err(error);
            }
            if dispatcher.preload_server.is_none() {
                options.prefork(workers.saturating_sub(spawned));
            }
        }
        Ok(dispatcher)
    }

    fn new(config: Config, is_inline: bool) -> Result<Arc<Self>> {
        let Config { options, mut policy, preload, max_pending, record } = config;
        if !is_inline {
            policy.recording = record.recording(preload.iter().chain(&policy.initializers))?;
        }
        let environment = options.environment.clone();
        let preload_server = (!preload.is_empty())
            .then(|| PreloadServer::new(environment, preload, policy.initializer_timeout));
        let wakeup_page = WakeupPage::create()?;
        let thread = Arc::new(PoolThread { wakeup_page: wakeup_page.clone(), sleeper: Sleeper::new() });
        Ok(Arc::new(Self {
            workers: AtomicUsize::new(policy.workers),
            chunk_size: policy.chunk_size,
            max_pending,
            slots: Slots::default(),
            options,
            preload_server,
            is_inline,
            shutdown_timeout: policy.shutdown_timeout,
            recording: policy.recording.clone(),
            state: Mutex::new(Scheduler::new(policy)),
            fork_detector: ForkDetector::new()?,
            callers: Mutex::default(),
            completions: Arc::default(),
            wakeup_page,
            thread,
        }))
    }

    /// Undoes [`Dispatcher::start`].
    pub(crate) fn abort(&self) {
        self.lock().kill_all();
    }

    pub(crate) fn is_inline(&self) -> bool {
        self.is_inline
    }

    pub(crate) fn workers(&self) -> usize {
        self.workers.load(Relaxed)
    }

    /// Keeps this many workers from now on.
    pub(crate) fn resize(&self, workers: usize) -> Result<()> {
        self.check_not_forked()?;
        if self.is_inline {
            return Ok(()); // it has no workers
        }
        let missing = workers.saturating_sub(self.workers.load(Relaxed));
        self.change(|state| state.resize(workers))?;
        self.workers.store(workers, Relaxed);
        if self.preload_server.is_none() {
            self.options.prefork(missing);
        }
        Ok(())
    }

    /// Room for one more submitted task without a result; waits for it until the deadline.
    pub(crate) fn wait_for_slot(&self, deadline: Deadline) -> Result<Option<Slot>> {
        let Some(max) = self.max_pending else { return Ok(None) };
        self.check_open()?;
        let slot = Mutex::new(None);
        let is_done = || {
            let taken = self.slots.take(max);
            let has_room = taken.is_some() || self.check_open().is_err();
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = taken;
            has_room
        };
        if !is_done() && !self.become_driver(false).wait_until(deadline, is_done) {
            self.check_not_forked()?;
            return Err(Error::new(Cause::Full("pool".to_owned())));
        }
        self.check_open()?;
        Ok(slot.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until the pool has ended; returns whether it has.
    pub(crate) fn wait_for_end(&self, deadline: Deadline) -> bool {
        let has_ended =
            self.is_inline || self.become_driver(false).wait_until(deadline, || self.lock().has_ended());
        logs::deliver();
        has_ended
    }

    pub(crate) fn chunk_size(&self) -> Option<u32> {
        self.chunk_size
    }

    pub(crate) fn shutdown_timeout(&self) -> Duration {
        self.shutdown_timeout
    }

    pub(crate) fn worker_pids(&self) -> Vec<u32> {
        if self.fork_detector.in_original_process() { self.lock().worker_pids() } else { Vec::new() }
    }

    pub(crate) fn stats(&self) -> PoolStats {
        self.check();
        if self.fork_detector.in_original_process() { self.lock().stats() } else { PoolStats::default() }
    }

    /// Returns the reason if the pool refuses new work.
    pub(crate) fn check_open(&self) -> Result<()> {
        self.check_not_forked()?;
        self.lock().check_open()
    }

    /// Fails in a forked copy of the process that created the pool.
    pub(crate) fn check_not_forked(&self) -> Result<()> {
        if self.fork_detector.in_original_process() {
            return Ok(());
        }
        Err(Error::invalid("only the process that created a pool can use it; this is a forked copy"))
    }

    /// Dispatches chunks to workers that have room, and queues the rest.
    pub(crate) fn submit(&self, chunks: impl Iterator<Item = Chunk>) -> Result<()> {
        self.check_not_forked()?;
        if self.is_inline {
            self.lock().check_open()?;
            chunks.for_each(run_chunk);
            return Ok(());
        }
        self.change(|state| state.submit(chunks))
    }

    /// Gives each worker an item that `make_chunk` makes; later ones run the initializer. Returns the number
    /// of items.
    pub(crate) fn broadcast(
        &self,
        initializer: Initializer,
        make_chunk: impl Fn(u64) -> Result<Chunk>,
    ) -> Result<u64> {
        self.check_not_forked()?;
        if self.is_inline {
            self.submit([make_chunk(0)?].into_iter())?;
            return Ok(1);
        }
        let setup = self.recording.as_ref().map(|recording| (recording, initializer.clone()));
        let count = self.change(|state| state.broadcast(initializer, make_chunk))?;
        if let Some((recording, initializer)) = setup {
            recording.add_setup(&initializer);
        }
        Ok(count)
    }

    /// Withdraws the items of a call that no worker has claimed.
    pub(crate) fn withdraw(&self, call: &Arc<Call>) {
        if self.fork_detector.in_original_process() {
            self.change(|state| state.withdraw(call));
        }
    }

    /// Withdraws a call of one item, or kills the worker that runs it. Returns whether its result is now the
    /// error that it was cancelled.
    pub(crate) fn cancel(&self, call: &Arc<Call>) -> bool {
        let is_cancelled =
            self.fork_detector.in_original_process() && self.change(|state| state.cancel(call));
        self.wakeup_page.callers().notify_all(); // results of other calls may have arrived
        is_cancelled
    }

    /// Whether a worker has claimed the one item of this call.
    pub(crate) fn is_running(&self, call: &Arc<Call>) -> bool {
        self.fork_detector.in_original_process() && self.lock().is_running(call)
    }

    /// Changes the state, and wakes the threads whose sleep would last too long after it.
    fn change<T>(&self, change: impl FnOnce(&mut Scheduler) -> T) -> T {
        let mut state = self.lock();
        let result = change(&mut state);
        let has_callers = self.callers().count > 0;
        let wake_callers = state.needs_caller_wake();
        let wake_thread = state.must_wake() || (!has_callers && state.sleeps_past_next_step());
        drop(state);
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
        if !self.fork_detector.in_original_process() {
            return;
        }
        self.lock().close();
        self.thread.wake();
    }

    /// Drops waiting work and ends the workers: terminates busy ones after `timeout`, kills them after
    /// `kill_after`.
    pub(crate) fn end(&self, timeout: Duration, kill_after: Duration) {
        if !self.fork_detector.in_original_process() {
            return;
        }
        let now = Instant::now();
        self.lock().end(now.checked_add(timeout), now.checked_add(kill_after));
        self.thread.wake();
        self.wakeup_page.callers().notify_all();
    }

    /// Polls without blocking.
    pub(crate) fn check(&self) {
        if self.fork_detector.in_original_process() {
            self.poll(0);
        }
    }

    /// Collects results and dispatches waiting chunks. Wakes the callers if there are others than the
    /// `own_callers` of this thread: 1 if it is one of them, or 0.
    fn poll(&self, own_callers: usize) -> PollResult {
        let mut state = self.lock();
        let polled = state.poll();
        let must_wake = state.must_wake();
        drop(state);
        if must_wake {
            self.thread.wake();
        }
        if polled.progressed && self.callers().count > own_callers {
            self.wakeup_page.callers().notify_all(); // it may be the result of another caller
        }
        polled
    }

    /// Makes this thread drive the pool until the guard drops. It `needs_all` if it needs all results of its
    /// call, and may learn of some of them later.
    pub(crate) fn become_driver(&self, needs_all: bool) -> DriverGuard<'_> {
        if self.fork_detector.in_original_process() {
            self.update_callers(|callers| {
                callers.count += 1;
                callers.need_all += usize::from(needs_all);
            });
        }
        DriverGuard { dispatcher: self, needs_all }
    }

    /// Returns which callers wait afterwards.
    fn update_callers(&self, update: impl FnOnce(&mut Callers)) -> Waiting {
        let mut callers = self.callers();
        let before = callers.waiting();
        update(&mut callers);
        let waiting = callers.waiting();
        if waiting != before {
            self.wakeup_page.wakeups().set_waiting(waiting);
        }
        waiting
    }

    fn callers(&self) -> MutexGuard<'_, Callers> {
        self.callers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> StateGuard<'_> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        StateGuard { state, _delivery: DeliverOnDrop(self) }
    }
}

/// For futures.
impl Dispatcher {
    /// Polls for as long as a caller spins before it sleeps; returns whether `is_done`. At once if other
    /// futures wait: the thread that polls them all should not spin for each.
    pub(crate) fn spin_until(&self, is_done: impl Fn() -> bool) -> bool {
        self.check();
        if is_done() {
            return true;
        }
        if self.callers().futures > 0 {
            return false;
        }
        let driver = self.become_driver(false);
        let mut poll = || {
            driver.dispatcher.poll(1);
            is_done()
        };
        driver.dispatcher.poll(1).busy_workers < cpus() && spin(SPIN, 6, YIELD_AFTER, &mut poll)
    }

    /// Has `waker` called when a result of the call arrives.
    pub(crate) fn wake_at_arrival(&self, call: &Call, waker: &Waker) {
        call.wake_at_arrival(waker, &self.completions);
    }

    /// Counts a future that begins to wait, or no longer does.
    pub(crate) fn count_future(&self, waits: bool) {
        self.update_callers(|callers| {
            callers.futures = if waits { callers.futures + 1 } else { callers.futures.saturating_sub(1) };
        });
    }
}

/// The locked state. When it drops, the lock is released first; then failed items are recorded, and the wakers
/// of arrived results are called.
struct StateGuard<'a> {
    state: MutexGuard<'a, Scheduler>,
    _delivery: DeliverOnDrop<'a>,
}

struct DeliverOnDrop<'a>(&'a Dispatcher);

impl Deref for StateGuard<'_> {
    type Target = Scheduler;

    fn deref(&self) -> &Scheduler {
        &self.state
    }
}

impl DerefMut for StateGuard<'_> {
    fn deref_mut(&mut self) -> &mut Scheduler {
        &mut self.state
    }
}

impl Drop for DeliverOnDrop<'_> {
    fn drop(&mut self) {
        let dispatcher = self.0;
        if dispatcher.recording.as_ref().is_some_and(|recording| recording.deliver()) {
            dispatcher.wakeup_page.callers().notify_all();
        }
        dispatcher.completions.wake();
    }
}

impl RecordOptions {
    fn recording<'a>(
        self,
        setup: impl IntoIterator<Item = &'a Initializer>,
    ) -> Result<Option<Arc<Recording>>> {
        let Some(directory) = self.directory.or_else(wanted_directory) else { return Ok(None) };
        let recorder = Recorder::new(&directory, self.max_files, self.max_bytes)?;
        Ok(Some(Recording::new(recorder, setup)))
    }
}

/// A thread that drives the pool while it waits for its own results.
pub(crate) struct DriverGuard<'a> {
    dispatcher: &'a Dispatcher,
    needs_all: bool,
}

impl DriverGuard<'_> {
    /// Drives the pool until `is_done` or the deadline; returns whether it is done.
    pub(crate) fn wait_until(&self, deadline: Deadline, is_done: impl Fn() -> bool) -> bool {
        trace::waiting("results", || self.drive_until(deadline, is_done))
    }

    fn drive_until(&self, deadline: Deadline, is_done: impl Fn() -> bool) -> bool {
        let dispatcher = self.dispatcher;
        while dispatcher.fork_detector.in_original_process() {
            let polled = dispatcher.poll(1);
            if is_done() {
                return true;
            }
            let may_yield = deadline.has_slack();
            if polled.woken && may_yield {
                thread::yield_now(); // the kernel may have queued it behind this thread, on the same CPU
            }
            let mut poll = || {
                dispatcher.poll(1);
                is_done()
            };
            // With all CPUs busy, this thread should yield its CPU to a worker.
            if may_yield && polled.busy_workers < cpus() && spin(SPIN, 6, YIELD_AFTER, &mut poll) {
                return true;
            }
            let ticket = dispatcher.wakeup_page.callers().prepare_wait();
            let polled = dispatcher.poll(1);
            if is_done() {
                return true;
            }
            if deadline.is_over() {
                return false;
            }
            if !polled.progressed {
                let next_check =
                    dispatcher.lock().next_check().map(|time| time.saturating_duration_since(Instant::now()));
                let times = next_check.into_iter().chain(deadline.left()).chain([CHECK_INTERVAL]);
                dispatcher.wakeup_page.callers().wait(ticket, times.min());
            }
        }
        false
    }
}

impl Drop for DriverGuard<'_> {
    fn drop(&mut self) {
        let dispatcher = self.dispatcher;
        if !dispatcher.fork_detector.in_original_process() {
            return;
        }
        let waiting = dispatcher.update_callers(|callers| {
            callers.count -= 1;
            callers.need_all -= usize::from(self.needs_all);
        });
        // Changes before that store woke no thread, and the pool's thread may have to handle them.
        if waiting == Waiting::None && !dispatcher.lock().is_at_rest() {
            dispatcher.poll(0);
            if dispatcher.lock().sleeps_past_next_step() {
                dispatcher.thread.wake();
            }
        }
    }
}

/// For the pool's own thread.
impl Dispatcher {
    /// Runs until the pool has ended and its last worker was reaped.
    pub(crate) fn run(self: &Arc<Self>) {
        let guard = FailOnPanic(self);
        loop {
            let ticket = self.thread.prepare_wait();
            let is_running = self.lock().maintain();
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
        let dispatcher = Arc::clone(self);
        let spawn_all = move || {
            let mut next = Some(config);
            while let Some(config) = next {
                next = dispatcher.spawn_worker(config).is_ok().then(|| dispatcher.spawn_request()).flatten();
                dispatcher.thread.wake();
            }
        };
        let thread = thread::Builder::new().name("mp-spawner".to_owned()).stack_size(128 * 1024);
        if let Err(error) = with_signals_blocked(|| thread.spawn(spawn_all)) {
            self.lock().spawn_failed(Error::io("start a thread", &error));
        }
    }

    /// The configuration of the next worker to [start](Dispatcher::spawn_worker), if one is missing.
    fn spawn_request(&self) -> Option<WorkerConfig> {
        let mut state = self.lock();
        state.needs_worker().then(|| state.next_worker())
    }

    /// Starts a worker. Does not hold the lock while it does.
    fn spawn_worker(&self, config: WorkerConfig) -> Result<()> {
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
struct FailOnPanic<'a>(&'a Dispatcher);

impl Drop for FailOnPanic<'_> {
    fn drop(&mut self) {
        self.0.lock().give_up(&Error::internal("the pool's thread panicked"));
        self.0.wakeup_page.callers().notify_all();
    }
}
