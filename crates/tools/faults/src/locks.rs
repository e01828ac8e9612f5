//! Work under all that `multiproc::sync` has, and what must be left of it whichever process is killed.
//!
//! What is not as it must be is a panic.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use multiproc::Result;
use multiproc::sync::{
    Atomic, Barrier, Condvar, Event, LockError, LockResult, Mutex, MutexGuard, Once, OnceCell, RwLock,
    Semaphore,
};
use serde::{Deserialize, Serialize};

/// How many processes work.
pub(crate) const PARTIES: u32 = 3;
pub(crate) const ROUNDS: u32 = 60;
const PERMITS: u32 = 2;
/// How long a party waits at the barrier for those that may be dead, and for those that are not.
const PATIENCE: Duration = Duration::from_millis(300);
const LONG_PATIENCE: Duration = Duration::from_secs(20);
/// A notification may have come before the wait.
const MOMENT: Duration = Duration::from_millis(1);

/// Two numbers, which are equal whenever nothing holds the lock.
type Pair = [u64; 2];

#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Locks {
    mutex: Mutex<Pair>,
    lock: RwLock<Pair>,
    semaphore: Semaphore,
    event: Event,
    condvar: Condvar,
    barrier: Barrier,
    cell: OnceCell<u64>,
    once: Once,
    /// How often `count` and what `once` runs have begun.
    begun: Atomic<[u64]>,
    /// Whether a party may be missing.
    is_disturbed: bool,
}

/// What a round does. Another kind of shared object is a field of [`Locks`], and a step here.
const STEPS: [fn(&Locks, u32) -> Result<()>; 6] = [
    |locks, _| locks.count(),
    |locks, round| locks.semaphore.acquire_many(1 + round % PERMITS).map(drop),
    Locks::read_or_write,
    Locks::notify_or_wait,
    |locks, _| {
        locks.signal();
        Ok(())
    },
    |locks, _| locks.make(),
];

impl Locks {
    /// For parties that may be killed, or not.
    pub(crate) fn new(is_disturbed: bool) -> Result<Self> {
        Ok(Self {
            mutex: Mutex::new([0; 2])?,
            lock: RwLock::new([0; 2])?,
            semaphore: Semaphore::new(PERMITS)?,
            event: Event::new()?,
            condvar: Condvar::new()?,
            barrier: Barrier::new(PARTIES)?,
            cell: OnceCell::new()?,
            once: Once::new()?,
            begun: Atomic::from_slice(&[0; 2])?,
            is_disturbed,
        })
    }

    /// What each of the processes does. One that is killed keeps none of the others from it.
    pub(crate) fn work(self) -> Result<()> {
        self.work_with(|_| Ok(()))
    }

    /// What each of the processes does, with another step in each round.
    pub(crate) fn work_with(&self, mut step: impl FnMut(u32) -> Result<()>) -> Result<()> {
        let mut meets = true;
        for round in 0..ROUNDS {
            STEPS.iter().try_for_each(|step| step(self, round))?;
            step(round)?;
            meets = meets && self.meet()?;
        }
        Ok(())
    }

    /// Waits for the other parties. Returns whether the barrier can be passed: once it is broken, it stays so.
    fn meet(&self) -> Result<bool> {
        if self.is_disturbed {
            return Ok(self.barrier.wait_timeout(PATIENCE).is_ok());
        }
        self.barrier.wait_timeout(LONG_PATIENCE).map(|_| true)
    }

    /// What must be possible when no process works any more.
    pub(crate) fn use_all(&self) -> Result<()> {
        self.count()?;
        drop(self.semaphore.acquire_many(PERMITS)?);
        assert_eq!(self.semaphore.available(), PERMITS, "permits are missing");
        self.read_or_write(0)?;
        self.condvar.notify_all();
        self.event.set();
        self.event.wait();
        self.barrier.reset();
        assert_eq!(self.barrier.waiting(), 0, "parties wait that are no more");
        self.make()
    }

    fn count(&self) -> Result<()> {
        self.begun[0].fetch_add(1, SeqCst);
        let mut pair = self.guard(self.mutex.lock())?;
        assert_eq!(pair[0], pair[1], "a mutex guards half a change");
        *pair = [pair[0] + 1; 2];
        assert!(pair[0] <= self.begun[0].load(SeqCst), "more was counted than was begun");
        Ok(())
    }

    fn signal(&self) {
        self.event.set();
        self.event.wait_timeout(MOMENT);
        self.event.clear();
    }

    fn make(&self) -> Result<()> {
        assert_eq!(self.cell.get_or_init(|| 7)?, 7, "a cell has another value");
        self.once.call_once(|| {
            self.begun[1].fetch_add(1, SeqCst);
        })?;
        assert!(self.once.is_completed() && self.begun[1].load(SeqCst) > 0, "it is done, and was not begun");
        Ok(())
    }

    /// The guard; what a process has left that was killed while it wrote is repaired.
    fn guard<'a>(&self, locked: LockResult<MutexGuard<'a, Pair>>) -> Result<MutexGuard<'a, Pair>> {
        match locked {
            Err(LockError::Poisoned(poisoned)) => {
                let mut guard = poisoned.into_guard();
                *guard = [guard[0].max(guard[1]); 2];
                self.mutex.clear_poison();
                Ok(guard)
            }
            locked => Ok(locked?),
        }
    }

    fn read_or_write(&self, round: u32) -> Result<()> {
        if round % 2 == 1 {
            let pair = match self.lock.read() {
                Err(LockError::Poisoned(_)) => return Ok(()), // a writer will repair it
                locked => locked?,
            };
            assert_eq!(pair[0], pair[1], "a lock guards half a change");
            return Ok(());
        }
        let mut pair = match self.lock.write() {
            Err(LockError::Poisoned(poisoned)) => {
                self.lock.clear_poison();
                poisoned.into_guard()
            }
            locked => locked?,
        };
        *pair = [pair[0].max(pair[1]) + 1; 2];
        Ok(())
    }

    fn notify_or_wait(&self, round: u32) -> Result<()> {
        let guard = self.guard(self.mutex.lock())?;
        match round % 4 {
            0 => self.condvar.notify_one(),
            1 => self.condvar.notify_all(),
            _ => {
                let waited = self.condvar.wait_timeout(guard, MOMENT);
                waited.or_else(LockError::into_guard).map(drop)?;
            }
        }
        Ok(())
    }
}
