//! Waiting until another process has changed something in shared memory, without a system call where nobody waits.
//!
//! Who waits arms the event count, looks once more whether what he waits for has come, and sleeps. Who has changed something
//! rings: that is a look at one word, and a system call only if somebody has armed it since. Everyone who waits is
//! woken, and looks for himself; so it is no harm when one of them is killed on the way. Nor is it when one who rings is
//! killed: until all have been woken, the event count says that somebody waits, and the next who rings wakes them.

use std::time::Duration;

use crate::sys::atomic::{AtomicU32, Relaxed, SeqCst, fence};
use crate::sys::failpoint::{self, Failpoint};
use crate::sys::futex;

/// A event count is a word: a number that changes with each ringing, and in its lowest bits whether somebody waits, and whether
/// somebody is just waking those who do.
pub(crate) struct EventCount<'a>(pub(crate) &'a AtomicU32);

/// What the word was when the event count was armed.
#[derive(Clone, Copy)]
pub(crate) struct Ticket(u32);

/// After this many exchanges that failed, a event count is rung or armed without one. Only a process gone wrong
/// changes a word so often.
const TRIES: u32 = 100;

const WAITING: u32 = 1;
const NOTIFYING: u32 = 2;
const ONE: u32 = 4;

impl EventCount<'_> {
    /// To be called before the last look at what one waits for: a change that this look misses will ring.
    pub(crate) fn prepare_wait(&self) -> Ticket {
        // Who is just waking others is not to say in the end that nobody waits.
        let arm = |word: u32| match word & NOTIFYING {
            0 => word | WAITING,
            _ => word.wrapping_add(ONE) & !NOTIFYING | WAITING,
        };
        let mut word = self.0.load(Relaxed);
        let mut tries = 0;
        let armed = loop {
            match self.0.compare_exchange(word, arm(word), SeqCst, Relaxed) {
                Ok(_) => break arm(word),
                Err(_) if tries == TRIES => break self.0.fetch_or(WAITING, SeqCst) | WAITING,
                Err(now) => (word, tries) = (now, tries + 1),
            }
        };
        // Together with the fence in `ring`: either the look that follows sees the change, or the ringer sees the bit.
        fence(SeqCst);
        Ticket(armed)
    }

    /// Sleeps until the event count has been rung since it was armed, for `time` at most. May return early.
    pub(crate) fn wait(&self, armed: Ticket, time: Option<Duration>) {
        futex::wait(self.0, armed.0, time);
    }

    /// To be called after a change. Says whether somebody was asleep.
    #[inline]
    pub(crate) fn notify_all(&self) -> bool {
        fence(SeqCst);
        let word = self.0.load(Relaxed);
        let is_armed = word & WAITING != 0;
        if is_armed {
            self.wake(word);
        }
        is_armed
    }

    /// Changes the number, lest anybody fall asleep who has armed the event count before; wakes those who are asleep; and says only
    /// then that nobody waits, unless somebody has armed it meanwhile.
    ///
    /// Who is overtaken does it again: one who has armed the event count does not wake the others, and one who rings may be killed
    /// before he does.
    #[cold]
    fn wake(&self, mut word: u32) {
        for _ in 0..TRIES {
            if word & WAITING == 0 {
                return;
            }
            let rung = word.wrapping_add(ONE) | NOTIFYING;
            match self.0.compare_exchange(word, rung, SeqCst, Relaxed) {
                Ok(_) => {
                    failpoint::hit(Failpoint::EventCountChanged);
                    futex::wake_all(self.0);
                    failpoint::hit(Failpoint::AllWoken);
                    let _ = self.0.compare_exchange(rung, rung & !(WAITING | NOTIFYING), Relaxed, Relaxed);
                    return;
                }
                Err(now) => word = now,
            }
        }
        self.wake_retrying();
    }

    /// Changes the number and wakes every process that sleeps, whatever the word says. Returns whether any
    /// slept.
    ///
    /// The word lies in memory that a process gone wrong can overwrite, so [`ring`](EventCount::notify_all) can find it
    /// unarmed although a thread sleeps.
    #[cold]
    pub(crate) fn wake_retrying(&self) -> bool {
        self.0.fetch_add(ONE, SeqCst);
        futex::wake_all(self.0) > 0
    }
}

/// The thread that sleeps on a event count, as the other threads of its process know it.
///
/// What they need for waking it lies in private memory. So no process that shares the event count's word can keep
/// the thread asleep, and the thread can sleep without a time limit.
#[derive(Debug)]
pub(crate) struct Sleeper {
    /// How many times the thread was woken.
    calls: AtomicU32,
    /// 1 from before the thread's last look at `calls` until it is awake.
    asleep: AtomicU32,
}

/// The value of a [`Sleeper`]'s count at some instant.
#[derive(Clone, Copy)]
pub(crate) struct Calls(u32);

impl Sleeper {
    pub(crate) fn new() -> Self {
        Self { calls: AtomicU32::new(0), asleep: AtomicU32::new(0) }
    }

    /// To be called before the thread looks for changes made by other threads of its process.
    pub(crate) fn calls(&self) -> Calls {
        Calls(self.calls.load(SeqCst))
    }

    /// Sleeps as [`EventCount::wait`] does, unless the thread was woken since it got `seen`.
    pub(crate) fn wait(&self, bell: &EventCount<'_>, armed: Ticket, seen: Calls, time: Option<Duration>) {
        self.asleep.store(1, SeqCst);
        // Together with the fence in `wake`: either this look sees the call, or the waker sees the thread
        // asleep.
        fence(SeqCst);
        if self.calls.load(SeqCst) == seen.0 {
            bell.wait(armed, time);
        }
        self.asleep.store(0, SeqCst);
    }

    /// To be called by a thread of the same process after a change. Blocks for some microseconds at most:
    /// while the thread is on the way into its system call, and only if the event count's word was overwritten just
    /// then.
    pub(crate) fn wake(&self, bell: &EventCount<'_>) {
        self.calls.fetch_add(1, SeqCst);
        fence(SeqCst);
        while self.asleep.load(SeqCst) != 0 && !bell.wake_retrying() {
            futex::pause();
        }
    }
}
