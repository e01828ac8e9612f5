//! Waiting on a descriptor until another process has changed something in shared memory, without a system call where
//! nobody waits, and without a wake-up lost, whoever is killed.
//!
//! There are two sides, each under a lock of its own, so that one process at a time acts on each. Who has to wait for
//! the other side keeps his lock, and
//!
//! 1. arms his alarm, and looks once more;
//! 2. tries the other side's lock. If he gets it, nobody there is in the middle of a change, so he looks a last time,
//!    and whoever comes after him sees the alarm before he changes anything;
//! 3. sleeps, until his bell rings. If he did not get that lock, he sleeps for a while only, and begins again.
//!
//! Who changes something, under his lock, looks at the other side's alarm *before* and *after* he publishes the change.
//! If it is armed he rings first and disarms it then. Looking before is for his own death: a change that is
//! there has been announced, whenever he dies, to one who slept well. Looking after, behind a fence, is for the one who armed
//! it in the middle: if the changer lives, he announces it; if he dies right then, that one is awake again after a while.

use crate::sys::atomic::{AtomicU32, Relaxed, SeqCst, fence};

/// An alarm is a word: a number that changes whenever it is armed, and in its lowest bit whether it is.
pub(crate) struct Alarm<'a>(pub(crate) &'a AtomicU32);

/// What the word is while the alarm is armed this time.
#[derive(Clone, Copy)]
pub(crate) struct Armed(u32);

const ARMED: u32 = 1;

impl Alarm<'_> {
    /// To be called before looking at what one waits for, by the one who holds this side's lock.
    pub(crate) fn arm(&self) -> Armed {
        let armed = self.0.load(Relaxed).wrapping_add(2) | ARMED;
        self.0.store(armed, Relaxed);
        // Together with the fence in `after`: either the look that follows sees the change, or the changer sees this.
        fence(SeqCst);
        Armed(armed)
    }

    /// What to answer by ringing before a change is published.
    #[inline]
    pub(crate) fn before(&self) -> Option<Armed> {
        let word = self.0.load(Relaxed);
        (word & ARMED != 0).then_some(Armed(word))
    }

    /// What to answer by ringing after a change has been published.
    #[inline]
    pub(crate) fn after(&self) -> Option<Armed> {
        fence(SeqCst);
        self.before()
    }

    /// To be called after ringing, so that it is not done again. An alarm that has been armed anew stays armed.
    pub(crate) fn disarm(&self, armed: Armed) {
        let _ = self.0.compare_exchange(armed.0, armed.0 & !ARMED, Relaxed, Relaxed);
    }
}
