//! Waiting until another process has changed something in shared memory, without a system call where nobody waits.
//!
//! Who waits arms the bell, looks once more whether what he waits for has come, and sleeps. Who has changed something
//! rings: that is a look at one word, and a system call only if somebody has armed it since. Everyone who waits is
//! woken, and looks for himself; so it is no harm when one of them is killed on the way.

use std::time::Duration;

use crate::sys::atomic::{AtomicU32, Relaxed, SeqCst, fence};
use crate::sys::futex;

/// A bell is a word: a number that changes with each ringing, and in its lowest bit whether somebody waits.
pub(crate) struct Bell<'a>(pub(crate) &'a AtomicU32);

/// What the word was when the bell was armed.
#[derive(Clone, Copy)]
pub(crate) struct Armed(u32);

const WAITING: u32 = 1;

impl Bell<'_> {
    /// To be called before the last look at what one waits for: a change that this look misses will ring.
    pub(crate) fn arm(&self) -> Armed {
        let armed = self.0.fetch_or(WAITING, SeqCst) | WAITING;
        // Together with the fence in `ring`: either the look that follows sees the change, or the ringer sees the bit.
        fence(SeqCst);
        Armed(armed)
    }

    /// Sleeps until the bell has been rung since it was armed, for `time` at most. May return early.
    pub(crate) fn wait(&self, armed: Armed, time: Option<Duration>) {
        futex::wait(self.0, armed.0, time);
    }

    /// To be called after a change. Says whether somebody was asleep.
    #[inline]
    pub(crate) fn ring(&self) -> bool {
        fence(SeqCst);
        let word = self.0.load(Relaxed);
        let is_armed = word & WAITING != 0;
        if is_armed {
            self.wake(word);
        }
        is_armed
    }

    /// Who fails to change the word has been overtaken by another ringer, who wakes in his stead, or by one who has armed
    /// it after the change and has seen it.
    #[cold]
    fn wake(&self, word: u32) {
        let rung = word.wrapping_add(2) & !WAITING;
        if self.0.compare_exchange(word, rung, SeqCst, Relaxed).is_ok() {
            futex::wake_all(self.0);
        }
    }
}
