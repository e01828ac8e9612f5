//! `Semaphore`: a counting semaphore between processes.

use std::fmt;
use std::time::Duration;

use super::permits::Request;
use super::shared::{Shared, impl_serde_shared, not_free};
use super::slots::Entry;
use crate::error::{Error, Result};
use crate::sys::poll::Deadline;

/// A number of permits, which bounds how many threads of any processes do something at the same time:
/// Python's `Semaphore` and `BoundedSemaphore`.
///
/// A permit is a value that gives itself back when it is dropped, so more permits than there are cannot be
/// given back. **The permits of a process that ends come back**, however it ends; a thread that waits for
/// them notices within half a second. Permits are granted in the order of the requests, while no more than 256 threads
/// wait. Clones are handles of the same semaphore; a clone travels as an argument of a process or task, and through a
/// pipe.
///
/// ```
/// use multiproc::{Pool, sync::Semaphore};
///
/// fn fetch(slots: Semaphore, number: u64) -> multiproc::Result<u64> {
///     let _permit = slots.acquire()?; // two at a time
///     Ok(number * number)
/// }
///
/// fn main() -> multiproc::Result<()> {
///     multiproc::init();
///     let slots = Semaphore::new(2)?;
///     let pool = Pool::new(4)?;
///     let squares = pool.starmap(fetch, (1..=4).map(|number| (slots.clone(), number)))?;
///     assert_eq!(squares.into_iter().sum::<multiproc::Result<u64>>()?, 30);
///     assert_eq!(slots.available(), 2);
///     Ok(())
/// }
/// ```
#[derive(Clone)]
pub struct Semaphore {
    pub(super) shared: Shared,
}

impl_serde_shared!(Semaphore { shared }: 0, Some(0));

/// The most permits of a semaphore. Each permit that is granted is an entry, and each call reads all
/// entries.
const MAX_PERMITS: u32 = 65_536;
/// How many threads can wait in their order; more of them wait until one of these has its permits.
const WAITERS: usize = 256;

impl Semaphore {
    /// Makes a semaphore with a number of permits from 1 to 65,536.
    ///
    /// # Errors
    /// When `permits` is 0 or more than 65,536, or when the kernel refuses a descriptor or the memory.
    pub fn new(permits: u32) -> Result<Self> {
        if !(1..=MAX_PERMITS).contains(&permits) {
            return Err(Error::invalid(format!("a semaphore has from 1 to {MAX_PERMITS} permits")));
        }
        Ok(Self { shared: Shared::create::<()>(permits as usize + WAITERS, 0)? })
    }

    /// Takes a permit. Blocks while none is free, or other threads wait longer.
    ///
    /// # Errors
    /// None, unless another process has written over the memory.
    pub fn acquire(&self) -> Result<Permit> {
        self.take(1, Deadline::Never)
    }

    /// As [`acquire`](Self::acquire), but takes `count` permits, all at once.
    ///
    /// # Errors
    /// When `count` is 0, or more than there are.
    pub fn acquire_many(&self, count: u32) -> Result<Permit> {
        self.take(count, Deadline::Never)
    }

    /// As [`acquire`](Self::acquire), but blocks for `time` at most.
    ///
    /// # Errors
    /// [`Error::is_timeout`] when no permit was free in time.
    pub fn acquire_timeout(&self, time: Duration) -> Result<Permit> {
        self.take(1, Deadline::after(time))
    }

    /// As [`acquire`](Self::acquire), but does not block. If no permit is free, it takes some microseconds
    /// for each holder to find out whether that lives.
    ///
    /// # Errors
    /// [`Error::is_timeout`] when no permit is free.
    pub fn try_acquire(&self) -> Result<Permit> {
        self.take(1, Deadline::now())
    }

    /// The number of free permits, as far as is known: those of a process that has ended come back when a
    /// thread asks for them.
    pub fn available(&self) -> u32 {
        self.shared.free_permits(self.permits())
    }

    /// The number of permits, taken and free.
    pub fn permits(&self) -> u32 {
        u32::try_from(self.shared.slots.saturating_sub(WAITERS)).unwrap_or(u32::MAX)
    }

    fn take(&self, count: u32, deadline: Deadline) -> Result<Permit> {
        if !(1..=self.permits()).contains(&count) {
            return Err(Error::invalid(format!(
                "{count} permits of a semaphore that has {}",
                self.permits()
            )));
        }
        let holder = self.shared.own_process();
        let request = Request { count, holder, is_reentrant: false };
        let entry = self.shared.acquire(self.permits(), request, deadline, |_| {})?;
        let entry = entry.ok_or_else(|| not_free(deadline, "no permit is free", "take a permit"))?;
        Ok(Permit { shared: self.shared.clone(), entry, count })
    }
}

impl fmt::Debug for Semaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Semaphore").field("available", &self.available()).finish_non_exhaustive()
    }
}

/// Permits of a [`Semaphore`], given back when this is dropped, or when the process ends. Can be sent to
/// another thread of its process.
pub struct Permit {
    pub(super) shared: Shared,
    entry: Entry,
    count: u32,
}

impl Permit {
    /// The number of permits.
    pub fn count(&self) -> u32 {
        self.count
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        // A copy of the process that was forked meanwhile does not have them.
        if self.entry.holder.is_current_process() {
            self.shared.release(&self.entry);
        }
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").field("count", &self.count).finish_non_exhaustive()
    }
}
