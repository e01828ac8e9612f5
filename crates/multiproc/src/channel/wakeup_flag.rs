//! Waiting on a descriptor until another process has changed something in shared memory, without a system call where
//! nobody waits.
//!
//! A process that has to wait arms its wakeup flag, looks once more, and sleeps until its event count rings. A process that has changed
//! something looks at the wakeup flag: if it is armed, it rings first and disarms it then. So if it is killed in between, the event count
//! rings once too often. If it is killed before it could ring, there is a change that nobody has announced; therefore nobody
//! sleeps for longer than a while without looking. (To ring before the change would preforked child that, but then the one who is
//! woken finds nothing and falls asleep again, which makes a wake-up half as fast.)

use crate::sys::atomic::{AtomicU32, Relaxed, SeqCst, fence};

/// An wakeup flag is a word: a number that changes whenever it is armed, and in its lowest bit whether it is.
pub(crate) struct WakeupFlag<'a>(pub(crate) &'a AtomicU32);

/// What the word is while the wakeup flag is armed this time.
#[derive(Clone, Copy)]
pub(crate) struct FlagGuard(u32);

const ARMED: u32 = 1;

impl WakeupFlag<'_> {
    /// To be called before the last look at what one waits for. One at a time may wait.
    pub(crate) fn set(&self) -> FlagGuard {
        let armed = self.0.load(Relaxed).wrapping_add(2) | ARMED;
        self.0.store(armed, Relaxed);
        // Together with the fence in `after_change`: either the look that follows sees the change, or the changer sees this.
        fence(SeqCst);
        FlagGuard(armed)
    }

    /// Whether somebody is waiting, as far as can be told without a fence.
    #[inline]
    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Relaxed) & ARMED != 0
    }

    /// To be called after a change: whom to wake, if anybody waits.
    #[inline]
    pub(crate) fn should_notify(&self) -> Option<FlagGuard> {
        fence(SeqCst);
        let word = self.0.load(Relaxed);
        (word & ARMED != 0).then_some(FlagGuard(word))
    }

    /// To be called after ringing, so that it is not done again, or when one waits no longer. An wakeup flag that has been armed
    /// anew stays armed.
    pub(crate) fn clear(&self, armed: FlagGuard) {
        let _ = self.0.compare_exchange(armed.0, armed.0 & !ARMED, Relaxed, Relaxed);
    }
}
