//! Waiting until another process has changed something in shared memory, without a system call where nobody waits.
//!
//! Who waits arms the bell, looks once more whether what he waits for has come, and sleeps. Who has changed something
//! rings: that is a look at one word, and a system call only if somebody has armed it since. Everyone who waits is
//! woken, and looks for himself; so it is no harm when one of them is killed on the way. Nor when a ringer is killed or
//! stopped: the word says that somebody waits until he has been woken, so the next ringer wakes him.

use std::time::Duration;

use crate::sys::atomic::{AtomicU32, Relaxed, SeqCst, fence};
use crate::sys::futex;

/// A bell is a word: a number that changes with each arming and each ringing, and in its lowest bit whether somebody
/// waits.
pub(crate) struct Bell<'a>(pub(crate) &'a AtomicU32);

/// What the word was when the bell was armed.
#[derive(Clone, Copy)]
pub(crate) struct Armed(u32);

const WAITING: u32 = 1;

impl Bell<'_> {
    /// To be called before the last look at what one waits for: a change that this look misses will ring.
    pub(crate) fn arm(&self) -> Armed {
        let arm = |word: u32| word.wrapping_add(2) | WAITING;
        let before = self.0.fetch_update(SeqCst, Relaxed, |word| Some(arm(word)));
        // Together with the fence in `ring`: either the look that follows sees the change, or the ringer sees the bit.
        fence(SeqCst);
        Armed(arm(before.unwrap_or_default()))
    }

    /// Sleeps until the bell has been rung since it was armed, for `time` at most. May return early.
    pub(crate) fn wait(&self, armed: Armed, time: Option<Duration>) {
        futex::wait(self.0, armed.0, time);
    }

    /// To be called after a change. Says whether somebody was asleep.
    #[inline]
    pub(crate) fn ring(&self) -> bool {
        fence(SeqCst);
        let is_armed = self.0.load(Relaxed) & WAITING != 0;
        if is_armed {
            self.wake();
        }
        is_armed
    }

    /// Three steps, after each of which the ringer may be killed. So the bit is taken off last, and only if nobody has armed
    /// the bell since.
    #[cold]
    fn wake(&self) {
        let rung = self.change();
        futex::wake_all(self.0);
        let _ = self.0.compare_exchange(rung, rung & !WAITING, Relaxed, Relaxed);
    }

    /// The first step: from now on nobody falls asleep any more who has armed the bell before. (Open to the models.)
    pub(crate) fn change(&self) -> u32 {
        self.0.fetch_add(2, SeqCst).wrapping_add(2)
    }
}
