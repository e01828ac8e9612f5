//! A "needs wake-up" flag before an eventfd, like `io_uring`'s `IORING_SQ_NEED_WAKEUP`: no system call is
//! made while no process waits.
//!
//! A waiter sets the flag, re-checks its condition, and sleeps until the eventfd is written. A process that
//! has changed the condition loads the flag; if it is set, the process writes the eventfd and then clears the
//! flag. A process killed between the two causes one wake-up too many. A process killed before it writes the
//! eventfd wakes no one, so every waiter re-checks after a time limit. (Writing the eventfd before the change
//! would avoid that; but the woken waiter would find nothing and sleep again, which makes a wake-up half as
//! fast.)

use crate::sys::atomic::{AtomicU32, Relaxed, SeqCst, fence};

/// The flag's word: the lowest bit says whether it is set, and the rest changes each time it is set.
pub(crate) struct WakeupFlag<'a>(pub(crate) &'a AtomicU32);

/// The word while the flag is set this time.
#[derive(Clone, Copy)]
pub(crate) struct SetWord(u32);

const SET: u32 = 1;

impl WakeupFlag<'_> {
    /// To be called before the last check of the condition. One thread at a time may wait.
    pub(crate) fn set(&self) -> SetWord {
        let word = self.0.load(Relaxed).wrapping_add(2) | SET;
        self.0.store(word, Relaxed);
        // Pairs with the fence in `should_notify`: the waiter's check sees the change, or the changer sees
        // the flag.
        fence(SeqCst);
        SetWord(word)
    }

    /// Whether a waiter is there, as far as can be told without a fence.
    #[inline]
    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Relaxed) & SET != 0
    }

    /// To be called after a change: the word to clear after the notification, if a waiter is there.
    #[inline]
    pub(crate) fn should_notify(&self) -> Option<SetWord> {
        fence(SeqCst);
        let word = self.0.load(Relaxed);
        (word & SET != 0).then_some(SetWord(word))
    }

    /// To be called after a notification, and by a waiter that stops waiting. A flag that has been set again
    /// stays set.
    pub(crate) fn clear(&self, set: SetWord) {
        let _ = self.0.compare_exchange(set.0, set.0 & !SET, Relaxed, Relaxed);
    }
}
