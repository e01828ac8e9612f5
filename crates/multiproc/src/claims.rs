//! Who runs an item: the worker that has it, or, as long as it has not begun it, whoever the pool gives it to instead.
//!
//! One word holds how many items were handed in and how many of them are begun; both count on and on and overflow. Pool and
//! worker change it by exchange, so an item is never both begun and taken back, and at every instruction it is clear which
//! of the two it is.

use crate::sys::atomic::{AcqRel, Acquire, AtomicU64, Relaxed, Release};

/// The worker begins the next item, if there is one; says whether there is.
#[inline]
pub(crate) fn begin(word: &AtomicU64) -> bool {
    // Acquires what `hand_in` has released: the item.
    word.fetch_update(Acquire, Relaxed, |word| {
        let (begun, handed_in) = halves(word);
        (begun != handed_in).then(|| whole(begun.wrapping_add(1), handed_in))
    })
    .is_ok()
}

/// The pool hands in `count` items more, which have been written.
#[inline]
pub(crate) fn hand_in(word: &AtomicU64, count: u32) {
    let _ = word.fetch_update(Release, Relaxed, |word| {
        let (begun, handed_in) = halves(word);
        Some(whole(begun, handed_in.wrapping_add(count)))
    });
}

/// The pool takes back up to `most` of the items that are not begun, the last first; gives how many.
pub(crate) fn take_back(word: &AtomicU64, most: u32) -> u32 {
    let mut count = 0;
    let _ = word.fetch_update(AcqRel, Relaxed, |word| {
        let (begun, handed_in) = halves(word);
        count = handed_in.wrapping_sub(begun).min(most);
        Some(whole(begun, handed_in.wrapping_sub(count)))
    });
    count
}

/// How many items were begun, of all that ever were.
pub(crate) fn begun(word: &AtomicU64) -> u32 {
    halves(word.load(Acquire)).0
}

/// How many items are not begun.
pub(crate) fn left(word: &AtomicU64) -> u32 {
    let (begun, handed_in) = halves(word.load(Acquire));
    handed_in.wrapping_sub(begun)
}

#[inline]
#[allow(clippy::cast_possible_truncation)] // taking halves is the purpose
fn halves(word: u64) -> (u32, u32) {
    ((word >> 32) as u32, word as u32)
}

#[inline]
fn whole(begun: u32, handed_in: u32) -> u64 {
    u64::from(begun) << 32 | u64::from(handed_in)
}
