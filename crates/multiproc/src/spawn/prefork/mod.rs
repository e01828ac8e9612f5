//! Pre-forking (as Apache's MPM prefork): a queue of children that were forked before a start needs them.
//!
//! Requests and responses keep their order, so the pending ones are a queue. A start takes the
//! next response, and requests a replacement.

pub(crate) mod prefault;

use std::collections::VecDeque;
use std::os::fd::AsFd;

use nix::errno::Errno;

use crate::error::{Error, Result};
use crate::ipc::packet::PacketSocket;
use crate::spawn::supervisor;
use crate::spawn::zygote::handle::{ForkedChild, Zygote};
use crate::spawn::zygote::{MAX_REQUESTS, Priority, Response};
use crate::sys::pidfd::PidFd;
use crate::sys::poll::Deadline;

/// How many children are kept once a start has had to wait. They use little, but show up in `ps`.
const TARGET_IDLE: usize = 2;

/// The requests of one zygote whose responses were not taken.
pub(crate) struct PreforkQueue {
    /// How many responses were taken: the number of the next request to be answered.
    answered: u64,
    /// The oldest first.
    pending: VecDeque<PendingFork>,
    /// How many children to keep between two starts. 0 until a second start has had to wait.
    target_idle: usize,
    most_idle: usize,
    /// Called by the supervisor thread when a pending child hangs up.
    on_hangup: fn(),
}

enum PendingFork {
    /// The parent's end of the child's start socket.
    Waits(PacketSocket),
    /// The child was killed, or not forked.
    Disconnected,
}

/// The outcome of taking the next child.
pub(crate) enum TakeOutcome {
    Forked {
        child: ForkedChild,
        /// The number of its request.
        number: u64,
        /// Whether it was requested for this start. If not, it may have been killed long ago.
        is_fresh: bool,
    },
    /// The kernel refuses the fork.
    Refused(Errno),
    /// The zygote has not answered in time.
    TimedOut,
    /// The zygote has ended.
    Exited,
    /// The zygote has reported why it cannot start, or has sent nonsense.
    Failed(Error),
}

impl PreforkQueue {
    pub(crate) fn new(on_hangup: fn()) -> Self {
        Self { answered: 0, pending: VecDeque::new(), target_idle: 0, most_idle: TARGET_IDLE, on_hangup }
    }

    /// Keeps no children between two starts.
    pub(crate) fn without_idle(on_hangup: fn()) -> Self {
        Self { most_idle: 0, ..Self::new(on_hangup) }
    }

    /// How many children were requested: the number of the next request.
    pub(crate) fn requested(&self) -> u64 {
        self.answered + self.pending.len() as u64
    }

    pub(crate) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Takes the next child, and requests one first if none is pending. It is fresh if its number is at least
    /// `first_of_this_start`. Returns `Err` only for failures in this process; the zygote's are in the
    /// outcome.
    pub(crate) fn take(
        &mut self,
        zygote: &Zygote,
        first_of_this_start: u64,
        deadline: Deadline,
    ) -> Result<TakeOutcome> {
        loop {
            if self.pending.is_empty() {
                self.target_idle = if self.answered == 0 { 0 } else { self.most_idle };
                // Requests nothing if the zygote is gone. Its last message, the next response, may say why.
                self.ensure_pending(zygote, 1, Priority::Immediate, deadline)?;
            }
            let number = self.answered;
            let is_fresh = number >= first_of_this_start;
            let pid = match zygote.response(deadline) {
                Ok(Response::Forked(pid)) => Ok(pid),
                Ok(Response::Failed(errno)) => Err(errno),
                Ok(Response::TimedOut) => return Ok(TakeOutcome::TimedOut),
                Ok(Response::Exited) => return Ok(TakeOutcome::Exited),
                Err(error) => return Ok(TakeOutcome::Failed(error)),
            };
            let Some(pending) = self.take_response() else {
                return Ok(TakeOutcome::Failed(Error::decode(
                    "a fork server's reply",
                    "there was no request",
                )));
            };
            match (pid, pending) {
                (Ok(pid), PendingFork::Waits(start_socket)) => {
                    let pidfd = PidFd::of_child(pid)?;
                    // The replacement, before the bootstrap message is sent, so that zygote and child wake up
                    // on different CPUs. The next start reports an error.
                    let _ = self.ensure_pending(zygote, self.target_idle, Priority::Ahead, Deadline::now());
                    return Ok(TakeOutcome::Forked {
                        child: ForkedChild { pid, pidfd, start_socket },
                        number,
                        is_fresh,
                    });
                }
                (Err(errno), _) if is_fresh => return Ok(TakeOutcome::Refused(errno)),
                // It was reaped, or refused some time ago: the next may be forked.
                _ => {}
            }
        }
    }

    fn take_response(&mut self) -> Option<PendingFork> {
        let pending = self.pending.pop_front()?;
        if let PendingFork::Waits(start_socket) = &pending {
            supervisor::forget_preforked(start_socket.as_fd());
        }
        self.answered += 1;
        Some(pending)
    }

    /// Requests children until `count` are pending, at most [`MAX_REQUESTS`]; none if the zygote is gone.
    pub(crate) fn ensure_pending(
        &mut self,
        zygote: &Zygote,
        count: usize,
        priority: Priority,
        deadline: Deadline,
    ) -> Result<()> {
        while self.pending.len() < count.min(MAX_REQUESTS)
            && let Some(start_socket) = zygote.request(self.requested(), priority, deadline)?
        {
            // If this fails, a dead child is reaped when a start comes across it.
            let _ = supervisor::watch_preforked(start_socket.as_fd(), self.on_hangup);
            self.pending.push_back(PendingFork::Waits(start_socket));
        }
        Ok(())
    }

    /// Ends pending children beyond those to keep.
    pub(crate) fn cancel(&mut self, zygote: &Zygote, deadline: Deadline) {
        while self.pending.len() > self.target_idle {
            match self.take(zygote, 0, deadline) {
                Ok(TakeOutcome::Forked { child, .. }) => child.end(),
                Ok(TakeOutcome::Refused(_)) | Err(_) => {}
                Ok(TakeOutcome::TimedOut | TakeOutcome::Exited | TakeOutcome::Failed(_)) => {
                    break; // the next start handles that
                }
            }
        }
    }

    /// Reaps pending children that were killed.
    pub(crate) fn reap_dead(&mut self, zygote: &Zygote) {
        for (number, pending) in (self.answered..).zip(&mut self.pending) {
            if let PendingFork::Waits(start_socket) = pending
                && start_socket.is_hung_up()
            {
                end_unclaimed(zygote, number, start_socket.clone());
                *pending = PendingFork::Disconnected;
            }
        }
    }

    /// Ends all pending children. For a zygote that has ended.
    pub(crate) fn end_all(self, zygote: &Zygote) {
        for (number, pending) in (self.answered..).zip(self.pending) {
            if let PendingFork::Waits(start_socket) = pending {
                end_unclaimed(zygote, number, start_socket);
            }
        }
    }
}

fn end_unclaimed(zygote: &Zygote, number: u64, start_socket: PacketSocket) {
    if let Some((pid, pidfd)) = zygote.pids.unclaimed(number) {
        ForkedChild { pid, pidfd, start_socket }.end();
    }
}
