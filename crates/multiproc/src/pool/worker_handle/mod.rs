//! A worker as the pool sees it: its process, its rings, and the items that it has in hand.

mod collect;
mod in_flight;
mod shortage;
mod shutdown;

use std::sync::Arc;
use std::time::{Duration, Instant};

use self::in_flight::InFlight;
use self::shortage::Shortage;
use self::shutdown::StopSignal;
use super::worker_main::{Initializer, WorkerContext, serve};
use crate::error::{Cause, Error, Result};
use crate::ipc::frame::Frames;
use crate::ipc::packet::{PacketSocket, Sent};
use crate::ipc::wire;
use crate::pool::call::{Call, TaskHeader};
use crate::pool::chunk::{Body, Chunk};
use crate::pool::worker_rings::{PoolSide, TASK_HEADER, WakeupPage, WorkerRings};
use crate::spawn::exec::SpawnedChild;
use crate::start_method::SpawnOptions;

pub(crate) use self::shutdown::WorkerExit;

#[allow(clippy::struct_excessive_bools)] // each is a fact by itself
pub(crate) struct WorkerHandle {
    /// Its place among the pool's workers, counted from 0.
    index: usize,
    spawned: SpawnedChild,
    started_at: Instant,
    rings: PoolSide,
    /// It has an initializer.
    has_initializer: bool,
    /// It has come up and run its initializer.
    ready: bool,
    in_flight: InFlight,
    /// How many items it has run.
    completed: u64,
    /// What the items that were written last are for.
    header: Option<TaskHeader>,
    /// There was no room in the rings, and no results have come since.
    full: bool,
    /// Results that were taken off the rings, how many, and the number of the first, for which there was no descriptor.
    unreceived: Option<(Frames, u32, u32)>,
    shortage: Shortage,
    /// All that it has in hand has been seen to be begun.
    all_claimed: bool,
    /// It has begun nothing for a while, and no results have come since.
    may_be_stopped: bool,
    /// No results have come since it was asked last to [give way](WorkerHandle::make_way).
    no_progress: bool,
    /// It had to give way: it is given nothing more before it has shown a result, or has had nothing for a
    /// while.
    paused: bool,
    /// Since when the item behind so many results has been seen to run.
    seen_running: Option<(u32, Instant)>,
    /// How many results were taken when it was [checked](WorkerHandle::check) last.
    checked_at: u32,
    /// It was asleep when it was given something.
    woken: bool,
    /// Something about it is broken, which is why it was killed.
    broken: Option<Error>,
    /// Since when it has no lifeline.
    hung_up_at: Option<Instant>,
    /// Since when it is told to go, by closing the rings or by a signal.
    leaving_since: Option<Instant>,
    stop_signal: StopSignal,
    /// How many bytes of memory it may have.
    memory_limit: Option<u64>,
}

/// What a worker is started with.
pub(crate) struct WorkerConfig {
    /// The place among the pool's workers that is free.
    pub(crate) index: usize,
    pub(crate) initializer: Option<Initializer>,
    /// How many bytes of memory it may have.
    pub(crate) memory_limit: Option<u64>,
}

/// What became of a chunk that a worker was given.
pub(crate) enum Dispatched {
    /// It has taken all or some of it.
    Accepted,
    /// It has no room, or is dying.
    Full,
    /// The system has no room at the moment.
    WouldBlock,
    /// It cannot be sent at all.
    Failed(Error),
}

impl WorkerHandle {
    /// Starts a worker. When it has ended, `at_end` is called, by whatever thread learns of that.
    pub(crate) fn start(
        wakeup_page: &WakeupPage,
        spin: Duration,
        config: WorkerConfig,
        options: SpawnOptions,
        on_exit: impl Fn() + Send + Sync + 'static,
    ) -> Result<Self> {
        let WorkerConfig { index, initializer, memory_limit } = config;
        let has_initializer = initializer.is_some();
        let (ours, theirs) = PacketSocket::pair()?;
        let rings = WorkerRings::create()?;
        let place = WorkerContext {
            index,
            rings: rings.clone(),
            link: theirs,
            wakeup_page: wakeup_page.clone(),
            spin,
            memory_limit,
        };
        let spawned = options.spawn_own("pool-worker".to_owned(), serve, &(place, initializer))?;
        spawned.child.watch(Arc::new(on_exit));
        Ok(Self {
            index,
            spawned,
            started_at: Instant::now(),
            rings: PoolSide::new(rings, ours),
            has_initializer,
            ready: false,
            in_flight: InFlight::default(),
            completed: 0,
            header: None,
            full: false,
            unreceived: None,
            shortage: Shortage::default(),
            all_claimed: false,
            may_be_stopped: false,
            no_progress: false,
            paused: false,
            seen_running: None,
            checked_at: 0,
            woken: false,
            broken: None,
            hung_up_at: None,
            leaving_since: None,
            stop_signal: StopSignal::No,
            memory_limit,
        })
    }

    pub(crate) fn index(&self) -> usize {
        self.index
    }

    pub(crate) fn pid(&self) -> u32 {
        self.spawned.child.pid()
    }

    /// How many items it has run or has in hand.
    pub(crate) fn assigned(&self) -> u64 {
        self.completed + u64::from(self.in_flight.count())
    }

    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight.count()
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.spawned.child.has_ended()
    }

    /// Can it still be counted on for work?
    pub(crate) fn accepts_work(&self) -> bool {
        self.leaving_since.is_none() && self.broken.is_none() && self.hung_up_at.is_none()
    }

    /// Can it be given a chunk, where no worker is to have more than `most` items in hand?
    pub(crate) fn has_room(&self, chunk: &Chunk, most: u32) -> bool {
        let most = if matches!(chunk.body, Body::Message(_)) { 1 } else { most };
        self.ready && self.accepts_work() && !self.full && !self.paused && self.in_flight.count() < most
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.ready && self.accepts_work() && !self.paused && self.in_flight.count() == 0
    }

    /// Gives it up to `most` items of a chunk, which then has so many less.
    pub(crate) fn dispatch(&mut self, chunk: &mut Chunk, most: u32) -> Dispatched {
        let (start, written) = (self.rings.position(), self.rings.written());
        if self.header != Some(chunk.call.header) {
            let mut header = Vec::new();
            let _ = wire::encode_own(&chunk.call.header, &mut header, "a note"); // of numbers: nothing can refuse
            if !self.rings.write_header(TASK_HEADER, &header) {
                self.full = true;
                return Dispatched::Full;
            }
            self.header = Some(chunk.call.header);
        }
        let outcome = match &mut chunk.body {
            Body::Frames { .. } => self.dispatch_frames(chunk, most, start),
            Body::Message(message) => {
                let sent = self.rings.send_out_of_line(message);
                self.dispatch_message(sent, chunk, start)
            }
        };
        if !matches!(outcome, Dispatched::Accepted) {
            self.rings.truncate(start, self.rings.written().wrapping_sub(written));
            self.header = None;
        }
        outcome
    }

    fn dispatch_message(&mut self, sent: Result<Sent>, chunk: &mut Chunk, start: u32) -> Dispatched {
        match sent {
            Ok(Sent::Done) => {
                self.shortage.end();
                self.submit(chunk, 1, start)
            }
            Ok(Sent::TimedOut) => Dispatched::WouldBlock,
            Ok(Sent::Disconnected) => {
                self.fail_worker(Error::new(Cause::LinkLost));
                Dispatched::Full
            }
            Err(error) if error.is_shortage_of_descriptors() && self.shortage.meet() => {
                Dispatched::WouldBlock
            }
            Err(error) => Dispatched::Failed(error),
        }
    }

    fn dispatch_frames(&mut self, chunk: &mut Chunk, most: u32, start: u32) -> Dispatched {
        let (frames, count) = chunk.front(most);
        let before = self.rings.written();
        let left = self.rings.write(frames, count).len();
        let written = self.rings.written().wrapping_sub(before);
        self.full = left > 0;
        if written == 0 {
            return Dispatched::Full;
        }
        let length = frames.len() - left;
        let outcome = self.submit(chunk, written, start);
        if matches!(outcome, Dispatched::Accepted) {
            chunk.advance(written, length);
        }
        outcome
    }

    fn submit(&mut self, chunk: &mut Chunk, count: u32, start: u32) -> Dispatched {
        match self.rings.submit(count) {
            Ok(woken) => self.woken |= woken,
            Err(error) => {
                self.fail_worker(error);
                return Dispatched::Full;
            }
        }
        self.no_progress &= self.in_flight.count() > 0;
        self.in_flight.add(chunk, count, start);
        self.all_claimed = false;
        Dispatched::Accepted
    }

    /// Takes back up to `most` items that it has not begun; those that come first in their input are first.
    ///
    /// Not one that came as a message: its descriptors are on their way, and would keep a queue open there. It is given
    /// to a worker that has nothing else to do, so it is begun at once.
    pub(crate) fn revoke(&mut self, most: u32) -> Vec<Chunk> {
        let count = self.rings.revoke(most.min(self.in_flight.revocable())).unwrap_or_else(|error| {
            self.fail_worker(error);
            0
        });
        self.reclaim(count)
    }

    /// Gives back what it has not begun, if it has shown no result since this was asked last: so tasks begin
    /// in the order in which they were handed in, whatever one of them takes, and none lies with a worker
    /// that is stopped. The only worker keeps what it has.
    pub(crate) fn make_way(&mut self, has_others: bool) -> Vec<Chunk> {
        let was_quiet = std::mem::replace(&mut self.no_progress, true);
        self.paused &= has_others && self.in_flight.count() > 0;
        if !has_others || !was_quiet || self.all_claimed || self.pending(true) == 0 {
            return Vec::new();
        }
        let chunks = self.revoke(u32::MAX);
        self.paused |= !chunks.is_empty();
        self.may_be_stopped |= self.in_flight.count() == 0;
        chunks
    }

    /// How many items it has not begun. A single one is about to be begun, and the worker is spared the look, unless it
    /// `is_late`.
    pub(crate) fn pending(&mut self, is_late: bool) -> u32 {
        if self.in_flight.count() == 0 || (self.in_flight.count() == 1 && !is_late) {
            return 0;
        }
        let pending = self.rings.pending().unwrap_or_else(|error| {
            self.fail_worker(error);
            0
        });
        self.all_claimed |= pending == 0;
        pending.min(self.in_flight.count())
    }

    /// Whether there is reason to think that it is stopped. It has work only where others have enough, and
    /// can show that it is not.
    pub(crate) fn may_be_stopped(&self) -> bool {
        self.may_be_stopped
    }

    /// May items lie there, not begun, or is it to rest since some did?
    pub(crate) fn may_be_stuck(&self, has_others: bool) -> bool {
        if has_others && self.in_flight.count() > 0 { !self.all_claimed } else { self.paused }
    }

    /// How long it will need for its last `count` items, by what such have cost.
    pub(crate) fn time_for(&self, count: u32) -> Duration {
        self.in_flight.back().map_or(Duration::ZERO, |call| call.time_for(count))
    }

    pub(crate) fn has_work_of(&self, call: &Arc<Call>) -> bool {
        self.in_flight.are_of(call)
    }

    /// Makes chunks of the last `count` items in the rings again.
    fn reclaim(&mut self, count: u32) -> Vec<Chunk> {
        let (chunks, position) = self.in_flight.reclaim(count, &self.rings);
        self.rings.truncate(position, count);
        self.header = None;
        self.full &= count == 0;
        chunks
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.ready
    }

    /// Whether results of it wait for a descriptor to be received with.
    pub(crate) fn has_unreceived(&self) -> bool {
        self.unreceived.is_some()
    }

    /// Whether it has been woken since this was asked last.
    pub(crate) fn was_woken(&mut self) -> bool {
        std::mem::take(&mut self.woken)
    }
}
