//! A caller's pending calls, and the replies that no thread has taken.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use super::death::Fate;
use crate::channel::{ReceiveOutcome, ReceiverCore};
use crate::error::{Error, Result};
use crate::ipc::fd_shortage::Shortage;
use crate::sys::poll::Deadline;

#[derive(Default)]
pub(super) struct Inbox {
    pub(super) last_call: u64,
    pub(super) channel: Option<Arc<ReceiverCore>>,
    /// How often this process has begun to connect.
    pub(super) connects: u64,
    /// The page's status when the channel was last known to be good.
    pub(super) status: u64,
    /// When the server was first found hung up, and no more was known. Not a `RunningTime`: one that is read seldom
    /// stands still.
    pub(super) hung_up_since: Option<Instant>,
    /// A thread connects, receives, or learns what became of the server, without the lock. Only that one changes
    /// the channel.
    pub(super) is_in_use: bool,
    /// The number of threads that wait for a change.
    pub(super) waiters: usize,
    /// No descriptor was left to receive the next reply.
    pub(super) shortage: Shortage,
    /// The calls without a reply that was taken.
    pub(super) calls: HashMap<u64, Call>,
}

pub(super) enum Call {
    /// It is being sent, by a thread that will see whether the server died meanwhile.
    Sending,
    Sent,
    Done(Reply),
}

/// A reply and its descriptors.
pub(super) type Reply = Result<(Vec<u8>, Vec<OwnedFd>)>;

impl Inbox {
    /// Whether a call has no reply yet.
    pub(super) fn is_open(&self, call: u64) -> bool {
        matches!(self.calls.get(&call), Some(Call::Sending | Call::Sent))
    }

    /// Enters a reply, unless the call was answered already or no handle waits for it.
    pub(super) fn enter(&mut self, call: u64, reply: (Vec<u8>, Vec<OwnedFd>)) {
        if let Some(state @ (Call::Sending | Call::Sent)) = self.calls.get_mut(&call) {
            *state = Call::Done(Ok(reply));
        }
    }

    /// Gives each call without a reply the error that is made for it.
    pub(super) fn fail_all(&mut self, error: impl Fn(u64) -> Error) {
        for (&call, state) in &mut self.calls {
            if matches!(state, Call::Sending | Call::Sent) {
                *state = Call::Done(Err(error(call)));
            }
        }
    }
}

pub(super) enum Incoming {
    Reply(Vec<u8>, Vec<OwnedFd>),
    Nothing,
    HungUp(Fate),
}

/// Receives a reply. `None` if the channel has hung up.
pub(super) fn receive(channel: &ReceiverCore, deadline: Deadline) -> Result<Option<Incoming>> {
    let mut bytes = Vec::new();
    Ok(match channel.receive(1, deadline, |frame| bytes = frame.to_vec())? {
        ReceiveOutcome::PassedToClosure => Some(Incoming::Reply(bytes, Vec::new())),
        ReceiveOutcome::Owned(bytes, descriptors) => Some(Incoming::Reply(bytes, descriptors)),
        ReceiveOutcome::TimedOut => Some(Incoming::Nothing),
        ReceiveOutcome::Disconnected => None,
    })
}
