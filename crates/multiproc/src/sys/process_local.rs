//! A static with a value for each process: a forked copy makes its own.
//!
//! A lock in an ordinary static stays locked in a copy if another thread held it at the fork.

use std::ptr;
use std::sync::Once;
use std::sync::atomic::AtomicPtr;
use std::sync::atomic::Ordering::{AcqRel, Acquire};

use super::fork_detect::OriginalProcess;

pub(crate) struct ProcessLocal<T> {
    /// The value of this process, or of one that it is a copy of; null before the first use. Never freed.
    value: AtomicPtr<OfProcess<T>>,
    /// Makes a process's value; several threads may, and one value is kept. In a copy it gets that of the original, in
    /// which locks may be held.
    make: fn(inherited: Option<&T>) -> T,
}

/// A [`Once`] for each process. A copy inherits it as done if that was known at the fork.
pub(crate) type DoneOnce = ProcessLocal<Once>;

impl DoneOnce {
    pub(crate) const fn once() -> Self {
        Self::new(|inherited| {
            let once = Once::new();
            if inherited.is_some_and(Once::is_completed) {
                once.call_once(|| ());
            }
            once
        })
    }
}

struct OfProcess<T> {
    process: OriginalProcess,
    value: T,
}

impl<T: Send + Sync> ProcessLocal<T> {
    pub(crate) const fn new(make: fn(inherited: Option<&T>) -> T) -> Self {
        Self { value: AtomicPtr::new(ptr::null_mut()), make }
    }

    /// The value of this process.
    pub(crate) fn get(&'static self) -> &'static T {
        let known = self.value.load(Acquire);
        // SAFETY: null, or from `Box::into_raw` below, and never freed.
        let known_value = unsafe { known.as_ref() };
        match known_value {
            Some(of) if of.process.is_current() => &of.value,
            _ => self.begin(known, known_value.map(|of| &of.value)),
        }
    }

    #[cold]
    fn begin(&'static self, known: *mut OfProcess<T>, inherited: Option<&T>) -> &'static T {
        let value = OfProcess { process: OriginalProcess::current(), value: (self.make)(inherited) };
        let new = Box::into_raw(Box::new(value));
        match self.value.compare_exchange(known, new, AcqRel, Acquire) {
            // SAFETY: made above, and never freed from now on.
            Ok(_) => unsafe { &(*new).value },
            Err(of_another_thread) => {
                // SAFETY: made above, and no other thread has seen it.
                drop(unsafe { Box::from_raw(new) });
                // SAFETY: not null, made by another thread of this process as above, and never freed.
                unsafe { &(*of_another_thread).value }
            }
        }
    }
}
