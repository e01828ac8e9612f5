//! The one place that moves a pool along: a lock around its [`State`], and who holds it.
//!
//! Threads that wait for results of their own take in what the workers have finished and hand out what waits, for all.
//! Where no thread waits, the pool's own thread does; and it alone settles deaths and replaces the dead.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::call::Call;
use super::chunk::Chunk;
use super::scheduler::{Policy, State, Turn, WATCH};
use super::worker_handle::{Order, Worker};
use crate::error::{Error, Result};
use crate::ipc::event_count::{Armed, Calls, Sleeper};
use crate::pool::worker_rings::{Lobby, spin};
use crate::start_method::Manner;
use crate::sys::cpus::processors;
use crate::sys::fork_detect::Original;
use crate::sys::poll::Deadline;
use crate::sys::process::without_signals;

/// What a pool was built with.
#[derive(Clone)]
pub(crate) struct Config {
    pub(crate) manner: Manner,
    pub(crate) policy: Policy,
}

pub(crate) struct Core {
    workers: usize,
    /// How many processors there are.
    processors: usize,
    chunk_size: Option<u32>,
    manner: Manner,
    shutdown_timeout: Duration,
    state: Mutex<State>,
    /// A copy of this process that somebody forks has no part in the pool.
    original: Original,
    /// How many threads wait for results.
    callers: Mutex<usize>,
    lobby: Lobby,
    thread: Arc<OwnThread>,
}

/// The pool's own thread: its bell, which workers ring as well, and what wakes it surely.
struct OwnThread {
    lobby: Lobby,
    sleeper: Sleeper,
}

impl OwnThread {
    fn wake(&self) {
        self.sleeper.wake(&self.lobby.thread());
    }

    /// To be called before the look at what there is to do, and then to be waited with.
    fn arm(&self) -> (Armed, Calls) {
        let seen = self.sleeper.calls();
        (self.lobby.thread().arm(), seen)
    }

    fn wait(&self, (armed, seen): (Armed, Calls), time: Option<Duration>) {
        self.sleeper.wait(&self.lobby.thread(), armed, seen, time);
    }
}

/// How long to look for results, or for work, before sleeping: longer than one who hands in one task after the other
/// needs in between.
const SPIN: Duration = Duration::from_micros(30);

/// What callers do.
impl Core {
    /// Starts all workers. If one cannot be started, none is left.
    pub(crate) fn start(config: Config) -> Result<Arc<Self>> {
        let (manner, workers) = (config.manner, config.policy.workers);
        manner.announce(workers);
        let core = Self::new(config).inspect_err(|_| manner.forgo())?;
        for hired in 1.. {
            let Some(order) = core.order() else { break };
            if let Err(error) = core.hire(order) {
                core.abort();
                manner.forgo();
                return Err(error);
            }
            manner.announce(workers.saturating_sub(hired));
        }
        Ok(core)
    }

    fn new(Config { manner, policy }: Config) -> Result<Arc<Self>> {
        let lobby = Lobby::create()?;
        let thread = Arc::new(OwnThread { lobby: lobby.clone(), sleeper: Sleeper::new() });
        Ok(Arc::new(Self {
            workers: policy.workers,
            processors: processors(),
            chunk_size: policy.chunk_size,
            manner,
            shutdown_timeout: policy.shutdown_timeout,
            state: Mutex::new(State::new(policy)),
            original: Original::new()?,
            callers: Mutex::new(0),
            lobby,
            thread,
        }))
    }

    /// Undoes [`Core::start`].
    pub(crate) fn abort(&self) {
        self.lock().kill_all();
    }

    pub(crate) fn workers(&self) -> usize {
        self.workers
    }

    pub(crate) fn chunk_size(&self) -> Option<u32> {
        self.chunk_size
    }

    pub(crate) fn shutdown_timeout(&self) -> Duration {
        self.shutdown_timeout
    }

    pub(crate) fn worker_pids(&self) -> Vec<u32> {
        if self.original.is_here() { self.lock().worker_pids() } else { Vec::new() }
    }

    /// Whether the pool takes new work; else the error that says why not.
    pub(crate) fn check_open(&self) -> Result<()> {
        self.check_here()?;
        self.lock().check_open()
    }

    /// Whether this is the process that has made the pool.
    pub(crate) fn check_here(&self) -> Result<()> {
        if self.original.is_here() {
            return Ok(());
        }
        Err(Error::invalid("a pool belongs to the process that has made it, of which this is a copy"))
    }

    /// Hands chunks to workers that have room, or lets them wait.
    pub(crate) fn submit(&self, chunks: impl Iterator<Item = Chunk>) -> Result<()> {
        self.check_here()?;
        self.change(|state| state.submit(chunks))
    }

    /// Takes back what no worker has begun of a call.
    pub(crate) fn withdraw(&self, call: &Arc<Call>) {
        if self.original.is_here() {
            self.change(|state| state.withdraw(call));
        }
    }

    /// Takes back a call of one item, if no worker has begun it; else ends the worker. Says whether its error is now that it
    /// was cancelled.
    pub(crate) fn cancel(&self, call: &Arc<Call>) -> bool {
        let is_cancelled = self.original.is_here() && self.change(|state| state.cancel(call));
        self.lobby.callers().ring(); // results of others may have come to light
        is_cancelled
    }

    /// Changes the state, and wakes whoever would oversleep what follows.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        let result = change(&mut state);
        let is_attended = *self.count() > 0;
        let concerns_callers = state.concerns_callers();
        let concerns_thread = state.must_wake() || (!is_attended && state.would_oversleep());
        drop(state);
        if concerns_callers {
            self.lobby.callers().ring();
        }
        if concerns_thread {
            self.thread.wake();
        }
        result
    }

    /// Takes no new work, and ends when there is none left.
    pub(crate) fn close(&self) {
        if !self.original.is_here() {
            return;
        }
        self.lock().close();
        self.thread.wake();
    }

    /// Drops what waits, and ends the workers: asks those who are busy after `patience`, kills them after `bound`.
    pub(crate) fn end(&self, patience: Duration, bound: Duration) {
        if !self.original.is_here() {
            return;
        }
        let now = Instant::now();
        self.lock().end(now.checked_add(patience), now.checked_add(bound));
        self.thread.wake();
        self.lobby.callers().ring();
    }

    /// Looks for results without waiting for them.
    pub(crate) fn look(&self) {
        if self.original.is_here() {
            self.turn(0);
        }
    }

    /// Takes in what workers have finished, and hands out what waits. So many of those who wait need not be told.
    fn turn(&self, told: usize) -> Turn {
        let mut state = self.lock();
        let turn = state.turn();
        let must_wake = state.must_wake();
        drop(state);
        if must_wake {
            self.thread.wake();
        }
        if turn.news && *self.count() > told {
            self.lobby.callers().ring(); // it may be another one's
        }
        turn
    }

    /// Says that this thread sees to the pool from now on.
    pub(crate) fn attend(&self) -> Caller<'_> {
        if self.original.is_here() {
            let mut callers = self.count();
            *callers += 1;
            if *callers == 1 {
                self.lobby.attendance().set(true);
            }
        }
        Caller(self)
    }

    fn count(&self) -> MutexGuard<'_, usize> {
        self.callers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A thread that waits for results of its own, and sees to those of others.
pub(crate) struct Caller<'a>(&'a Core);

impl Caller<'_> {
    /// Blocks until `has_come` or the deadline, and keeps the workers busy meanwhile; says whether it has.
    pub(crate) fn wait_until(&self, deadline: Deadline, has_come: impl Fn() -> bool) -> bool {
        let core = self.0;
        while core.original.is_here() {
            let turn = core.turn(1);
            if has_come() {
                return true;
            }
            let may_yield = deadline.is_far();
            if turn.woken && may_yield {
                thread::yield_now(); // the kernel may have put it behind this thread, on the same processor
            }
            let mut look = || {
                core.turn(1);
                has_come()
            };
            // Where workers keep all processors busy, this one had better go to one of them.
            if may_yield && turn.busy < core.processors && spin(SPIN, 6, &mut look) {
                return true;
            }
            let armed = core.lobby.callers().arm();
            let turn = core.turn(1);
            if has_come() {
                return true;
            }
            if deadline.is_over() {
                return false;
            }
            if !turn.news {
                let look = core.lock().next_look().map(|time| time.saturating_duration_since(Instant::now()));
                let times = look.into_iter().chain(deadline.left()).chain([WATCH]);
                core.lobby.callers().wait(armed, times.min());
            }
        }
        false
    }
}

impl Drop for Caller<'_> {
    fn drop(&mut self) {
        let core = self.0;
        if !core.original.is_here() {
            return;
        }
        let mut callers = core.count();
        *callers -= 1;
        if *callers == 0 {
            core.lobby.attendance().set(false);
            drop(callers);
            // What came before that line has woken nobody, and may be what the pool's thread should see to.
            core.turn(0);
            if core.lock().would_oversleep() {
                core.thread.wake();
            }
        }
    }
}

/// What the pool's own thread does.
impl Core {
    /// Runs until the pool has ended and its last worker is gone.
    pub(crate) fn run(self: &Arc<Self>) {
        let guard = FailOnPanic(self);
        loop {
            let armed = self.thread.arm();
            let goes_on = self.lock().move_along();
            self.lobby.callers().ring();
            if !goes_on {
                break;
            }
            self.recruit();
            let until = self.lock().go_to_sleep();
            let left = until.map(|time| time.saturating_duration_since(Instant::now()));
            self.thread.wait(armed, left);
        }
        std::mem::forget(guard);
    }

    /// Has workers started until there are as many as there should be: by another thread, since that may take a while, and
    /// other deaths are to be settled meanwhile.
    fn recruit(self: &Arc<Self>) {
        let Some(order) = self.order() else { return };
        let core = Arc::clone(self);
        let hire = move || {
            let mut next = Some(order);
            while let Some(order) = next {
                next = core.hire(order).is_ok().then(|| core.order()).flatten();
                core.thread.wake();
            }
        };
        let thread = thread::Builder::new().name("multiproc-hire".to_owned()).stack_size(128 * 1024);
        if let Err(error) = without_signals(|| thread.spawn(hire)) {
            self.lock().cannot_hire(Error::io("start a thread", &error));
        }
    }

    /// What a worker needs, if one is lacking; then it is to be [hired](Core::hire).
    fn order(&self) -> Option<Order> {
        let mut state = self.lock();
        state.lacks_workers().then(|| state.order())
    }

    /// Starts a worker. Not under the lock.
    fn hire(&self, order: Order) -> Result<()> {
        let spin = if self.workers <= self.processors && self.processors > 1 { SPIN } else { Duration::ZERO };
        let thread = Arc::clone(&self.thread);
        let started = Worker::start(&self.lobby, spin, order, self.manner, move || thread.wake());
        let mut state = self.lock();
        match started {
            Ok(worker) => {
                state.add(worker);
                Ok(())
            }
            Err(error) => {
                state.cannot_hire(error.clone());
                Err(error)
            }
        }
    }
}

/// Should the pool's thread end early, by a panic inside of it, which would be our bug, then nobody waits for it.
struct FailOnPanic<'a>(&'a Core);

impl Drop for FailOnPanic<'_> {
    fn drop(&mut self) {
        self.0.lock().give_up(&Error::system(
            "go on with a pool after a failure inside of it",
            nix::errno::Errno::EIO,
        ));
        self.0.lobby.callers().ring();
    }
}
