//! The senders' cache of whether any receiver is alive.

use std::sync::atomic::AtomicU64;

use super::SenderCore;
use crate::channel::endpoint::SCRATCH;
use crate::error::Result;
use crate::ipc::ring::Position;
use crate::sys::atomic::Relaxed;
use crate::sys::clock;
use crate::sys::pidfd::observed_exits;

/// The most messages that are sent between two checks.
const CHECK_EVERY: u32 = 64;

/// Spares senders a system call per message: to ask the kernel whether a receiver is left costs about as much
/// as sending.
///
/// Receivers that take messages are alive, so each message taken since the last check allows two to be sent
/// without a check, up to [`CHECK_EVERY`]. The words for this are guarded by the senders' lock. While
/// receivers take none, this process asks the kernel once per tick of the coarse clock, and again when it has
/// seen the end of a process, which may have been the last receiver.
///
/// Independently of this cache, a sender asks before it waits for room and before it wakes a receiver.
#[derive(Default)]
pub(super) struct LivenessCache {
    /// The tick and the number of exits seen, added, when the kernel last said that a receiver is left.
    asked_at: AtomicU64,
}

/// The number of the frame before which the next check is due.
const NEXT_CHECK: usize = SCRATCH[1];
/// The receivers' position at the last check.
const TAKEN_AT_CHECK: usize = SCRATCH[2];

impl SenderCore {
    /// Notes that a new channel's receivers have taken nothing, and that a check is due.
    pub(super) fn init_liveness(&self) {
        self.0.endpoint.scratch(NEXT_CHECK).store(Position::START.frames, Relaxed);
        self.0.endpoint.scratch(TAKEN_AT_CHECK).store(Position::START.frames, Relaxed);
    }

    /// Whether no receiver is left, as far as is known before the frame at `tail` is sent.
    #[inline]
    pub(super) fn peer_hung_up(&self, tail: Position) -> Result<bool> {
        let left = self.0.endpoint.scratch(NEXT_CHECK).load(Relaxed).wrapping_sub(tail.frames);
        if (1..=CHECK_EVERY).contains(&left) && self.0.has_receivers() {
            return Ok(false);
        }
        self.check(tail)
    }

    #[cold]
    fn check(&self, tail: Position) -> Result<bool> {
        let endpoint = &self.0.endpoint;
        let taken = endpoint.refresh_peer().frames;
        let newly_taken = taken.wrapping_sub(endpoint.scratch(TAKEN_AT_CHECK).load(Relaxed));
        endpoint.scratch(TAKEN_AT_CHECK).store(taken, Relaxed);
        let next_check = tail.frames.wrapping_add(newly_taken.saturating_mul(2).min(CHECK_EVERY));
        endpoint.scratch(NEXT_CHECK).store(next_check, Relaxed);
        if !self.0.has_receivers() {
            return endpoint.peer_hung_up();
        }
        // Adding the two is safe: two ticks differ by far more nanoseconds than the exits seen in between.
        let now = clock::coarse_nanos().wrapping_add(observed_exits().into());
        if newly_taken > 0 || self.0.liveness.asked_at.load(Relaxed) == now {
            return Ok(false);
        }
        let hung_up = endpoint.peer_hung_up()?;
        if !hung_up {
            self.0.liveness.asked_at.store(now, Relaxed);
        }
        Ok(hung_up)
    }
}
