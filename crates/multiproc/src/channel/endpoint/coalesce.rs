//! How one side keeps out of the way of a stream that comes from the other.
//!
//! Each look fetches the line with the other side's mark from the processor that is writing it, and that one has to fetch
//! it back: for both it takes longer than a small frame does. One who is as quick as the other side, or quicker, so looks
//! for every single frame, and the stream flows at the pace of the looks. So before he looks he gives the other side a
//! head start, as long as that is rewarded with several frames at once. Where frames come singly, as answers do, he gives
//! none, and tries again now and then.

use std::hint;

use crate::sys::atomic::{AtomicU32, Relaxed};

/// A word for what was rewarded so far: in its low half how many pauses, and in its high half how often it was asked.
pub(super) struct CoalescingDelay<'a>(pub(super) &'a AtomicU32);

/// A small frame takes about as long as so many pauses, of 10 to 50 ns each.
const PAUSES_A_FRAME: u32 = 4;
/// Where no head start is given, one is tried so often, and is so long: who is looked at for every frame takes a while to
/// come to the next.
const TRY_EVERY: u32 = 32;
const TRIED: u32 = 8 * PAUSES_A_FRAME;

impl CoalescingDelay<'_> {
    /// Pauses for a time that has proved right, until about as many frames have come as are `enough`; `gained` says how
    /// many have. To be called under the lock.
    pub(super) fn wait(&self, enough: u32, gained: impl Fn() -> u32) {
        let word = self.0.load(Relaxed);
        let (times, habit) = (word >> 16, word & 0xffff);
        let most = enough.saturating_mul(PAUSES_A_FRAME).max(TRIED);
        let pauses = match habit {
            0 if times.is_multiple_of(TRY_EVERY) => TRIED,
            _ => habit.min(most), // whoever has written it
        };
        let mut habit = 0;
        if pauses > 0 && enough > 1 {
            for _ in 0..pauses {
                hint::spin_loop();
            }
            habit = next(pauses, gained(), enough);
        }
        self.0.store(times.wrapping_add(1) << 16 | habit, Relaxed);
    }
}

/// How many pauses to make the next time, where so many have brought so many frames.
fn next(pauses: u32, gained: u32, enough: u32) -> u32 {
    match gained {
        0 | 1 if pauses <= TRIED => 0,
        0 | 1 => pauses / 2,
        _ if gained < enough => (2 * pauses).min(enough.saturating_mul(PAUSES_A_FRAME)).min(0xffff),
        _ if gained > enough + enough / 2 => pauses / 2,
        _ => pauses,
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// How many pauses are made in the end where so many frames come in the time of so many pauses.
    fn habit(enough: u32, frames: u32, in_pauses: u32) -> u32 {
        let word = AtomicU32::new(0);
        let made = Cell::new(0);
        for _ in 0..100 {
            CoalescingDelay(&word).wait(enough, || {
                made.set(match word.load(Relaxed) & 0xffff {
                    0 => TRIED,
                    habit => habit,
                });
                made.get() * frames / in_pauses
            });
        }
        made.get()
    }

    #[test]
    fn a_stream_is_given_a_head_start_and_answers_are_not() {
        assert_eq!(habit(16, 0, 1), TRIED, "and that is only tried now and then");
        assert_eq!(habit(1, 1, 1), 0);
        assert_eq!(habit(16, 1, 2), 32);
        assert_eq!(habit(16, 10, 1), 2);
        assert_eq!(habit(256, 1, 4), 1024);
        assert_eq!(habit(256, 1, 8), 1024);
        assert_eq!(habit(u32::MAX, 1, 1), 0xffff);
    }
}
