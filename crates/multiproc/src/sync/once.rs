//! `Once`, `OnceCell`: one-time initialisation across processes.

use std::fmt;
use std::marker::PhantomData;

use bytemuck::Pod;

use super::shared::{Shared, Word, impl_serde_shared};
use crate::error::Result;
use crate::impl_serde::impl_serde;
use crate::sys::atomic::{Acquire, Release};
use crate::sys::failpoint::{self, Failpoint};
use crate::sys::poll::Deadline;

/// A value that one process makes, and all others take from it.
///
/// If the process that makes it dies, or panics, the next one makes it. Clones are handles of the same cell;
/// a clone travels as an argument of a process or task, and through a pipe.
///
/// ```
/// use multiproc::{Pool, sync::OnceCell};
///
/// fn seed(cell: OnceCell<u32>) -> multiproc::Result<u32> {
///     cell.get_or_init(std::process::id)
/// }
///
/// fn main() -> multiproc::Result<()> {
///     multiproc::init();
///     let cell = OnceCell::new()?;
///     let pool = Pool::new(2)?;
///     let seeds: Vec<_> = pool.map(seed, (0..4).map(|_| cell.clone()))?;
///     let first = cell.get().expect("a worker made it");
///     assert!(seeds.into_iter().all(|seed| seed.is_ok_and(|seed| seed == first)));
///     Ok(())
/// }
/// ```
pub struct OnceCell<T: Pod> {
    shared: Shared,
    value: PhantomData<fn(&T)>,
}

impl_serde_shared!(OnceCell<T> where [T: Pod] { shared, value }: size_of::<T>(), Some(1));

/// The state when the value is there.
const DONE: u64 = 1;

impl<T: Pod> OnceCell<T> {
    /// Makes an empty cell.
    ///
    /// # Errors
    /// When the kernel refuses a descriptor or the memory.
    pub fn new() -> Result<Self> {
        Ok(Self { shared: Shared::create::<T>(0, 1)?, value: PhantomData })
    }

    /// The value, if it is there. Does not block.
    pub fn get(&self) -> Option<T> {
        (self.shared.word(Word::State).load(Acquire) == DONE).then(|| self.shared.load(0))
    }

    /// The value, which `make` makes if it is not there. Blocks while another thread makes it; if that dies
    /// or panics, this one does it.
    ///
    /// # Errors
    /// When `make` calls this for the same cell (`EDEADLK`).
    pub fn get_or_init(&self, make: impl FnOnce() -> T) -> Result<T> {
        self.get_or_try_init(|| Ok(make()))?
    }

    /// As [`get_or_init`](Self::get_or_init), but `make` may fail; then its error is returned, and the next
    /// thread tries.
    ///
    /// # Errors
    /// Those of [`get_or_init`](Self::get_or_init); inside, the one of `make`.
    pub fn get_or_try_init<E>(&self, make: impl FnOnce() -> Result<T, E>) -> Result<Result<T, E>> {
        if let Some(value) = self.get() {
            return Ok(Ok(value));
        }
        // Whatever a holder that died has left: only the state says that there is a value.
        self.shared.check_not_held("cell")?;
        let _guard = self.shared.lock_slots(Deadline::Never)?;
        if let Some(value) = self.get() {
            return Ok(Ok(value));
        }
        let made = make();
        // A copy of the process that `make` has forked and let return does not hold the lock.
        if let Ok(value) = &made
            && self.shared.mutex().is_own()
        {
            self.put(value);
        }
        Ok(made)
    }

    /// Fills the cell, unless it is filled; returns whether it did. Blocks while another thread makes the
    /// value.
    ///
    /// # Errors
    /// Those of [`get_or_init`](Self::get_or_init).
    pub fn set(&self, value: T) -> Result<bool> {
        self.shared.check_not_held("cell")?;
        let _guard = self.shared.lock_slots(Deadline::Never)?;
        let is_empty = self.get().is_none();
        if is_empty {
            self.put(&value);
        }
        Ok(is_empty)
    }

    fn put(&self, value: &T) {
        self.shared.store(0, value);
        failpoint::hit(Failpoint::CellFilled);
        self.shared.word(Word::State).store(DONE, Release);
    }
}

impl<T: Pod> Clone for OnceCell<T> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), value: PhantomData }
    }
}

impl<T: Pod + fmt::Debug> fmt::Debug for OnceCell<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OnceCell").field(&self.get()).finish()
    }
}

/// Runs a function once in all processes.
///
/// If the process that runs it dies, or panics, the next one runs it. Clones are handles of the same thing; a
/// clone travels as an argument of a process or task, and through a pipe.
///
/// ```
/// # fn main() -> multiproc::Result<()> {
/// let once = multiproc::sync::Once::new()?;
/// let mut runs = 0;
/// for _ in 0..3 {
///     once.call_once(|| runs += 1)?;
/// }
/// assert_eq!((runs, once.is_completed()), (1, true));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Once(OnceCell<()>);

impl_serde!(newtype Once);

impl Once {
    /// Makes one that has not run.
    ///
    /// # Errors
    /// When the kernel refuses a descriptor or the memory.
    pub fn new() -> Result<Self> {
        Ok(Self(OnceCell::new()?))
    }

    /// Runs `act`, unless it has run. Blocks while another thread runs it; if that dies or panics, this one
    /// does it.
    ///
    /// # Errors
    /// When `act` calls this for the same one (`EDEADLK`).
    pub fn call_once(&self, act: impl FnOnce()) -> Result<()> {
        self.0.get_or_init(act)
    }

    /// Whether it has run.
    pub fn is_completed(&self) -> bool {
        self.0.get().is_some()
    }
}
