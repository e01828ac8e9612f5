//! The words *claims*, *completed* and *visible* of a worker's [rings](crate::pool::worker_rings): its
//! progress, for the pool.

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

/// The worker has completed an item, whose result is written and ends at this position.
#[allow(clippy::inline_always)] // see `ring`
#[inline(always)]
pub(crate) fn finish(finished: &AtomicU64, position: Position) {
    failpoint::hit(Failpoint::ResultWritten);
    position.publish(finished);
    failpoint::hit(Failpoint::ItemFinished);
}

/// The worker makes all results up to this position visible.
pub(crate) fn publish(published: &AtomicU64, position: Position) {
    position.publish(published);
    failpoint::hit(Failpoint::ResultsPublished);
}

/// The end of the results of this scope.
pub(crate) fn reach(scope: Scope, finished: &AtomicU64, published: &AtomicU64) -> Position {
    Position::load(if scope == Scope::Visible { published } else { finished })
}

/// Whether a worker whose results end at this position is idle. Call after [`reach`]: an item completed in
/// between counts as running.
pub(crate) fn runs_none(claims: &AtomicU64, reached: Position) -> bool {
    claim_word::claimed(claims) == reached.frames
}
