//! A static that each process has of its own: in a forked copy it begins as its default.
//!
//! A lock in an ordinary static stays locked in a copy if another thread held it at the fork.

use std::ptr;
use std::sync::atomic::AtomicPtr;
use std::sync::atomic::Ordering::{AcqRel, Acquire};

use super::fork_detect::OriginalProcess;

pub(crate) struct ProcessLocal<T> {
    /// The value that this process has, or a process that it is a copy of; null before the first use. Never freed.
    value: AtomicPtr<OfProcess<T>>,
    /// Called once in a copy, with the value of the process that was copied, in which locks may be held.
    disinherit: fn(&T),
}

struct OfProcess<T> {
    process: OriginalProcess,
    value: T,
}

impl<T: Default + Send + Sync> ProcessLocal<T> {
    pub(crate) const fn new() -> Self {
        Self::disinheriting(|_| {})
    }

    pub(crate) const fn disinheriting(disinherit: fn(&T)) -> Self {
        Self { value: AtomicPtr::new(ptr::null_mut()), disinherit }
    }

    pub(crate) fn get(&'static self) -> &'static T {
        let known = self.value.load(Acquire);
        // SAFETY: null, or from `Box::into_raw` below, and never freed.
        let inherited = unsafe { known.as_ref() };
        match inherited {
            Some(of) if of.process.is_current() => &of.value,
            _ => self.begin(known, inherited.map(|of| &of.value)),
        }
    }

    #[cold]
    fn begin(&'static self, known: *mut OfProcess<T>, inherited: Option<&T>) -> &'static T {
        let new =
            Box::into_raw(Box::new(OfProcess { process: OriginalProcess::current(), value: T::default() }));
        match self.value.compare_exchange(known, new, AcqRel, Acquire) {
            Ok(_) => {
                inherited.into_iter().for_each(self.disinherit);
                // SAFETY: made above, and never freed from now on.
                unsafe { &(*new).value }
            }
            Err(of_another_thread) => {
                // SAFETY: made above, and no other thread has seen it.
                drop(unsafe { Box::from_raw(new) });
                // SAFETY: not null, made by another thread of this process as above, and never freed.
                unsafe { &(*of_another_thread).value }
            }
        }
    }
}
