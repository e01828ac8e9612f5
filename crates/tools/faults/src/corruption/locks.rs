//! All that `multiproc::sync` has, of which the memory is overwritten.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use anyhow::Result;
use multiproc::Process;
use multiproc::sync::{Atomic, Barrier, Condvar, Event, LockError, Mutex, Once, OnceCell, RwLock, Semaphore};
use serde::{Deserialize, Serialize};
use tests::corrupter::Random;

use super::bounds::Bounds;
use super::{Rest, TIME, end};

const PERMITS: u32 = 3;
const ELEMENTS: usize = 100;

#[derive(Clone, Serialize, Deserialize)]
struct Locks {
    mutex: Mutex<u64>,
    slice: Mutex<[u64]>,
    lock: RwLock<u64>,
    semaphore: Semaphore,
    event: Event,
    condvar: Condvar,
    barrier: Barrier,
    cell: OnceCell<u64>,
    once: Once,
    numbers: Atomic<[u64]>,
}

/// A call, its name and its time limit.
type Step = (&'static str, Duration, fn(&Locks));

const NOW: Duration = Duration::ZERO;

/// Those that wait for a lock without a limit.
const UNLIMITED: [&str; 4] =
    ["Condvar::wait_timeout", "Condvar::notify_one", "OnceCell::get_or_init", "Once::call_once"];

const STEPS: [Step; 22] = [
    ("Mutex::lock_timeout", TIME, |locks| {
        if let Ok(mut number) = locks.mutex.lock_timeout(TIME).or_else(LockError::into_guard) {
            *number += 1;
        }
    }),
    ("Mutex::try_lock", NOW, |locks| drop(locks.mutex.try_lock())),
    ("Mutex::clear_poison", NOW, |locks| {
        let _ = locks.mutex.is_poisoned();
        locks.mutex.clear_poison();
    }),
    ("Mutex<[T]>::lock_timeout", TIME, |locks| {
        if let Ok(mut slice) = locks.slice.lock_timeout(TIME).or_else(LockError::into_guard) {
            slice.set(ELEMENTS - 1, slice.get(0).unwrap_or(0));
        }
    }),
    ("RwLock::read_timeout", TIME, |locks| drop(locks.lock.read_timeout(TIME))),
    ("RwLock::write_timeout", TIME, |locks| {
        if let Ok(mut number) = locks.lock.write_timeout(TIME).or_else(LockError::into_guard) {
            *number += 1;
        }
    }),
    ("RwLock::try_read", NOW, |locks| drop(locks.lock.try_read())),
    ("RwLock::try_write", NOW, |locks| drop(locks.lock.try_write())),
    ("Semaphore::acquire_timeout", TIME, |locks| drop(locks.semaphore.acquire_timeout(TIME))),
    ("Semaphore::try_acquire", NOW, |locks| drop(locks.semaphore.try_acquire())),
    ("Semaphore::available", NOW, |locks| _ = locks.semaphore.available()),
    ("Event::set", NOW, |locks| locks.event.set()),
    ("Event::clear", NOW, |locks| locks.event.clear()),
    ("Event::wait_timeout", TIME, |locks| _ = locks.event.wait_timeout(TIME)),
    ("Condvar::wait_timeout", TIME, |locks| {
        if let Ok(guard) = locks.mutex.lock_timeout(TIME) {
            drop(locks.condvar.wait_timeout(guard, TIME));
        }
    }),
    ("Condvar::notify_one", NOW, |locks| locks.condvar.notify_one()),
    ("Condvar::notify_all", NOW, |locks| locks.condvar.notify_all()),
    ("Barrier::wait_timeout", TIME, |locks| drop(locks.barrier.wait_timeout(TIME))),
    ("Barrier::reset", NOW, |locks| locks.barrier.reset()),
    ("OnceCell::get_or_init", NOW, |locks| drop(locks.cell.get_or_init(|| 7))),
    ("Once::call_once", NOW, |locks| drop(locks.once.call_once(|| ()))),
    ("Atomic::fetch_add", NOW, |locks| _ = locks.numbers[ELEMENTS - 1].fetch_add(1, SeqCst)),
];

impl Locks {
    fn new() -> multiproc::Result<Self> {
        Ok(Self {
            mutex: Mutex::new(0)?,
            slice: Mutex::zeroed(ELEMENTS)?,
            lock: RwLock::new(0)?,
            semaphore: Semaphore::new(PERMITS)?,
            event: Event::new()?,
            condvar: Condvar::new()?,
            barrier: Barrier::new(2)?,
            cell: OnceCell::new()?,
            once: Once::new()?,
            numbers: Atomic::from_slice(&[0; ELEMENTS])?,
        })
    }

    /// What a child does.
    fn use_all(self, seed: u64, count: u64) {
        let mut random = Random::new(seed);
        (0..count).for_each(|_| step(&mut random).2(&self));
    }
}

fn step(random: &mut Random) -> Step {
    let number = random.below(STEPS.len() as u64);
    STEPS[usize::try_from(number).unwrap_or(0)]
}

/// A child and the parent that use all of them.
pub(super) fn use_locks(random: &mut Random, _: &Bounds) -> Result<Rest> {
    let locks = Locks::new()?;
    let child = Process::spawn(Locks::use_all, (locks.clone(), random.number(), random.below(300)))?;
    Ok(Box::new(move |random, bounds| {
        for _ in 0..random.below(100) {
            let (call, limit, make) = step(random);
            if bounds.only_with_limits() && UNLIMITED.contains(&call) {
                continue;
            }
            bounds.within(limit, call, || make(&locks))?;
        }
        end(child, bounds)?;
        if bounds.only_with_limits() {
            return Ok(());
        }
        // Without a time limit, as no other process has the mutexes. (Permits that another process writes for this
        // one stay its own.)
        let lock = || locks.mutex.lock().map(drop).is_ok();
        bounds.at_once("Mutex::lock alone", lock)?;
        drop(bounds.at_once("OnceCell::set alone", || locks.cell.set(8))?);
        bounds.at_once("Condvar::notify alone", || locks.condvar.notify(2))?;
        Ok(())
    }))
}
