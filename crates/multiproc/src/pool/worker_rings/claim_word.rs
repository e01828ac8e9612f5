//! Who runs an item: the worker that has it, or, as long as it has not begun it, whoever the pool gives it to instead.
//!
//! One word holds how many items were handed in and how many of them are begun; both count on and on and overflow. Pool and
//! worker change it by exchange, so an item is never both begun and taken back, and at every instruction it is clear which
//! of the two it is.

use crate::sys::atomic::{AcqRel, Acquire, AtomicU64, Ordering, Relaxed, Release};

/// What the pool knows of the word without looking at it, and what must therefore stand there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known {
    /// At least this many items were begun: they have results.
    pub(crate) finished: u32,
    /// Only the pool changes this number.
    pub(crate) submitted: u32,
}

impl Known {
    /// Gives how many items are begun according to the word; `None` where the worker has overwritten it.
    fn claimed(self, word: u64) -> Option<u32> {
        let (claimed, submitted) = split_u64(word);
        let most = self.submitted.wrapping_sub(self.finished);
        (submitted == self.submitted && claimed.wrapping_sub(self.finished) <= most).then_some(claimed)
    }
}

/// After this many exchanges that failed, the word counts as overwritten. Between two of them an honest
/// worker begins an item at least.
const TRIES: u32 = 10_000;

/// The worker begins the next item, if there is one; says whether there is.
#[inline]
pub(crate) fn try_claim(word: &AtomicU64) -> bool {
    // Acquires what `hand_in` has released: the item.
    word.fetch_update(Acquire, Relaxed, |word| {
        let (claimed, submitted) = split_u64(word);
        (claimed != submitted).then(|| join_u64(claimed.wrapping_add(1), submitted))
    })
    .is_ok()
}

/// The pool hands in `count` items more, which have been written. Returns false, and hands in nothing, where
/// the worker has overwritten the word.
#[inline]
#[must_use]
pub(crate) fn submit(word: &AtomicU64, known: Known, count: u32) -> bool {
    exchange(word, known, Release, |claimed| join_u64(claimed, known.submitted.wrapping_add(count))).is_some()
}

/// The pool takes back up to `most` of the items that are not begun, the last first; gives how many. Returns
/// `None`, and takes back nothing, where the worker has overwritten the word.
pub(crate) fn revoke(word: &AtomicU64, known: Known, most: u32) -> Option<u32> {
    let count = |claimed| known.submitted.wrapping_sub(claimed).min(most);
    let claimed = exchange(word, known, AcqRel, |claimed| {
        join_u64(claimed, known.submitted.wrapping_sub(count(claimed)))
    });
    claimed.map(count)
}

/// Changes the word of which the pool knows something; gives how many items are begun.
#[inline]
fn exchange(word: &AtomicU64, known: Known, order: Ordering, change: impl Fn(u32) -> u64) -> Option<u32> {
    let mut now = word.load(Relaxed);
    for _ in 0..TRIES {
        let claimed = known.claimed(now)?;
        match word.compare_exchange(now, change(claimed), order, Relaxed) {
            Ok(_) => return Some(claimed),
            Err(other) => now = other,
        }
    }
    None
}

/// How many items were begun, of all that ever were, by a word that may be overwritten.
pub(crate) fn claimed(word: &AtomicU64) -> u32 {
    split_u64(word.load(Acquire)).0
}

/// As [`begun`]; `None` where the worker has overwritten the word.
pub(crate) fn checked_claimed(word: &AtomicU64, known: Known) -> Option<u32> {
    known.claimed(word.load(Acquire))
}

/// How many items are not begun.
pub(crate) fn pending(word: &AtomicU64) -> u32 {
    let (claimed, submitted) = split_u64(word.load(Acquire));
    submitted.wrapping_sub(claimed)
}

#[inline]
#[allow(clippy::cast_possible_truncation)] // taking halves is the purpose
fn split_u64(word: u64) -> (u32, u32) {
    ((word >> 32) as u32, word as u32)
}

#[inline]
fn join_u64(claimed: u32, submitted: u32) -> u64 {
    u64::from(claimed) << 32 | u64::from(submitted)
}
