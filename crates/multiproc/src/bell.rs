//! Waiting until another process has changed something in shared memory, without a system call where nobody waits.
//!
//! Who waits arms the bell, looks once more whether what he waits for has come, and sleeps. Who has changed something
//! rings: that is a look at one word, and a system call only if somebody has armed it since. Everyone who waits is
//! woken, and looks for himself; so it is no harm when one of them is killed on the way. Nor is it when one who rings is
//! killed: until all have been woken, the bell says that somebody waits, and the next who rings wakes them.

use std::time::Duration;

use crate::sys::atomic::{AtomicU32, Relaxed, SeqCst, fence};
use crate::sys::fault::{self, Point};
use crate::sys::futex;

/// A bell is a word: a number that changes with each ringing, and in its lowest bits whether somebody waits, and whether
/// somebody is just waking those who do.
pub(crate) struct Bell<'a>(pub(crate) &'a AtomicU32);

/// What the word was when the bell was armed.
#[derive(Clone, Copy)]
pub(crate) struct Armed(u32);

const WAITING: u32 = 1;
const RINGING: u32 = 2;
const ONE: u32 = 4;

impl Bell<'_> {
    /// To be called before the last look at what one waits for: a change that this look misses will ring.
    pub(crate) fn arm(&self) -> Armed {
        // Who is just waking others is not to say in the end that nobody waits.
        let arm = |word: u32| match word & RINGING {
            0 => word | WAITING,
            _ => word.wrapping_add(ONE) & !RINGING | WAITING,
        };
        let (Ok(before) | Err(before)) = self.0.fetch_update(SeqCst, Relaxed, |word| Some(arm(word)));
        // Together with the fence in `ring`: either the look that follows sees the change, or the ringer sees the bit.
        fence(SeqCst);
        Armed(arm(before))
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

    /// Changes the number, lest anybody fall asleep who has armed the bell before; wakes those who are asleep; and says only
    /// then that nobody waits, unless somebody has armed it meanwhile.
    ///
    /// Who is overtaken does it again: one who has armed the bell does not wake the others, and one who rings may be killed
    /// before he does.
    #[cold]
    fn wake(&self, mut word: u32) {
        while word & WAITING != 0 {
            let rung = word.wrapping_add(ONE) | RINGING;
            match self.0.compare_exchange(word, rung, SeqCst, Relaxed) {
                Ok(_) => {
                    fault::at(Point::BellChanged);
                    futex::wake_all(self.0);
                    fault::at(Point::AllWoken);
                    let _ = self.0.compare_exchange(rung, rung & !(WAITING | RINGING), Relaxed, Relaxed);
                    return;
                }
                Err(now) => word = now,
            }
        }
    }
}
