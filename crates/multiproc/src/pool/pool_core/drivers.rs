//! The threads that drive a pool while they wait for its results, and the futures that wait with them.

use std::sync::{Arc, MutexGuard, PoisonError};
use std::task::Waker;
use std::thread;
use std::time::{Duration, Instant};

use super::PoolCore;
use crate::pool::call::Call;
use crate::pool::scheduler::PollResult;
use crate::pool::wake_list::ArrivalWaker;
use crate::pool::worker_rings::wakeups::WaitingCallers;
use crate::sys::clock;
use crate::sys::cpus::{YIELD_AFTER, cpus, spin};
use crate::sys::poll::Deadline;
use crate::sys::running_time::CHECK_INTERVAL;
use crate::trace;

/// The threads that drive the pool while they wait for results.
#[derive(Default)]
pub(super) struct Callers {
    pub(super) count: usize,
    need_all: usize,
    /// Futures that wait for results, and drive nothing.
    futures: usize,
}

impl Callers {
    pub(super) fn waiting(&self) -> WaitingCallers {
        match (self.count, self.need_all, self.futures) {
            (0, ..) => WaitingCallers::None,
            (1, 1, 0) => WaitingCallers::OneNeedsAll,
            _ => WaitingCallers::Callers,
        }
    }
}

/// The time to spin for results, or for work, before sleeping: longer than the gap between two submissions of
/// a caller that submits one task after the other.
pub(super) const SPIN: Duration = Duration::from_micros(30);

impl PoolCore {
    /// Makes this thread drive the pool until the guard drops. It `needs_all` if it needs all results of its
    /// call, and may learn of some of them later.
    pub(crate) fn become_driver(&self, needs_all: bool) -> DriverGuard<'_> {
        if self.original.is_current() {
            self.update_callers(|callers| {
                callers.count += 1;
                callers.need_all += usize::from(needs_all);
            });
        }
        DriverGuard { core: self, needs_all }
    }

    /// Returns which callers wait afterwards.
    fn update_callers(&self, update: impl FnOnce(&mut Callers)) -> WaitingCallers {
        let mut callers = self.callers();
        let before = callers.waiting();
        update(&mut callers);
        let waiting = callers.waiting();
        if waiting != before {
            self.wakeup_page.wakeups().set_waiting(waiting);
        }
        waiting
    }

    pub(super) fn callers(&self) -> MutexGuard<'_, Callers> {
        self.callers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// For futures.
impl PoolCore {
    /// Polls for as long as a caller spins before it sleeps; returns whether `is_done`. At once if other
    /// futures wait: the thread that polls them all should not spin for each.
    pub(crate) fn spin_until(&self, is_done: impl Fn() -> bool) -> bool {
        self.check();
        if is_done() {
            return true;
        }
        if self.check_not_forked().is_err() || self.callers().futures > 0 {
            return false;
        }
        let driver = self.become_driver(false);
        let mut poll = || {
            driver.core.poll(1);
            is_done()
        };
        driver.core.poll(1).busy_workers < cpus() && spin(SPIN, 6, YIELD_AFTER, &mut poll)
    }

    /// Has the waker called when a result of the call arrives.
    pub(crate) fn wake_at_arrival(&self, call: &Call, waker: ArrivalWaker) {
        call.wake_at_arrival(waker, &self.wake_list);
    }

    /// Has the waker of a thread called when a result of the call arrives, beside those of others. Returns whether that
    /// is new.
    pub(crate) fn watch(&self, call: &Call, waker: &Waker) -> bool {
        call.watch(waker, &self.wake_list)
    }

    /// Counts a waker as a future that waits. [Check](Self::check) afterwards: workers need not notify of what they
    /// finished before.
    pub(crate) fn count_waker(self: &Arc<Self>) -> CountedWaker {
        self.count_future(true);
        CountedWaker(Arc::clone(self))
    }

    /// Counts a future that begins to wait, or no longer does.
    pub(crate) fn count_future(&self, waits: bool) {
        if self.original.is_current() {
            self.update_callers(|callers| {
                callers.futures = if waits { callers.futures + 1 } else { callers.futures.saturating_sub(1) };
            });
        }
    }
}

/// A waker that is counted until this drops.
pub(crate) struct CountedWaker(Arc<PoolCore>);

impl Drop for CountedWaker {
    fn drop(&mut self) {
        self.0.count_future(false);
    }
}

/// A thread that drives the pool while it waits for its own results.
pub(crate) struct DriverGuard<'a> {
    core: &'a PoolCore,
    needs_all: bool,
}

/// One turn of a driver.
impl PoolCore {
    /// Polls without blocking.
    pub(crate) fn check(&self) {
        if self.original.is_current() {
            self.poll(0);
        }
    }

    /// Collects results and dispatches waiting chunks. Wakes the callers if more wait than the `own_callers` of this
    /// thread: 1 if it is one of them, or 0.
    fn poll(&self, own_callers: usize) -> PollResult {
        self.poll_at(clock::coarse_nanos(), own_callers)
    }

    /// As [`poll`](Self::poll), at a [time](super::Scheduler::poll).
    fn poll_at(&self, now: u64, own_callers: usize) -> PollResult {
        let mut state = self.lock();
        let polled = state.poll(now);
        let must_wake = state.must_wake();
        drop(state);
        if must_wake {
            self.thread.wake();
        }
        if polled.progressed && self.callers().count > own_callers {
            self.wakeup_page.callers().notify_all(); // it may be the result of another caller
        }
        polled
    }
}

impl DriverGuard<'_> {
    /// Drives the pool until `is_done` or the deadline; returns whether it is done.
    pub(crate) fn wait_until(&self, deadline: Deadline, is_done: impl Fn() -> bool) -> bool {
        trace::waiting("results", || self.drive_until(deadline, is_done))
    }

    fn drive_until(&self, deadline: Deadline, is_done: impl Fn() -> bool) -> bool {
        let core = self.core;
        while core.original.is_current() {
            let polled = core.poll(1);
            if is_done() {
                return true;
            }
            let may_yield = deadline.has_slack();
            if polled.woken && may_yield {
                thread::yield_now(); // the kernel may have queued it behind this thread, on the same CPU
            }
            let mut poll = || {
                core.poll(1);
                is_done()
            };
            // With all CPUs busy, this thread should yield its CPU to a worker.
            if may_yield && polled.busy_workers < cpus() && spin(SPIN, 6, YIELD_AFTER, &mut poll) {
                return true;
            }
            let ticket = core.wakeup_page.callers().prepare_wait();
            let polled = core.poll(1);
            if is_done() {
                return true;
            }
            if deadline.is_over() {
                return false;
            }
            if !polled.progressed {
                let next_check =
                    core.lock().next_check().map(|time| time.saturating_duration_since(Instant::now()));
                let times = next_check.into_iter().chain(deadline.left()).chain([CHECK_INTERVAL]);
                core.wakeup_page.callers().wait(ticket, times.min());
                core.poll_at(clock::nanos(), 1); // the coarse clock may not have reached the time of the check
            }
        }
        false
    }
}

impl Drop for DriverGuard<'_> {
    fn drop(&mut self) {
        let core = self.core;
        if !core.original.is_current() {
            return;
        }
        let waiting = core.update_callers(|callers| {
            callers.count -= 1;
            callers.need_all -= usize::from(self.needs_all);
        });
        // Changes before that store woke no thread, and the pool's thread may have to handle them.
        if waiting == WaitingCallers::None && !core.lock().is_at_rest() {
            core.poll(0);
            if core.lock().sleeps_past_next_step() {
                core.thread.wake();
            }
        }
    }
}
