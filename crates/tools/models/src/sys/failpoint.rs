//! A thread can be killed at a failpoint, as a process can: none of its later actions takes effect.
//!
//! The thread itself goes on, without waiting for anything: what it takes, it seems to get at once, and its
//! deadlines are over.

use std::cell::Cell;

use loom::thread::{self, JoinHandle};

use super::thread_id::ThreadId;

pub(crate) use super::points::Failpoint;

#[derive(Clone, Copy, PartialEq)]
enum ThreadState {
    Lives,
    Dies(Failpoint),
    IsDead,
}

loom::thread_local! {
    static STATE: Cell<ThreadState> = Cell::new(ThreadState::Lives);
}

thread_local! {
    /// Whether this model kills a thread. Without it, `hit` would use loom's thread-locals outside of a
    /// model.
    static HAS_KILLS: Cell<bool> = const { Cell::new(false) };
}

/// To be called at the beginning of a model in which threads end otherwise than by a failpoint.
pub(crate) fn expect_deaths() {
    HAS_KILLS.set(true);
}

/// Runs a function with a handle in a thread that is killed when it reaches the point. The thread gives its
/// identity if it did.
pub(crate) fn spawn_killed<H: Clone + 'static>(
    handle: &H,
    point: Failpoint,
    act: impl FnOnce(&H) + 'static,
) -> JoinHandle<Option<ThreadId>> {
    HAS_KILLS.set(true);
    let handle = handle.clone();
    thread::spawn(move || {
        die_at(point);
        act(&handle);
        is_dead().then(ThreadId::current)
    })
}

/// Kills this thread when it reaches the point.
pub(crate) fn die_at(point: Failpoint) {
    HAS_KILLS.set(true);
    STATE.with(|state| state.set(ThreadState::Dies(point)));
}

pub(crate) fn hit(point: Failpoint) {
    if !HAS_KILLS.get() {
        return;
    }
    STATE.with(|state| {
        if state.get() == ThreadState::Dies(point) {
            state.set(ThreadState::IsDead);
        }
    });
}

pub(crate) fn is_dead() -> bool {
    HAS_KILLS.get() && STATE.with(Cell::get) == ThreadState::IsDead
}

/// Whether this model kills a thread.
pub(super) fn has_kills() -> bool {
    HAS_KILLS.get()
}
