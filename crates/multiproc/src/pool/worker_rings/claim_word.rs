//! The claim word: which items of a ring its worker has claimed, and which ones the pool can still revoke.
//!
//! One word holds the number of submitted and of claimed items; both wrap around. Pool and worker change it
//! by compare-and-exchange, so an item is never both claimed and revoked, and at every instruction it is
//! clear which.
//!
//! A worker may claim several items at once, a *run*. It begins the first of them with the claim, and each
//! further one by a store and a load: *completed* says that the item before it is done, and *requests* that
//! the pool wants nothing ([`goes_on`]). The pool revokes the rest of a run in the opposite order: it stores
//! a request, executes a barrier for both, and loads *completed*. So either the worker sees the request, or
//! the pool sees how far the worker is.

use crate::sys::atomic::{AcqRel, Acquire, AtomicU32, AtomicU64, Ordering, Relaxed, Release, light_fence};

/// The pool's own counts, with which the word must agree.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PoolCounts {
    /// The number of results that the pool has taken. At least this many items are claimed.
    pub(crate) taken: u32,
    /// The number of submitted items, which only the pool changes.
    pub(crate) submitted: u32,
}

impl PoolCounts {
    /// The number of claimed items by this word; `None` if the worker has overwritten it.
    fn claimed(self, word: u64) -> Option<u32> {
        let (claimed, submitted) = split_u64(word);
        let most = self.submitted.wrapping_sub(self.taken);
        (submitted == self.submitted && claimed.wrapping_sub(self.taken) <= most).then_some(claimed)
    }
}

/// After this many failed exchanges the word counts as overwritten. An honest worker claims at least one item
/// between two of them.
const TRIES: u32 = 10_000;

/// The worker claims up to `most` of the next items, and begins the first of them; returns how many.
#[inline]
pub(crate) fn try_claim(word: &AtomicU64, most: u32) -> u32 {
    let mut count = 0;
    // Acquires the items that `submit` has released. Releases *completed*, for `revoke`.
    let claim = word.fetch_update(AcqRel, Relaxed, |word| {
        let (claimed, submitted) = split_u64(word);
        count = submitted.wrapping_sub(claimed).min(most);
        (count > 0).then(|| join_u64(claimed.wrapping_add(count), submitted))
    });
    claim.map_or(0, |_| count)
}

/// Whether the worker may begin the next item of a run. The item before it must be completed. `requests` is
/// the pool's word, and `seen` its value before the run was claimed.
#[inline]
pub(crate) fn goes_on(requests: &AtomicU32, seen: u32) -> bool {
    light_fence();
    requests.load(Relaxed) == seen
}

/// The worker gives back what it has claimed beyond the first `begun` items, and has not begun.
#[cold]
pub(crate) fn give_back(word: &AtomicU64, begun: u32) {
    let _ = word.fetch_update(AcqRel, Relaxed, |word| {
        let (claimed, submitted) = split_u64(word);
        let is_ahead = matches!(claimed.wrapping_sub(begun), 1..=MAX_RUN);
        is_ahead.then(|| join_u64(begun, submitted))
    });
}

/// The most items of a run.
pub(crate) const MAX_RUN: u32 = 1 << 16;

/// The pool submits `count` more items, which have been written. Returns false, and submits nothing, if the
/// worker has overwritten the word.
#[inline]
#[must_use]
pub(crate) fn submit(word: &AtomicU64, known: PoolCounts, count: u32) -> bool {
    exchange(word, known, Release, |claimed| join_u64(claimed, known.submitted.wrapping_add(count))).is_some()
}

/// The pool revokes up to `most` unclaimed items, the last ones first; returns how many. Returns `None`, and
/// revokes nothing, if the worker has overwritten the word.
pub(crate) fn revoke(word: &AtomicU64, known: PoolCounts, most: u32) -> Option<u32> {
    revoke_beyond(word, known, most, |claimed| claimed)
}

/// As [`revoke`], but also revokes claimed items. The worker must have been requested to leave its run, with a
/// barrier for both since then. `completed` loads how many items the worker has completed.
pub(crate) fn revoke_run(
    word: &AtomicU64,
    known: PoolCounts,
    most: u32,
    completed: impl Fn() -> u32,
) -> Option<u32> {
    revoke_beyond(word, known, most, |claimed| begun(claimed, known.taken, completed()))
}

/// The number of items that the worker may have begun, of those that it has claimed: it claims a further one
/// only when it has completed all before.
pub(crate) fn begun(claimed: u32, taken: u32, completed: u32) -> u32 {
    let is_ahead = claimed.wrapping_sub(taken) > completed.wrapping_sub(taken);
    if is_ahead { completed.wrapping_add(1) } else { claimed }
}

fn revoke_beyond(word: &AtomicU64, known: PoolCounts, most: u32, begun: impl Fn(u32) -> u32) -> Option<u32> {
    let mut count = 0;
    exchange(word, known, AcqRel, |claimed| {
        count = known.submitted.wrapping_sub(begun(claimed)).min(most);
        let submitted = known.submitted.wrapping_sub(count);
        let left = claimed.wrapping_sub(known.taken).min(submitted.wrapping_sub(known.taken));
        join_u64(known.taken.wrapping_add(left), submitted)
    })?;
    Some(count)
}

/// Changes the word; returns the number of claimed items before.
#[inline]
fn exchange(
    word: &AtomicU64,
    known: PoolCounts,
    order: Ordering,
    mut change: impl FnMut(u32) -> u64,
) -> Option<u32> {
    let mut now = word.load(Acquire);
    for _ in 0..TRIES {
        let claimed = known.claimed(now)?;
        match word.compare_exchange(now, change(claimed), order, Acquire) {
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
pub(crate) fn checked_claimed(word: &AtomicU64, known: PoolCounts) -> Option<u32> {
    known.claimed(word.load(Acquire))
}

/// The number of unclaimed items.
pub(crate) fn unclaimed(word: &AtomicU64) -> u32 {
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
