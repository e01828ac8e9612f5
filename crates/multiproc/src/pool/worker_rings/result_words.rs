//! The words of a worker's [rings](crate::pool::worker_rings) that say how far its results go: *completed*
//! and *visible*.

use crate::ipc::ring::Position;
use crate::pool::worker_rings::claim_word;
use crate::sys::atomic::AtomicU64;
use crate::sys::failpoint::{self, Failpoint};

/// The results to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    Visible,
    /// Also those that are completed and not visible while the worker runs another item. An idle worker makes
    /// them visible itself after it has flushed the output; if that exceeds a bound, they are taken before.
    Unflushed,
    /// All that are completed.
    Completed,
}

/// The worker completes an item, whose result is written and ends at this position.
#[allow(clippy::inline_always)] // see `ring`
#[inline(always)]
pub(crate) fn complete(completed: &AtomicU64, position: Position) {
    failpoint::hit(Failpoint::ResultWritten);
    position.store_release(completed);
    failpoint::hit(Failpoint::ItemCompleted);
}

/// The worker makes all results up to this position visible.
pub(crate) fn make_visible(visible: &AtomicU64, position: Position) {
    position.store_release(visible);
    failpoint::hit(Failpoint::ResultsVisible);
}

/// The end of the results of this scope.
pub(crate) fn end_of_scope(scope: Scope, completed: &AtomicU64, visible: &AtomicU64) -> Position {
    Position::load(if scope == Scope::Visible { visible } else { completed })
}

/// Whether a worker whose results end at this position is idle. Call after [`end_of_scope`]: an item
/// completed in between counts as running.
pub(crate) fn is_idle_at(claims: &AtomicU64, reached: Position) -> bool {
    claim_word::claimed(claims) == reached.frames
}
