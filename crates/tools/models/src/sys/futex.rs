//! The kernel's guarantee: comparing the word and going to sleep are one atomic step with regard to wake-ups.

use std::ptr;
use std::time::Duration;

use loom::sync::{Condvar, Mutex};

use super::Mutation;
use super::atomic::{AtomicU32, AtomicU64, SeqCst};

/// Which words threads wait for, in the order in which they fell asleep.
#[derive(Default)]
struct Sleepers {
    last: u32,
    queue: Vec<(u32, usize)>,
}

loom::lazy_static! {
    static ref SLEEPERS: (Mutex<Sleepers>, Condvar) = (Mutex::new(Sleepers::default()), Condvar::new());
}

pub(crate) fn wait(word: &AtomicU32, expected: u32, _time: Option<Duration>) {
    wait_while(ptr::from_ref(word).addr(), || word.load(SeqCst) == expected);
}

/// The kernel compares the low half alone.
#[allow(clippy::cast_possible_truncation)]
pub(crate) fn wait_low_half(word: &AtomicU64, expected: u64, _time: Option<Duration>) {
    wait_while(ptr::from_ref(word).addr(), || word.load(SeqCst) as u32 == expected as u32);
}

pub(crate) fn wake_all(word: &AtomicU32) -> usize {
    wake(ptr::from_ref(word).addr(), usize::MAX)
}

pub(crate) fn wake_one_at_low_half(word: &AtomicU64) {
    wake(ptr::from_ref(word).addr(), 1);
}

fn wait_while(word: usize, is_as_expected: impl Fn() -> bool) {
    let mut sleepers = SLEEPERS.0.lock().unwrap();
    if is_as_expected() {
        sleepers.last += 1;
        let own = (sleepers.last, word);
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
    let asleep = |(_, its_word): &(u32, usize)| *its_word == word;
    let woken = sleepers.queue.iter().copied().filter(asleep).take(most).collect::<Vec<_>>();
    if !Mutation::NoWake.is_active() && !super::failpoint::is_dead() {
        sleepers.queue.retain(|sleeper| !woken.contains(sleeper));
        SLEEPERS.1.notify_all();
    }
    woken.len()
}

/// How many threads sleep.
pub(crate) fn sleepers() -> usize {
    SLEEPERS.0.lock().unwrap().queue.len()
}

pub(crate) fn pause() {
    loom::thread::yield_now();
}
