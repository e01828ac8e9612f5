//! How far a worker's results reach, for its pool: the words *claims*, *finished* and *published*, see
//! [`mailbox`](crate::pool::worker_rings).

use crate::ipc::ring::Position;
use crate::pool::worker_rings::claim_word;
use crate::sys::atomic::AtomicU64;
use crate::sys::failpoint::{self, Failpoint};

/// Which results to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Those that the worker has published.
    Visible,
    /// Also those that it holds back while it runs another item. One that runs none publishes them itself, when what
    /// their tasks have printed is out; if that takes longer than a bound, they are taken before.
    Unflushed,
    /// All that are finished.
    Completed,
}

/// The worker has finished an item, whose result reaches to this mark and is written.
#[allow(clippy::inline_always)] // see `ring`
#[inline(always)]
pub(crate) fn finish(finished: &AtomicU64, position: Position) {
    failpoint::hit(Failpoint::ResultWritten);
    position.publish(finished);
    failpoint::hit(Failpoint::ItemFinished);
}

/// The worker publishes all results up to this mark.
pub(crate) fn publish(published: &AtomicU64, position: Position) {
    position.publish(published);
    failpoint::hit(Failpoint::ResultsPublished);
}

/// How far these results reach, for the pool.
pub(crate) fn reach(scope: Scope, finished: &AtomicU64, published: &AtomicU64) -> Position {
    Position::load(if scope == Scope::Visible { published } else { finished })
}

/// Whether a worker whose results reach to this mark runs no item. To be asked after [`reach`]: an item that was
/// finished in between counts as one that runs.
pub(crate) fn runs_none(claims: &AtomicU64, reached: Position) -> bool {
    claim_word::claimed(claims) == reached.frames
}
