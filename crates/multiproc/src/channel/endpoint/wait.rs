//! How one side of a lane waits for the other.

use std::hint;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::coalesce::HeadStart;
use super::{HEAD_START, Lane, RUNG, VAIN, Waited};
use crate::error::Result;
use crate::ipc::ring::Mark;
use crate::sys::atomic::Relaxed;
use crate::sys::cpus::{others_run, pays_to_look};
use crate::sys::failpoint::{self, Failpoint};
use crate::sys::poll::{Deadline, News, bell_or_end};

/// How often to look before sleeping. It takes less time than the sleep would.
const LOOKS: u32 = 64;
/// How long to go on looking now and then: longer than a sleeper needs to wake up, or two who answer each other would
/// never be awake at the same time.
const SPIN: Duration = Duration::from_micros(50);
/// What takes longer than this is not worth waiting for without sleeping.
const SOON: Duration = Duration::from_micros(40);
/// How long to sleep at most without a look: one who is killed after a change, and before he has rung, wakes nobody.
const A_WHILE: Duration = Duration::from_millis(500);

impl Lane {
    /// Gives the other side a head start, where it is known to be no further than `before`; to be called under the lock,
    /// before a look. When `enough` frames have come there is nothing to be gained by waiting for more.
    #[inline]
    pub(crate) fn give_head_start(&self, before: Mark, enough: u32) {
        if others_run() {
            let head_start = HeadStart(self.word32(self.side, HEAD_START));
            head_start.give(enough, || self.look().frames_since(before));
        }
    }

    /// Waits until the other side has come further than `before`; to be called under the lock. What is to be done
    /// `meanwhile` is done again and again.
    pub(crate) fn wait(&self, before: Mark, deadline: Deadline, meanwhile: impl Fn()) -> Result<Waited> {
        let is_ready = || {
            meanwhile();
            self.look() != before
        };
        if deadline.is_over() {
            self.tidy();
            let gone = self.is_abandoned()?; // looked at first: what was published before they went counts
            return Ok(if is_ready() {
                Waited::Ready
            } else if gone {
                Waited::Gone
            } else {
                Waited::NotYet
            });
        }
        if self.spin(&is_ready) {
            return Ok(Waited::Ready);
        }
        let rung = self.word32(self.side, RUNG);
        if rung.swap(0, Relaxed) != 0 {
            self.clear_bell();
        }
        loop {
            let news = self.sleep(&is_ready, deadline)?;
            if is_ready() {
                rung.store(news.rung.into(), Relaxed); // to be cleared when there is nothing better to do
                return Ok(Waited::Ready);
            }
            if news.hung_up {
                return Ok(Waited::Gone);
            }
            if news.rung {
                self.clear_bell();
            }
            if deadline.is_over() {
                return Ok(if is_ready() { Waited::Ready } else { Waited::NotYet });
            }
        }
    }

    /// Sleeps until the bell rings, all on the other side are gone, or the deadline; or does not, where it is ready.
    fn sleep(&self, is_ready: &impl Fn() -> bool, deadline: Deadline) -> Result<News> {
        self.tidy();
        let alarm = self.own_alarm();
        let armed = alarm.arm();
        let news = if is_ready() {
            News::default()
        } else {
            failpoint::hit(Failpoint::ChannelSleeps);
            let time = deadline.or_within(A_WHILE).left();
            bell_or_end(self.bell().as_fd(), self.links.socket.as_fd(), time)?
        };
        alarm.disarm(armed);
        Ok(news)
    }

    /// Waits for a little without sleeping, and for longer unless that has proved not to be worth it.
    fn spin(&self, is_ready: &impl Fn() -> bool) -> bool {
        if !others_run() {
            return false;
        }
        let vain = self.word32(self.side, VAIN);
        let times = vain.load(Relaxed);
        if looks(is_ready) {
            vain.store(0, Relaxed);
            return true;
        }
        vain.store(times.wrapping_add(1), Relaxed);
        if !pays_to_look(times) {
            return false;
        }
        let start = Instant::now();
        while start.elapsed() < SPIN {
            if looks(is_ready) {
                if start.elapsed() < SOON {
                    vain.store(0, Relaxed);
                }
                return true;
            }
        }
        false
    }
}

fn looks(is_ready: &impl Fn() -> bool) -> bool {
    for _ in 0..LOOKS {
        if is_ready() {
            return true;
        }
        hint::spin_loop();
    }
    false
}
