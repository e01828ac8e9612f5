//! The kernel's guarantee: comparing the word and going to sleep are one atomic step with regard to wake-ups.

use std::ptr;
use std::time::Duration;

use loom::sync::{Condvar, Mutex};

use super::atomic::{AtomicU32, AtomicU64, SeqCst};
use super::{Mutation, failpoint, liveness_checks};

/// Which words threads wait for, in the order in which they fell asleep.
#[derive(Default)]
struct Sleepers {
    last: u32,
    queue: Vec<Sleeper>,
}

#[derive(Clone, Copy, PartialEq)]
struct Sleeper {
    number: u32,
    word: usize,
    /// It wakes up at a death, too.
    is_timed: bool,
}

loom::lazy_static! {
    static ref SLEEPERS: (Mutex<Sleepers>, Condvar) = (Mutex::new(Sleepers::default()), Condvar::new());
}

pub(crate) fn wait(word: &AtomicU32, expected: u32, time: Option<Duration>) {
    wait_while(ptr::from_ref(word).addr(), time.is_some(), || word.load(SeqCst) == expected);
}

/// The kernel compares the low half alone.
#[allow(clippy::cast_possible_truncation)]
pub(crate) fn wait_low_half(word: &AtomicU64, expected: u64, time: Option<Duration>) {
    wait_while(ptr::from_ref(word).addr(), time.is_some(), || word.load(SeqCst) as u32 == expected as u32);
}

pub(crate) fn wake_all(word: &AtomicU32) -> usize {
    wake(ptr::from_ref(word).addr(), usize::MAX)
}

pub(crate) fn wake_one_at_low_half(word: &AtomicU64) {
    wake(ptr::from_ref(word).addr(), 1);
}

fn wait_while(word: usize, is_timed: bool, is_as_expected: impl Fn() -> bool) {
    if failpoint::is_dead() {
        return;
    }
    let mut sleepers = SLEEPERS.0.lock().unwrap();
    if is_as_expected() && !(is_timed && liveness_checks::has_new_death()) {
        sleepers.last += 1;
        let own = Sleeper { number: sleepers.last, word, is_timed };
        sleepers.queue.push(own);
        while sleepers.queue.contains(&own) {
            sleepers = SLEEPERS.1.wait(sleepers).unwrap();
        }
    }
    drop(sleepers);
    super::poll::slept();
}

fn wake(word: usize, most: usize) -> usize {
    let mut sleepers = SLEEPERS.0.lock().unwrap();
    let asleep = |sleeper: &Sleeper| sleeper.word == word;
    let woken = sleepers.queue.iter().copied().filter(asleep).take(most).collect::<Vec<_>>();
    if !Mutation::NoWake.is_active() && !failpoint::is_dead() {
        sleepers.queue.retain(|sleeper| !woken.contains(sleeper));
        SLEEPERS.1.notify_all();
    }
    woken.len()
}

/// A thread has died.
pub(super) fn end_timed_sleeps() {
    let mut sleepers = SLEEPERS.0.lock().unwrap();
    sleepers.queue.retain(|sleeper| !sleeper.is_timed);
    SLEEPERS.1.notify_all();
}

/// How many threads sleep.
pub(crate) fn sleepers() -> usize {
    SLEEPERS.0.lock().unwrap().queue.len()
}

pub(crate) fn pause() {
    loom::thread::yield_now();
}
