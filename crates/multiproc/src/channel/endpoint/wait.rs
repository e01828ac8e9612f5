//! How one side of a ring waits for the other: it spins, then sleeps on its eventfd.

use std::hint;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::coalesce::CoalescingDelay;
use super::{COALESCING, Endpoint, FAILED_SPINS, NOTIFIED, Side, WaitOutcome};
use crate::error::Result;
use crate::ipc::ring::Position;
use crate::sys::atomic::Relaxed;
use crate::sys::cpus::{is_smp, should_spin, spin};
use crate::sys::failpoint::{self, Failpoint};
use crate::sys::poll::{Deadline, PollEvents, poll_event_or_hangup};
use crate::trace;

/// The checks of a short spin, and of a long one between two loads of the clock. They take less time than a
/// sleep.
const SPINS_PER_CHECK: u32 = 64;
/// The time to spin: longer than a sleeping thread takes to wake up, or two processes that answer each other
/// would never be awake at the same time.
const SPIN: Duration = Duration::from_micros(50);
/// A spin that succeeds after a longer time than this counts as failed.
const SPIN_PAYOFF: Duration = Duration::from_micros(40);
/// The time to sleep before the condition is checked again: a peer killed between its change and its
/// notification wakes no one.
pub(super) const RECHECK_INTERVAL: Duration = Duration::from_millis(500);

impl Endpoint {
    /// Delays so that several frames come at once, where the peer was at `before`. `enough` is the number of
    /// frames that ends the delay. To be called under the lock, before the peer's position is loaded.
    #[inline]
    pub(crate) fn coalesce(&self, before: Position, enough: u32) {
        if is_smp() {
            let delay = CoalescingDelay(self.word32(self.side, COALESCING));
            delay.wait(enough, || self.peer_position().frames_since(before));
        }
    }

    /// Waits until the peer's position is not `before` any more; to be called under the lock. Each check of
    /// the position also calls `prefetch`.
    pub(crate) fn wait(
        &self,
        before: Position,
        deadline: Deadline,
        prefetch: impl Fn(),
    ) -> Result<WaitOutcome> {
        let is_ready = || {
            prefetch();
            self.peer_position() != before
        };
        if deadline.is_over() {
            self.discard_orphans();
            let hung_up = self.peer_hung_up()?; // first, so that frames published before the hang-up count
            return match is_ready() {
                true => Ok(WaitOutcome::Ready),
                false if hung_up => self.after_hang_up(deadline, is_ready),
                false => Ok(WaitOutcome::TimedOut),
            };
        }
        if self.spin(&is_ready) {
            return Ok(WaitOutcome::Ready);
        }
        self.sleep_until(deadline, &is_ready)
    }

    /// Sleeps until the peer's position has changed, or is final, or the deadline passes.
    #[cold]
    fn sleep_until(&self, deadline: Deadline, is_ready: &impl Fn() -> bool) -> Result<WaitOutcome> {
        let notified = self.word32(self.side, NOTIFIED);
        if notified.swap(0, Relaxed) != 0 {
            self.clear_eventfd();
        }
        loop {
            let events = self.sleep(is_ready, deadline)?;
            if is_ready() {
                notified.store(events.readable.into(), Relaxed); // a later wait clears it
                return Ok(WaitOutcome::Ready);
            }
            if events.hung_up {
                return self.after_hang_up(deadline, is_ready);
            }
            if events.readable {
                self.clear_eventfd();
            }
            if self.times_out_early || deadline.is_over() {
                return Ok(if is_ready() { WaitOutcome::Ready } else { WaitOutcome::TimedOut });
            }
        }
    }

    /// The end of a wait that began just now.
    pub(super) fn shortened(&self, deadline: Deadline) -> Deadline {
        if self.times_out_early { deadline.or_within(RECHECK_INTERVAL) } else { deadline }
    }

    /// The outcome of a wait after the peer's end. If the channel was closed, a producer that began before may
    /// be about to publish; the lock tells.
    #[cold]
    fn after_hang_up(&self, deadline: Deadline, is_ready: impl Fn() -> bool) -> Result<WaitOutcome> {
        let is_settled = self.side == Side::Producers
            || self.mutex(Side::Producers).lock(self.shortened(deadline))?.is_some();
        Ok(match is_settled {
            _ if is_ready() => WaitOutcome::Ready,
            true => WaitOutcome::Disconnected,
            false => WaitOutcome::TimedOut,
        })
    }

    /// Sleeps until the eventfd is written, the peer hangs up or the deadline passes; does not sleep if
    /// `is_ready`.
    fn sleep(&self, is_ready: &impl Fn() -> bool, deadline: Deadline) -> Result<PollEvents> {
        self.discard_orphans();
        let flag = self.own_flag();
        let set = flag.set();
        let events = if is_ready() {
            PollEvents::default()
        } else {
            failpoint::hit(Failpoint::ChannelSleeps);
            let time = deadline.or_within(RECHECK_INTERVAL).left();
            let name = if self.side == Side::Producers { "send" } else { "receive" };
            let poll = || poll_event_or_hangup(self.eventfd().as_fd(), self.fds.socket.as_fd(), time);
            trace::waiting(name, poll)?
        };
        flag.clear(set);
        Ok(events)
    }

    /// Spins for a short time, and then for [`SPIN`] unless spinning has failed lately.
    fn spin(&self, is_ready: &impl Fn() -> bool) -> bool {
        if !is_smp() {
            return false;
        }
        let failed_spins = self.word32(self.side, FAILED_SPINS);
        let failed = failed_spins.load(Relaxed);
        for _ in 0..SPINS_PER_CHECK {
            if is_ready() {
                failed_spins.store(0, Relaxed);
                return true;
            }
            hint::spin_loop();
        }
        failed_spins.store(failed.wrapping_add(1), Relaxed);
        if !should_spin(failed) {
            return false;
        }
        let start = Instant::now();
        // It does not yield: `yield_to_woken` has yielded to a peer that this thread has woken.
        let is_done = spin(SPIN, SPINS_PER_CHECK, Duration::MAX, is_ready);
        if is_done && start.elapsed() < SPIN_PAYOFF {
            failed_spins.store(0, Relaxed);
        }
        is_done
    }
}
