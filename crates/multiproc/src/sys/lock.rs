//! Locks in shared memory that outlive whoever holds them.
//!
//! A lock belongs to a thread. When that thread ends while it holds one, killed or not, the kernel hands the lock on.
//! The next holder is not told: what is guarded here must be whole at every instruction.

use std::hint;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc::{self, pthread_mutex_t, pthread_mutexattr_t};
use nix::time::{ClockId, clock_gettime};

use super::atomic::Relaxed;
use super::fault::{self, Point};
use super::memory::Shared;
use super::poll::Deadline;
use super::processors::others_run;
use crate::error::{Error, Result};

/// How many bytes a lock takes up.
pub(crate) const SIZE: usize = 48;
const _: () = assert!(size_of::<pthread_mutex_t>() <= SIZE && align_of::<pthread_mutex_t>() <= 8);

/// How often to try again before it is worth while to sleep.
const TRIES: u32 = 50;

/// How long to sleep at most without a look. The kernel hands the lock of a dead *holder* on; but who lets go of a lock
/// wakes one of those who wait, and if that one is killed before he has run, and another has come and gone meanwhile, nobody
/// wakes the next.
const A_WHILE: Duration = Duration::from_millis(500);

/// A lock that lies in shared memory.
#[derive(Clone, Copy)]
pub(crate) struct Lock<'a>(&'a Shared, usize);

/// Holds a lock until it is dropped, by the thread that took it.
pub(crate) struct Guard<'a> {
    lock: Lock<'a>,
    of_this_thread: PhantomData<*const ()>,
}

impl<'a> Lock<'a> {
    /// Makes a lock out of zeroed bytes, which must not have been one before.
    pub(crate) fn create(memory: &'a Shared, offset: usize) -> Result<()> {
        let done = Self(memory, offset).initialise();
        done.map_err(|errno| Error::system("create a lock in shared memory", errno))
    }

    /// What [`Lock::create`] has made at this offset, in whatever process.
    #[inline]
    pub(crate) fn at(memory: &'a Shared, offset: usize) -> Self {
        Self(memory, offset)
    }

    /// Takes the lock if nobody holds it.
    #[inline]
    pub(crate) fn try_lock(self) -> Result<Option<Guard<'a>>> {
        // SAFETY: the mutex was initialised by who created the memory, before anybody else had it.
        self.taken(unsafe { libc::pthread_mutex_trylock(self.mutex()) })
    }

    /// Whether a living thread surely holds the lock.
    #[inline]
    pub(crate) fn is_held(self) -> bool {
        // The number of the thread is in the first word, where the kernel finds it, and clears it when the thread dies. So it
        // is in this C library; of others one does not know.
        cfg!(target_env = "gnu") && self.0.word32(self.1).load(Relaxed) & libc::FUTEX_TID_MASK != 0
    }

    /// Takes the lock; blocks while another holds it, until the deadline, then gives `None`.
    #[cold]
    pub(crate) fn lock(self, deadline: Deadline) -> Result<Option<Guard<'a>>> {
        for _ in 0..if others_run() { TRIES } else { 0 } {
            hint::spin_loop();
            if let Some(guard) = self.try_lock()? {
                return Ok(Some(guard));
            }
        }
        loop {
            let left = deadline.left();
            let time = left.map_or(A_WHILE, |left| left.min(A_WHILE));
            match timed_lock(self.mutex(), time) {
                libc::ETIMEDOUT if left != Some(time) => {}
                result => return self.taken(result),
            }
        }
    }

    #[inline]
    fn taken(self, result: i32) -> Result<Option<Guard<'a>>> {
        match result {
            0 => {}
            libc::EBUSY | libc::ETIMEDOUT => return Ok(None),
            // Its holder has died. Who is killed before the next line leaves it as it is now.
            // SAFETY: the mutex is ours, and in this very state.
            libc::EOWNERDEAD => match unsafe { libc::pthread_mutex_consistent(self.mutex()) } {
                0 => {}
                errno => return Err(refused(errno)),
            },
            errno => return Err(refused(errno)),
        }
        fault::at(Point::LockTaken);
        Ok(Some(Guard { lock: self, of_this_thread: PhantomData }))
    }

    fn initialise(self) -> nix::Result<()> {
        let mut attributes = MaybeUninit::<pthread_mutexattr_t>::uninit();
        let attributes = attributes.as_mut_ptr();
        // SAFETY: there is room for the attributes.
        checked(unsafe { libc::pthread_mutexattr_init(attributes) })?;
        // SAFETY: they are initialised.
        checked(unsafe { libc::pthread_mutexattr_setrobust(attributes, libc::PTHREAD_MUTEX_ROBUST) })?;
        // SAFETY: as above.
        checked(unsafe { libc::pthread_mutexattr_setpshared(attributes, libc::PTHREAD_PROCESS_SHARED) })?;
        // Taking it twice is to be an error, should it ever happen, and not a wait for ever.
        // SAFETY: as above.
        checked(unsafe { libc::pthread_mutexattr_settype(attributes, libc::PTHREAD_MUTEX_ERRORCHECK) })?;
        // SAFETY: aligned memory inside the mapping that nobody else uses yet, see `create`.
        checked(unsafe { libc::pthread_mutex_init(self.mutex(), attributes) })?;
        // SAFETY: they are initialised, and not used any more.
        checked(unsafe { libc::pthread_mutexattr_destroy(attributes) })
    }

    #[inline]
    fn mutex(self) -> *mut pthread_mutex_t {
        assert!(self.1.is_multiple_of(align_of::<pthread_mutex_t>()), "unaligned lock");
        self.0.place(self.1, SIZE).cast().as_ptr()
    }
}

impl Drop for Guard<'_> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: this thread holds the lock, as the guard says, which cannot leave it.
        unsafe { libc::pthread_mutex_unlock(self.lock.mutex()) };
    }
}

fn checked(result: i32) -> nix::Result<()> {
    if result == 0 { Ok(()) } else { Err(Errno::from_raw(result)) }
}

fn refused(errno: i32) -> Error {
    Error::system("take a lock in shared memory", Errno::from_raw(errno))
}

#[cfg(target_env = "gnu")]
unsafe extern "C" {
    /// Since glibc 2.30; `libc` does not have it.
    fn pthread_mutex_clocklock(
        mutex: *mut pthread_mutex_t,
        clock: libc::clockid_t,
        until: *const libc::timespec,
    ) -> i32;
}

#[cfg(target_env = "gnu")]
fn timed_lock(mutex: *mut pthread_mutex_t, time: Duration) -> i32 {
    let until = from_now(ClockId::CLOCK_MONOTONIC, time);
    // SAFETY: the mutex was initialised, see `try_lock`, and the time outlives the call.
    unsafe { pthread_mutex_clocklock(mutex, libc::CLOCK_MONOTONIC, &raw const until) }
}

/// The clock that this one goes by can be set, and then the wait is longer or shorter; there is no other.
#[cfg(not(target_env = "gnu"))]
fn timed_lock(mutex: *mut pthread_mutex_t, time: Duration) -> i32 {
    let until = from_now(ClockId::CLOCK_REALTIME, time);
    // SAFETY: the mutex was initialised, see `try_lock`, and the time outlives the call.
    unsafe { libc::pthread_mutex_timedlock(mutex, &raw const until) }
}

fn from_now(clock: ClockId, time: Duration) -> libc::timespec {
    let now = clock_gettime(clock).map_or(Duration::ZERO, Duration::from);
    let until = now.saturating_add(time);
    libc::timespec {
        tv_sec: libc::time_t::try_from(until.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: until.subsec_nanos().into(),
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;
    use std::sync::mpsc;

    use std::thread;

    use super::*;
    #[cfg(target_env = "gnu")]
    use crate::sys::{atomic::SeqCst, futex};

    fn memory() -> Shared {
        let (memory, _fd) = Shared::create(NonZeroUsize::new(4096).unwrap()).unwrap();
        Lock::create(&memory, 64).unwrap();
        memory
    }

    #[test]
    fn one_holds_it_and_others_wait_until_their_time_is_over() {
        let memory = memory();
        let lock = Lock::at(&memory, 64);
        let guard = lock.try_lock().unwrap().unwrap();
        thread::scope(|scope| {
            let other = scope.spawn(|| {
                let lock = Lock::at(&memory, 64);
                let time = Duration::from_millis(20);
                let start = std::time::Instant::now();
                assert!(lock.try_lock().unwrap().is_none());
                assert!(lock.lock(Deadline::after(time)).unwrap().is_none());
                assert!(start.elapsed() >= time);
            });
            other.join().unwrap();
        });
        drop(guard);
        assert!(!lock.is_held());
        assert!(lock.lock(Deadline::Never).unwrap().is_some());
    }

    #[test]
    fn a_thread_that_takes_it_twice_is_told() {
        let memory = memory();
        let lock = Lock::at(&memory, 64);
        let _guard = lock.try_lock().unwrap().unwrap();
        assert!(lock.lock(Deadline::Never).is_err());
    }

    /// As where one was killed who had just been woken to take the lock, and another had taken it before him: that one has
    /// nobody to wake, as far as he can see.
    #[cfg(target_env = "gnu")]
    #[test]
    fn one_whom_nobody_wakes_looks_for_himself() {
        const WAITED_FOR: u32 = 1 << 31; // the C library's and the kernel's bit for it (FUTEX_WAITERS)
        let memory = memory();
        let (lock, word) = (Lock::at(&memory, 64), memory.word32(64));
        let guard = lock.try_lock().unwrap().unwrap();
        let seen = word.fetch_or(WAITED_FOR, SeqCst) | WAITED_FOR;
        thread::scope(|scope| {
            let (tell, told) = mpsc::channel();
            let next_sleeps = || {
                let stat = format!("/proc/self/task/{}/stat", told.recv().unwrap());
                while !std::fs::read_to_string(&stat).unwrap().contains(") S ") {
                    thread::yield_now();
                }
            };
            let (first, memory) = (tell.clone(), &memory);
            scope.spawn(move || {
                first.send(nix::unistd::gettid()).unwrap();
                futex::wait(word, seen, None); // and does not take it
            });
            next_sleeps();
            scope.spawn(move || {
                tell.send(nix::unistd::gettid()).unwrap();
                assert!(Lock::at(memory, 64).lock(Deadline::Never).unwrap().is_some());
            });
            next_sleeps();
            drop(guard); // wakes the first
            drop(lock.try_lock().unwrap().unwrap());
        });
    }

    #[test]
    fn a_lock_whose_holder_has_ended_goes_to_the_next() {
        let memory = memory();
        let (held, holds) = mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(move || {
                std::mem::forget(Lock::at(&memory, 64).try_lock().unwrap());
                assert_eq!(Lock::at(&memory, 64).is_held(), cfg!(target_env = "gnu"));
                held.send(memory).unwrap(); // and the thread ends
            });
            let memory = holds.recv().unwrap();
            while Lock::at(&memory, 64).is_held() {
                thread::yield_now();
            }
            for _ in 0..2 {
                assert!(Lock::at(&memory, 64).lock(Deadline::Never).unwrap().is_some());
            }
        });
    }
}
