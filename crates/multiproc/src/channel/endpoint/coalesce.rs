//! An adaptive coalescing delay, like the interrupt moderation of a network card, for one side of a ring.
//!
//! Each load of the peer's position fetches its cache line from the CPU that is writing it, and that
//! one has to fetch it back; for both this takes longer than a small frame does. A side that is as fast as
//! its peer loads it for each frame, and the stream flows at the pace of the loads. So a side delays before
//! it loads, as long as the delay brings several frames at once. Where frames come singly, as replies do, it
//! does not delay, but for an occasional trial.

use std::hint;

use crate::sys::atomic::{AtomicU32, Relaxed};

/// The state: in the low half the number of pauses that proved right, in the high half the number of calls.
pub(super) struct CoalescingDelay<'a>(pub(super) &'a AtomicU32);

/// A small frame takes about as long as this many pauses, of 10 to 50 ns each.
const PAUSES_PER_FRAME: u32 = 4;
/// Without a delay, one call in this many tries one.
const TRY_EVERY: u32 = 32;
/// The length of a trial: a peer whose cache line is fetched for each frame is slow with the next one.
const TRIAL: u32 = 8 * PAUSES_PER_FRAME;

impl CoalescingDelay<'_> {
    /// Delays until about `enough` frames have come; `arrived` counts them. To be called under the lock.
    pub(super) fn wait(&self, enough: u32, arrived: impl Fn() -> u32) {
        let word = self.0.load(Relaxed);
        let (calls, last) = (word >> 16, word & 0xffff);
        let max = enough.saturating_mul(PAUSES_PER_FRAME).max(TRIAL);
        let pauses = match last {
            0 if calls.is_multiple_of(TRY_EVERY) => TRIAL,
            _ => last.min(max), // the word is in shared memory, and may hold anything
        };
        let mut next = 0;
        if pauses > 0 && enough > 1 {
            for _ in 0..pauses {
                hint::spin_loop();
            }
            next = adapt(pauses, arrived(), enough);
        }
        self.0.store(calls.wrapping_add(1) << 16 | next, Relaxed);
    }
}

/// The number of pauses for the next call, after `pauses` have brought `arrived` frames.
fn adapt(pauses: u32, arrived: u32, enough: u32) -> u32 {
    match arrived {
        0 | 1 if pauses <= TRIAL => 0,
        0 | 1 => pauses / 2,
        _ if arrived < enough => (2 * pauses).min(enough.saturating_mul(PAUSES_PER_FRAME)).min(0xffff),
        _ if arrived > enough + enough / 2 => pauses / 2,
        _ => pauses,
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// The number of pauses that is settled on when `frames` frames arrive in the time of `in_pauses` pauses.
    fn settled(enough: u32, frames: u32, in_pauses: u32) -> u32 {
        let word = AtomicU32::new(u32::MAX << 16); // the count of calls overflows
        let made = Cell::new(0);
        for _ in 0..100 {
            CoalescingDelay(&word).wait(enough, || {
                made.set(match word.load(Relaxed) & 0xffff {
                    0 => TRIAL,
                    pauses => pauses,
                });
                made.get() * frames / in_pauses
            });
        }
        made.get()
    }

    #[test]
    fn a_stream_is_delayed_and_replies_are_not() {
        assert_eq!(settled(16, 0, 1), TRIAL, "only trials delay");
        assert_eq!(settled(1, 1, 1), 0);
        assert_eq!(settled(16, 1, 2), 32);
        assert_eq!(settled(16, 10, 1), 2);
        assert_eq!(settled(256, 1, 4), 1024);
        assert_eq!(settled(256, 1, 8), 1024);
        assert_eq!(settled(u32::MAX, 1, 1), 0xffff);
    }
}
