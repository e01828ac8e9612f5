//! Two processes take turns on one word of shared memory: the least that a request and its reply can cost.

use std::hint;
use std::sync::atomic::{
    AtomicU32,
    Ordering::{Acquire, Release},
};
use std::thread;

use anyhow::Result;
use bench::work::check;

use super::memory::{Child, fork, shared_value, sleep_while, wake};

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Waiting {
    Spin,
    /// Asleep at once.
    Futex,
}

/// Odd numbers are questions, even ones answers.
pub(super) struct PingPong {
    word: &'static AtomicU32,
    waiting: Waiting,
    _child: Child,
}

impl PingPong {
    pub(super) fn start(waiting: Waiting) -> Result<Self> {
        let word: &AtomicU32 = shared_value()?;
        let child = fork(|| {
            for number in (0..u32::MAX).step_by(2) {
                let question = wait(word, number, waiting);
                put(word, question + 1, waiting);
            }
        })?;
        Ok(Self { word, waiting, _child: child })
    }

    /// Asks, and waits for the answer.
    pub(super) fn take(&self) -> Result<()> {
        let question = self.word.load(Acquire) + 1;
        put(self.word, question, self.waiting);
        let answer = wait(self.word, question, self.waiting);
        check("answer", u64::from(question) + 1, answer.into())
    }
}

fn put(word: &AtomicU32, value: u32, waiting: Waiting) {
    word.store(value, Release);
    if waiting == Waiting::Futex {
        wake(word);
    }
}

/// Waits until the word is no longer `value`; returns the new value.
fn wait(word: &AtomicU32, value: u32, waiting: Waiting) -> u32 {
    let mut rounds = 0_u32;
    loop {
        let now = word.load(Acquire);
        if now != value {
            return now;
        }
        rounds += 1;
        match waiting {
            Waiting::Futex => sleep_while(word, value),
            // The other one may have no CPU.
            Waiting::Spin if rounds.is_multiple_of(10_000) => thread::yield_now(),
            Waiting::Spin => hint::spin_loop(),
        }
    }
}
