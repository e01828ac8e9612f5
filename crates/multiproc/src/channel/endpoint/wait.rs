//! How one side of a endpoint waits for the other.

use std::hint;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::coalesce::CoalescingDelay;
use super::{COALESCING, Endpoint, FAILED_SPINS, NOTIFIED, WaitOutcome};
use crate::error::Result;
use crate::ipc::ring::Position;
use crate::sys::atomic::Relaxed;
use crate::sys::cpus::{is_smp, should_spin};
use crate::sys::failpoint::{self, Failpoint};
use crate::sys::poll::{Deadline, PollEvents, poll_event_or_hangup};

/// How often to look before sleeping. It takes less time than the sleep would.
const SPINS_PER_CHECK: u32 = 64;
/// How long to go on looking now and then: longer than a sleeper needs to wake up, or two who answer each other would
/// never be awake at the same time.
const SPIN: Duration = Duration::from_micros(50);
/// What takes longer than this is not worth waiting for without sleeping.
const SPIN_PAYOFF: Duration = Duration::from_micros(40);
/// How long to sleep at most without a look: one who is killed after a change, and before he has rung, wakes nobody.
const RECHECK_INTERVAL: Duration = Duration::from_millis(500);

impl Endpoint {
    /// Gives the other side a head start, where it is known to be no further than `before`; to be called under the lock,
    /// before a look. When `enough` frames have come there is nothing to be gained by waiting for more.
    #[inline]
    pub(crate) fn coalesce(&self, before: Position, enough: u32) {
        if is_smp() {
            let head_start = CoalescingDelay(self.word32(self.side, COALESCING));
            head_start.wait(enough, || self.peer_position().frames_since(before));
        }
    }

    /// Waits until the other side has come further than `before`; to be called under the lock. What is to be done
    /// `meanwhile` is done again and again.
    pub(crate) fn wait(
        &self,
        before: Position,
        deadline: Deadline,
        meanwhile: impl Fn(),
    ) -> Result<WaitOutcome> {
        let is_ready = || {
            meanwhile();
            self.peer_position() != before
        };
        if deadline.is_over() {
            self.discard_orphans();
            let gone = self.peer_hung_up()?; // looked at first: what was published before they went counts
            return Ok(if is_ready() {
                WaitOutcome::Ready
            } else if gone {
                WaitOutcome::Disconnected
            } else {
                WaitOutcome::TimedOut
            });
        }
        if self.spin(&is_ready) {
            return Ok(WaitOutcome::Ready);
        }
        let rung = self.word32(self.side, NOTIFIED);
        if rung.swap(0, Relaxed) != 0 {
            self.clear_eventfd();
        }
        loop {
            let news = self.sleep(&is_ready, deadline)?;
            if is_ready() {
                rung.store(news.rung.into(), Relaxed); // to be cleared when there is nothing better to do
                return Ok(WaitOutcome::Ready);
            }
            if news.hung_up {
                return Ok(WaitOutcome::Disconnected);
            }
            if news.rung {
                self.clear_eventfd();
            }
            if deadline.is_over() {
                return Ok(if is_ready() { WaitOutcome::Ready } else { WaitOutcome::TimedOut });
            }
        }
    }

    /// Sleeps until the event count rings, all on the other side are gone, or the deadline; or does not, where it is ready.
    fn sleep(&self, is_ready: &impl Fn() -> bool, deadline: Deadline) -> Result<PollEvents> {
        self.discard_orphans();
        let flag = self.own_flag();
        let armed = flag.set();
        let news = if is_ready() {
            PollEvents::default()
        } else {
            failpoint::hit(Failpoint::ChannelSleeps);
            let time = deadline.or_within(RECHECK_INTERVAL).left();
            poll_event_or_hangup(self.eventfd().as_fd(), self.links.socket.as_fd(), time)?
        };
        flag.clear(armed);
        Ok(news)
    }

    /// Waits for a little without sleeping, and for longer unless that has proved not to be worth it.
    fn spin(&self, is_ready: &impl Fn() -> bool) -> bool {
        if !is_smp() {
            return false;
        }
        let vain = self.word32(self.side, FAILED_SPINS);
        let times = vain.load(Relaxed);
        if polls(is_ready) {
            vain.store(0, Relaxed);
            return true;
        }
        vain.store(times.wrapping_add(1), Relaxed);
        if !should_spin(times) {
            return false;
        }
        let start = Instant::now();
        while start.elapsed() < SPIN {
            if polls(is_ready) {
                if start.elapsed() < SPIN_PAYOFF {
                    vain.store(0, Relaxed);
                }
                return true;
            }
        }
        false
    }
}

fn polls(is_ready: &impl Fn() -> bool) -> bool {
    for _ in 0..SPINS_PER_CHECK {
        if is_ready() {
            return true;
        }
        hint::spin_loop();
    }
    false
}
