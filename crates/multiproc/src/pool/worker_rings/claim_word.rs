//! The claim word: which items of a ring its worker has claimed, and which ones the pool can still revoke.
//!
//! One word holds the number of submitted and of claimed items; both wrap around. Pool and worker change it
//! by compare-and-exchange, so an item is never both claimed and revoked, and at every instruction it is
//! clear which.

use crate::sys::atomic::{AcqRel, Acquire, AtomicU64, Ordering, Relaxed, Release};

/// The pool's own counts, with which the word must agree.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known {
    /// At least this many items are claimed: they have results.
    pub(crate) finished: u32,
    /// The number of submitted items, which only the pool changes.
    pub(crate) submitted: u32,
}

impl Known {
    /// The number of claimed items by this word; `None` if the worker has overwritten it.
    fn claimed(self, word: u64) -> Option<u32> {
        let (claimed, submitted) = split_u64(word);
        let most = self.submitted.wrapping_sub(self.finished);
        (submitted == self.submitted && claimed.wrapping_sub(self.finished) <= most).then_some(claimed)
    }
}

/// After this many failed exchanges the word counts as overwritten. An honest worker claims at least one item
/// between two of them.
const TRIES: u32 = 10_000;

/// The worker claims the next item; returns whether there is one.
#[inline]
pub(crate) fn try_claim(word: &AtomicU64) -> bool {
    // Acquires the item that `submit` has released.
    word.fetch_update(Acquire, Relaxed, |word| {
        let (claimed, submitted) = split_u64(word);
        (claimed != submitted).then(|| join_u64(claimed.wrapping_add(1), submitted))
    })
    .is_ok()
}

/// The pool submits `count` more items, which have been written. Returns false, and submits nothing, if the
/// worker has overwritten the word.
#[inline]
#[must_use]
pub(crate) fn submit(word: &AtomicU64, known: Known, count: u32) -> bool {
    exchange(word, known, Release, |claimed| join_u64(claimed, known.submitted.wrapping_add(count))).is_some()
}

/// The pool revokes up to `most` unclaimed items, the last ones first; returns how many. Returns `None`, and
/// revokes nothing, if the worker has overwritten the word.
pub(crate) fn revoke(word: &AtomicU64, known: Known, most: u32) -> Option<u32> {
    let count = |claimed| known.submitted.wrapping_sub(claimed).min(most);
    let claimed = exchange(word, known, AcqRel, |claimed| {
        join_u64(claimed, known.submitted.wrapping_sub(count(claimed)))
    });
    claimed.map(count)
}

/// Changes the word; returns the number of claimed items.
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

/// The number of claimed items, by a word that may be overwritten.
pub(crate) fn claimed(word: &AtomicU64) -> u32 {
    split_u64(word.load(Acquire)).0
}

/// As [`claimed`]; `None` if the worker has overwritten the word.
pub(crate) fn checked_claimed(word: &AtomicU64, known: Known) -> Option<u32> {
    known.claimed(word.load(Acquire))
}

/// The number of unclaimed items.
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
