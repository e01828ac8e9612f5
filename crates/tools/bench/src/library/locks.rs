//! W8: locks, an event and a counter in shared memory.

use std::hint::black_box;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex as StdMutex, PoisonError};
use std::thread;

use anyhow::Result;
use bench::measure::{Measured, Scale, back_to_back, nanoseconds, rate};
use bench::work::{LOCKS, check, real};
use multiproc::sync::{Atomic, Barrier, Event, Mutex, Semaphore};
use multiproc::{Error, Process};

pub(super) fn lock(scale: Scale) -> Result<Measured> {
    let count = Mutex::new(0_u64)?;
    nanoseconds(scale, || {
        *black_box(&count).lock().map_err(Error::from)? += 1;
        Ok(())
    })
}

pub(super) fn lock_of_threads(scale: Scale) -> Result<Measured> {
    let count = StdMutex::new(0_u64);
    nanoseconds(scale, || {
        *black_box(&count).lock().unwrap_or_else(PoisonError::into_inner) += 1;
        Ok(())
    })
}

/// Two processes add to a number under a lock. Both begin when they are there.
pub(super) fn lock_by_two(scale: Scale) -> Result<Measured> {
    let (count, barrier) = (Mutex::new(0_u64)?, Barrier::new(3)?);
    let add = |count: Mutex<u64>, barrier: Barrier| -> Result<(), Error> {
        while barrier.wait().is_ok() {
            for _ in 0..LOCKS {
                *count.lock()? += 1;
            }
            if barrier.wait().is_err() {
                break;
            }
        }
        Ok(())
    };
    let mut children = Vec::new();
    for _ in 0..2 {
        children.push(Process::spawn(add, (count.clone(), barrier.clone()))?);
    }
    let mut rounds = 0;
    let measured = rate(
        scale,
        real(2 * LOCKS),
        || {
            barrier.wait()?;
            barrier.wait()?;
            rounds += 1;
            Ok((*count.lock().map_err(Error::from)?, rounds))
        },
        |(sum, rounds)| check("number under the lock", rounds * 2 * LOCKS as u64, sum),
    )?;
    barrier.abort();
    children.into_iter().try_for_each(|child| child.join()?)?;
    Ok(measured)
}

pub(super) fn lock_of_threads_by_two(scale: Scale) -> Result<Measured> {
    let add = |count: &StdMutex<u64>| {
        for _ in 0..LOCKS {
            *count.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        }
    };
    let work = || {
        let count = StdMutex::new(0);
        thread::scope(|scope| (0..2).for_each(|_| drop(scope.spawn(|| add(&count)))));
        Ok(count.into_inner().unwrap_or_else(PoisonError::into_inner))
    };
    rate(scale, real(2 * LOCKS), work, |sum| check("number under the lock", 2 * LOCKS as u64, sum))
}

pub(super) fn semaphore(scale: Scale) -> Result<Measured> {
    let semaphore = Semaphore::new(2)?;
    nanoseconds(scale, || {
        drop(semaphore.acquire()?);
        Ok(())
    })
}

pub(super) fn event(scale: Scale) -> Result<Measured> {
    let (there, back) = (Event::new()?, Event::new()?);
    let answer = |there: Event, back: Event| -> () {
        loop {
            there.wait();
            there.clear();
            back.set();
        }
    };
    let child = Process::spawn(answer, (there.clone(), back.clone()))?;
    let measured = back_to_back(scale, || {
        there.set();
        back.wait();
        back.clear();
        Ok(())
    })?;
    child.kill()?;
    Ok(measured)
}

pub(super) fn atomic_by_four(scale: Scale) -> Result<Measured> {
    let (count, barrier) = (Atomic::new(0_u64)?, Barrier::new(5)?);
    let add = |count: Atomic<u64>, barrier: Barrier| {
        while barrier.wait().is_ok() {
            for _ in 0..LOCKS {
                count.fetch_add(1, Relaxed);
            }
            if barrier.wait().is_err() {
                break;
            }
        }
    };
    let mut children = Vec::new();
    for _ in 0..4 {
        children.push(Process::spawn(add, (count.clone(), barrier.clone()))?);
    }
    let mut rounds = 0;
    let measured = rate(
        scale,
        real(4 * LOCKS),
        || {
            barrier.wait()?;
            barrier.wait()?;
            rounds += 1;
            Ok((count.load(Relaxed), rounds))
        },
        |(sum, rounds)| check("counter", rounds * 4 * LOCKS as u64, sum),
    )?;
    barrier.abort();
    children.into_iter().try_for_each(Process::join)?;
    Ok(measured)
}
