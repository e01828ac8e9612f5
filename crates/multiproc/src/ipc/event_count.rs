//! An event count on a futex, after Dmitry Vyukov's: a process sleeps until another changes shared memory.
//!
//! A waiter sets `WAITING`, re-checks its condition, and sleeps. A notifier loads the word and makes a system
//! call only if `WAITING` is set. Notifying wakes every waiter, so a waiter killed on the way swallows no
//! wake-up. `WAITING` stays set until all waiters are woken, so the next notifier completes the work of a
//! killed one.

use std::time::Duration;

use crate::sys::atomic::{AtomicU32, Relaxed, SeqCst, fence};
use crate::sys::failpoint::{self, Failpoint};
use crate::sys::futex;

/// A futex word: a counter that each notification changes, and in its lowest bits `WAITING` and `NOTIFYING`.
pub(crate) struct EventCount<'a>(pub(crate) &'a AtomicU32);

/// The word's value when a waiter prepared to wait.
#[derive(Clone, Copy)]
pub(crate) struct Ticket(u32);

/// After this many failed exchanges the word is changed without one. Only a faulty process changes it so
/// often.
const TRIES: u32 = 100;

const WAITING: u32 = 1;
/// A notifier is waking the waiters, and clears `WAITING` afterwards.
const NOTIFYING: u32 = 2;
const ONE: u32 = 4;

impl EventCount<'_> {
    /// Called before the last check of the condition: a change that this check misses is notified.
    pub(crate) fn prepare_wait(&self) -> Ticket {
        // A change of the counter keeps a notifier that is at work from clearing `WAITING` afterwards.
        let with_waiter = |word: u32| match word & NOTIFYING {
            0 => word | WAITING,
            _ => word.wrapping_add(ONE) & !NOTIFYING | WAITING,
        };
        let mut word = self.0.load(Relaxed);
        let mut tries = 0;
        let waiting = loop {
            match self.0.compare_exchange(word, with_waiter(word), SeqCst, Relaxed) {
                Ok(_) => break with_waiter(word),
                Err(_) if tries == TRIES => break self.0.fetch_or(WAITING, SeqCst) | WAITING,
                Err(now) => (word, tries) = (now, tries + 1),
            }
        };
        // Pairs with the fence in `notify_all`: either the waiter's check sees the change, or the notifier
        // sees the bit.
        fence(SeqCst);
        Ticket(waiting)
    }

    /// Sleeps until a notification after `ticket`, for `time` at most. May return early.
    pub(crate) fn wait(&self, ticket: Ticket, time: Option<Duration>) {
        futex::wait(self.0, ticket.0, time);
    }

    /// Called after a change. Returns whether there was a waiter.
    #[inline]
    pub(crate) fn notify_all(&self) -> bool {
        fence(SeqCst);
        let word = self.0.load(Relaxed);
        let has_waiter = word & WAITING != 0;
        if has_waiter {
            self.wake(word);
        }
        has_waiter
    }

    /// Changes the counter, so that no waiter that holds an older ticket falls asleep; wakes all sleepers;
    /// then clears `WAITING`, unless a waiter has prepared meanwhile.
    ///
    /// If another process changes the word first, this one tries again: that process may be a waiter, which
    /// wakes no other, or a notifier that is killed before it wakes them.
    #[cold]
    fn wake(&self, mut word: u32) {
        for _ in 0..TRIES {
            if word & WAITING == 0 {
                return;
            }
            let notifying = word.wrapping_add(ONE) | NOTIFYING;
            match self.0.compare_exchange(word, notifying, SeqCst, Relaxed) {
                Ok(_) => {
                    failpoint::hit(Failpoint::EventCountChanged);
                    futex::wake_all(self.0);
                    failpoint::hit(Failpoint::AllWoken);
                    let idle = notifying & !(WAITING | NOTIFYING);
                    let _ = self.0.compare_exchange(notifying, idle, Relaxed, Relaxed);
                    return;
                }
                Err(now) => word = now,
            }
        }
        self.wake_unconditionally();
    }

    /// Changes the counter and wakes all sleepers, whatever the bits are. Returns whether there was a sleeper.
    ///
    /// A faulty process can overwrite the word, so [`notify_all`](EventCount::notify_all) may find no
    /// `WAITING` although a thread sleeps.
    #[cold]
    pub(crate) fn wake_unconditionally(&self) -> bool {
        self.0.fetch_add(ONE, SeqCst);
        futex::wake_all(self.0) > 0
    }
}

/// A thread that sleeps on an event count and that other threads of its process wake.
///
/// Its state lies in private memory. So no process that shares the event count's word can keep the thread
/// asleep, and the thread can sleep without a time limit.
#[derive(Debug)]
pub(crate) struct Sleeper {
    /// The number of calls of `wake`.
    wakes: AtomicU32,
    /// The number of the thread's sleep, times four, and below that its state.
    sleep: AtomicU32,
}

/// The states of a [`Sleeper`]: from before its last load of `wakes` until it is awake it is asleep; or woken, once
/// another thread has woken it.
const AWAKE: u32 = 0;
const ASLEEP: u32 = 1;
const WOKEN: u32 = 2;
const STATES: u32 = 4;

/// An earlier value of a [`Sleeper`]'s number of wake-ups.
#[derive(Clone, Copy)]
pub(crate) struct WakeCount(u32);

impl Sleeper {
    pub(crate) fn new() -> Self {
        Self { wakes: AtomicU32::new(0), sleep: AtomicU32::new(AWAKE) }
    }

    /// Called before the thread checks for changes by other threads of its process.
    pub(crate) fn wakes(&self) -> WakeCount {
        WakeCount(self.wakes.load(SeqCst))
    }

    /// Sleeps as [`EventCount::wait`] does, unless the thread was woken since it loaded `seen`.
    pub(crate) fn wait(
        &self,
        event: &EventCount<'_>,
        ticket: Ticket,
        seen: WakeCount,
        time: Option<Duration>,
    ) {
        let sleep = self.sleep.load(Relaxed) / STATES;
        self.sleep.store(sleep * STATES + ASLEEP, SeqCst);
        // Pairs with the fence in `wake`: either this load sees the call, or the waker sees this sleep.
        fence(SeqCst);
        if self.wakes.load(SeqCst) == seen.0 {
            event.wait(ticket, time);
        }
        // An exchange, since a store would seem to loom to be possible before the `WOKEN` that replaces `ASLEEP`.
        self.sleep.swap(sleep.wrapping_add(1).wrapping_mul(STATES) + AWAKE, SeqCst);
    }

    /// Called by another thread of the process after a change. Spins while the thread is between [`ASLEEP`] and
    /// sleeping, some microseconds: another process may have put the word back, so changing it does not suffice. Does
    /// not wait for a thread that was woken and does not run yet: it prepares its next sleep, and then sees the change.
    pub(crate) fn wake(&self, event: &EventCount<'_>) {
        self.wakes.fetch_add(1, SeqCst);
        fence(SeqCst);
        loop {
            let sleep = self.sleep.load(SeqCst);
            let state = sleep % STATES;
            if state == AWAKE {
                return;
            }
            // Also if it was woken: a faulty process may have slept on the word in its place.
            if event.wake_unconditionally() || state == WOKEN {
                // Of this sleep: the thread may have begun another one.
                let _ = self.sleep.compare_exchange(sleep, sleep - state + WOKEN, SeqCst, Relaxed);
                return;
            }
            futex::pause();
        }
    }
}
