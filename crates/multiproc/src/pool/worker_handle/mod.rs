//! The pool's handle of one worker: its process, its rings, and its items in flight.

mod collect;
mod dispatch;
mod grace;
mod in_flight;
mod phase;
mod record;
mod shutdown;
mod stall;
mod stats;
mod time_limit;
mod worker_bound;

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::grace::Grace;
use self::in_flight::InFlight;
use self::phase::WorkerPhase;
use self::stall::{Stall, StallDetector};
use self::worker_bound::WorkerBound;
use super::worker_main::{WorkerContext, serve};
use crate::error::{Origin, Result};
use crate::ipc::fd_shortage::Shortage;
use crate::ipc::frame::Frames;
use crate::ipc::packet::PacketSocket;
use crate::ipc::wire::SegmentsIdentity;
use crate::pool::call::{Call, TaskHeader};
use crate::pool::chunk::{Body, Chunk};
use crate::pool::recording::Recording;
use crate::pool::worker_rings::{PoolSide, WakeupPage, WorkerRings};
use crate::spawn::options::SpawnOptions;
use crate::spawn::preload_server::PreloadServer;
use crate::spawn::spawned_child::SpawnedChild;
use crate::sys::limit::private_memory;
use crate::sys::running_time::RunningTime;
use crate::task::initializer::Initializer;
use crate::trace::Submissions;

pub(crate) use self::dispatch::Dispatched;
pub(crate) use self::shutdown::WorkerExit;

pub(crate) struct WorkerHandle {
    /// Counted from 0.
    index: usize,
    spawned: SpawnedChild,
    started_at: Instant,
    rings: PoolSide,
    /// When its initializer, if any, must have returned; and its limit from the start on.
    initialize_by: Option<RunningTime>,
    initializer_timeout: Duration,
    /// The number of its initializers.
    initializers: usize,
    /// When the pool has learned that its initializer, if any, has returned.
    ready_at: Option<Instant>,
    in_flight: InFlight,
    worker_bound: WorkerBound,
    /// Items that have a result, and those of them that had none when the worker ended.
    completed: u64,
    lost: u64,
    /// The header in force for the next item that is written, and the segments that it names.
    header: Option<TaskHeader>,
    named: SegmentsIdentity,
    /// The rings had no room, and no results have arrived since; or its item has been asked to end.
    takes_no_more: bool,
    /// Results copied from the rings that await a descriptor: the frames, how many, and the number of the
    /// first.
    unreceived: Option<(Frames, u32, u32)>,
    shortage: Shortage,
    stall_detector: StallDetector,
    /// The number of results at which an item was seen running, and since when.
    seen_running: Option<(u32, u64)>,
    /// The number of results taken at the last [`check`](WorkerHandle::check).
    results_at_check: u32,
    /// A dispatch has woken it.
    woken: bool,
    /// Since when it has had no items, if that was asked for.
    idle_since: Cell<Option<(u64, RunningTime)>>,
    submissions: Submissions,
    phase: WorkerPhase,
    /// Why it gets no more items, or was told to exit.
    exit_reason: Option<ExitReason>,
    grace: Option<Box<Grace>>,
    /// How long it may live after it was told to exit.
    shutdown_timeout: Duration,
    /// The memory limit in bytes.
    memory_limit: Option<u64>,
    /// Records its tasks that fail.
    recording: Option<Arc<Recording>>,
    /// Its private memory in bytes before its first task, if that must be known.
    is_measured: bool,
    memory_at_start: Option<u64>,
}

/// Why a worker is told to exit.
#[derive(Clone, Copy)]
pub(crate) enum ExitReason {
    /// It has run its number of tasks.
    Tasks,
    /// Its memory has grown too much.
    Growth,
    /// It has been idle for long.
    Idle,
    /// There are more workers than are wanted.
    Surplus,
    /// The pool ends, or the worker is of no use.
    Other,
}

/// The configuration of a worker to be started.
pub(crate) struct WorkerConfig {
    /// Its process name.
    pub(crate) name: String,
    /// The lowest free index among the pool's workers.
    pub(crate) index: usize,
    pub(crate) initializers: Vec<Initializer>,
    pub(crate) initializer_timeout: Duration,
    /// The memory limit in bytes.
    pub(crate) memory_limit: Option<u64>,
    /// Its memory before its first task must be known.
    pub(crate) is_measured: bool,
    pub(crate) shutdown_timeout: Duration,
    /// Records its tasks that fail.
    pub(crate) recording: Option<Arc<Recording>>,
}

impl WorkerHandle {
    /// Starts a worker, by `server` if the pool has one. `on_exit` is called, by any thread, when it has
    /// exited.
    pub(crate) fn start(
        wakeup_page: &WakeupPage,
        spin: Duration,
        config: WorkerConfig,
        options: &SpawnOptions,
        server: Option<&PreloadServer>,
        on_exit: impl Fn() + Send + Sync + 'static,
    ) -> Result<Self> {
        let WorkerConfig {
            name,
            index,
            initializers,
            initializer_timeout,
            memory_limit,
            is_measured,
            shutdown_timeout,
            recording,
        } = config;
        let (ours, theirs) = PacketSocket::pair()?;
        let rings = WorkerRings::create()?;
        let context = WorkerContext {
            index,
            rings: rings.clone(),
            link: theirs,
            wakeup_page: wakeup_page.clone(),
            spin,
            memory_limit,
        };
        let initializer_count = initializers.len();
        let spawned = options.spawn_internal(name, serve, &(context, initializers), server)?;
        spawned.child.set_on_change(Arc::new(on_exit));
        let started_at = Instant::now();
        let initialize_by = RunningTime::after(initializer_timeout).filter(|_| initializer_count > 0);
        Ok(Self {
            index,
            spawned,
            started_at,
            rings: PoolSide::new(rings, ours),
            initialize_by,
            initializer_timeout,
            initializers: initializer_count,
            ready_at: None,
            in_flight: InFlight::default(),
            worker_bound: WorkerBound::default(),
            completed: 0,
            lost: 0,
            header: None,
            named: SegmentsIdentity::default(),
            takes_no_more: false,
            unreceived: None,
            shortage: Shortage::default(),
            stall_detector: StallDetector::default(),
            seen_running: None,
            results_at_check: 0,
            woken: false,
            idle_since: Cell::new(None),
            submissions: Submissions::default(),
            phase: WorkerPhase::Running,
            exit_reason: None,
            grace: None,
            shutdown_timeout,
            memory_limit,
            recording,
            is_measured,
            memory_at_start: None,
        })
    }

    pub(crate) fn index(&self) -> usize {
        self.index
    }

    pub(crate) fn pid(&self) -> u32 {
        self.spawned.child.pid()
    }

    /// This worker, as errors name it.
    fn origin(&self) -> Origin {
        Origin::worker(self.spawned.child.name(), self.pid())
    }

    /// The number of its initializers.
    pub(crate) fn initializers(&self) -> usize {
        self.initializers
    }

    /// Items that it has run, or has in flight, without worker-bound ones.
    pub(crate) fn assigned(&self) -> u64 {
        (self.completed + u64::from(self.in_flight.count())).saturating_sub(self.worker_bound.count)
    }

    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight.count()
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.spawned.child.is_reaped()
    }

    /// Whether it takes work, or will once it is ready.
    pub(crate) fn accepts_work(&self) -> bool {
        self.phase.is_running()
    }

    /// For how long it has had nothing to do, since that was first asked for.
    pub(crate) fn idle_time(&self) -> Option<Duration> {
        let idle = self.is_idle().then_some(self.completed);
        let before = self.idle_since.get().filter(|&(completed, _)| Some(completed) == idle);
        let since = idle.map(|completed| before.unwrap_or_else(|| (completed, RunningTime::now())));
        self.idle_since.set(since);
        since.map(|(_, since)| since.elapsed())
    }

    /// The bytes by which its private memory has grown since its first task.
    pub(crate) fn growth(&self) -> Option<u64> {
        private_memory(self.pid())?.checked_sub(self.memory_at_start?)
    }

    /// Whether it can take a chunk, with at most `most` items in flight.
    pub(crate) fn has_room(&self, chunk: &Chunk, most: u32) -> bool {
        let most = if self.must_be_idle_for(chunk) || self.in_flight.is_pinned() { 1 } else { most };
        // Nothing should wait behind a task that may be long.
        let running = self.in_flight.front().filter(|running| running.is_single);
        let most = running.map_or(most, |running| most.min(running.most_in_flight()));
        self.is_ready()
            && self.accepts_work()
            && self.worker_bound.is_empty()
            && !self.takes_no_more
            && !self.stall_detector.is_paused()
            && self.in_flight.count() < most
    }

    /// Whether it can take its first chunk before it is ready. Not if it has an initializer, which may take long
    /// or fail, or if its memory is measured before its first task; and an item that cannot be revoked would be
    /// lost with it.
    pub(crate) fn may_start_with(&self, chunk: &Chunk) -> bool {
        !self.is_ready()
            && self.accepts_work()
            && self.initializers == 0
            && !self.is_measured
            && self.worker_bound.is_empty()
            && !self.takes_no_more
            && !self.stall_detector.is_paused()
            && self.assigned() == 0
            && !self.must_be_idle_for(chunk)
    }

    /// Whether it comes with messages. A busy worker would leave them in its socket, which holds some hundreds.
    fn must_be_idle_for(&self, chunk: &Chunk) -> bool {
        matches!(chunk.body, Body::OutOfLine(_)) || self.rings.lacks(&chunk.segments)
    }

    pub(crate) fn is_idle(&self) -> bool {
        let has_nothing = self.in_flight.count() == 0 && self.worker_bound.is_empty();
        self.is_ready() && self.accepts_work() && !self.stall_detector.is_paused() && has_nothing
    }

    /// Revokes up to `most` unclaimed items and returns them in input order.
    ///
    /// An out-of-line item cannot be revoked: its descriptors are in transit, and would keep a queue open
    /// there. Nor can an item with which segments were sent. Such an item is only dispatched to an idle worker, so it
    /// is claimed at once.
    pub(crate) fn revoke(&mut self, most: u32) -> Vec<Chunk> {
        let count = self.rings.revoke(most.min(self.in_flight.revocable())).unwrap_or_else(|error| {
            self.fail_worker(error);
            0
        });
        self.reclaim(count)
    }

    /// Revokes its unclaimed items if it has stalled: it has shown no result since the last call. So tasks
    /// begin in the order of submission, however long one of them takes, and none stays with a stopped
    /// worker. The only worker of a pool keeps its items.
    pub(crate) fn revoke_if_stalled(&mut self, has_others: bool) -> Vec<Chunk> {
        let was_stalled = self.stall_detector.check(has_others && self.in_flight.count() > 0);
        if !has_others || !was_stalled || self.stall_detector.all_claimed || self.not_begun() == 0 {
            return Vec::new();
        }
        let chunks = self.revoke(u32::MAX);
        if !chunks.is_empty() {
            self.stall_detector.stall = Stall::Paused;
        }
        // One that still starts has not stalled, however long that takes; only its items go to another.
        self.stall_detector.may_be_stopped |= self.is_ready() && self.in_flight.count() == 0;
        chunks
    }

    /// The number of items that it has not begun.
    pub(crate) fn not_begun(&mut self) -> u32 {
        if self.in_flight.count() == 0 { 0 } else { self.checked(self.rings.not_begun()) }
    }

    /// The number of items that another worker could run. A single one will be claimed soon, and the rest of a
    /// run of claimed items counts only if nothing else is left.
    pub(crate) fn surplus(&mut self) -> u32 {
        if self.in_flight.count() <= 1 {
            return 0;
        }
        let surplus = match self.rings.unclaimed() {
            Ok(0) => self.rings.not_begun(),
            unclaimed => unclaimed,
        };
        self.checked(surplus)
    }

    fn checked(&mut self, left: Result<u32>) -> u32 {
        let left = left.unwrap_or_else(|error| {
            self.fail_worker(error);
            0
        });
        self.stall_detector.all_claimed |= left == 0;
        left.min(self.in_flight.count())
    }

    /// Whether it may be stopped. It then gets work only when the others have enough, and can show that it
    /// runs.
    pub(crate) fn may_be_stopped(&self) -> bool {
        self.stall_detector.may_be_stopped
    }

    /// Whether it gets nothing more for a while, since it has begun nothing.
    pub(crate) fn is_paused(&self) -> bool {
        self.stall_detector.is_paused()
    }

    /// Whether items may stay unclaimed there, or it is paused because some did.
    pub(crate) fn may_be_stuck(&self, has_others: bool) -> bool {
        if has_others && self.in_flight.count() > 0 {
            !self.stall_detector.all_claimed
        } else {
            self.stall_detector.is_paused()
        }
    }

    /// The time for its last `count` items, by their cost so far.
    pub(crate) fn time_for(&self, count: u32) -> Duration {
        self.in_flight.back().map_or(Duration::ZERO, |call| call.cost.time_for(count))
    }

    pub(crate) fn has_work_of(&self, call: &Arc<Call>) -> bool {
        self.in_flight.are_of(call)
    }

    /// The number of its items of this call.
    pub(crate) fn items_of(&self, call: &Arc<Call>) -> u32 {
        self.in_flight.count_of(call)
    }

    /// Whether it has claimed the first item without a collected result, and that is one of this call.
    pub(crate) fn is_running(&self, call: &Arc<Call>) -> bool {
        self.in_flight.front().is_some_and(|first| Arc::ptr_eq(first, call))
            && self.rings.not_begun().is_ok_and(|pending| pending < self.in_flight.count())
    }

    /// Turns the last `count` items in the rings back into chunks.
    fn reclaim(&mut self, count: u32) -> Vec<Chunk> {
        let (chunks, position) = self.in_flight.reclaim(count, &self.rings);
        self.rings.truncate(position, count);
        if self.in_flight.count() == 0 {
            self.rings.release(position); // no result comes that would do so
        }
        self.header = None;
        self.takes_no_more &= count == 0;
        chunks
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.ready_at.is_some()
    }

    /// Whether some of its results await a descriptor.
    pub(crate) fn has_unreceived(&self) -> bool {
        self.unreceived.is_some()
    }
}
