//! The C library's robust mutex, shared between processes: what a lock that survives its holder costs by
//! hand.

use std::cell::UnsafeCell;
use std::mem;
use std::ptr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use anyhow::{Result, ensure};
use bench::measure::{Measured, Scale, nanoseconds, rate};
use bench::work::{LOCKS, check, real};

use super::memory::{Child, fork, shared};

/// A number under a robust mutex.
struct Locked {
    mutex: UnsafeCell<libc::pthread_mutex_t>,
    number: AtomicU64,
    ready: AtomicU32,
}

impl Locked {
    fn create() -> Result<&'static Self> {
        let memory = shared(size_of::<Self>())?.cast::<Self>();
        // SAFETY: memory of our own, never unmapped, and zeroed; the mutex is made before it is used.
        unsafe {
            let mut attributes: libc::pthread_mutexattr_t = mem::zeroed();
            libc::pthread_mutexattr_init(&raw mut attributes);
            libc::pthread_mutexattr_setpshared(&raw mut attributes, libc::PTHREAD_PROCESS_SHARED);
            libc::pthread_mutexattr_setrobust(&raw mut attributes, libc::PTHREAD_MUTEX_ROBUST);
            let mutex = ptr::addr_of_mut!((*memory).mutex).cast();
            ensure!(libc::pthread_mutex_init(mutex, &raw const attributes) == 0, "there is no robust mutex");
            Ok(&*memory)
        }
    }

    fn add(&self) {
        // SAFETY: a mutex that was made, and that this thread does not hold.
        let taken = unsafe { libc::pthread_mutex_lock(self.mutex.get()) };
        assert_eq!(taken, 0);
        self.number.store(self.number.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        // SAFETY: this thread holds it.
        unsafe { libc::pthread_mutex_unlock(self.mutex.get()) };
    }
}

pub(super) fn lock(scale: Scale) -> Result<Measured> {
    let locked = Locked::create()?;
    nanoseconds(scale, || {
        locked.add();
        Ok(())
    })
}

/// Two processes at once; both begin when they are there.
pub(super) fn lock_by_two(scale: Scale) -> Result<Measured> {
    let work = || {
        let locked = Locked::create()?;
        let add = || {
            locked.ready.fetch_add(1, Ordering::SeqCst);
            while locked.ready.load(Ordering::SeqCst) < 2 {
                std::hint::spin_loop();
            }
            (0..LOCKS).for_each(|_| locked.add());
        };
        [fork(add)?, fork(add)?].into_iter().try_for_each(Child::join)?;
        Ok(locked.number.load(Ordering::SeqCst))
    };
    rate(scale, real(2 * LOCKS), work, |sum| check("number under the lock", 2 * LOCKS as u64, sum))
}
