//! The messages between callers and a server: their headers, before the encoded values.

use std::num::NonZeroUsize;

use super::status_page::CallId;
use crate::channel::endpoint::EndpointFds;
use crate::channel::{Layout, ReceiverCore, SenderCore, sockets};
use crate::error::{Error, Result};
use crate::impl_serde::impl_serde;
use crate::ipc::wire::{self, SharedMemory};
use crate::task::TaskId;

/// What a caller asks of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// Call a method; the arguments follow.
    Call(TaskId),
    /// End, and reply with the state, which this function encodes.
    Stop(TaskId),
    /// Run calls again after a panic.
    ClearPoison,
    /// Send replies over another channel; an encoded [`Connect`] follows.
    Connect,
}

/// A caller's channel for replies, and the calls for which it still waits.
///
/// The caller sent those before this. A server that replies to them at all has done so when it receives this,
/// so it says that they are lost.
pub(super) struct Connect {
    pub(super) channel: Option<(SharedMemory, EndpointFds)>,
    pub(super) open_calls: Vec<u64>,
}

impl_serde!(struct Connect { channel, open_calls });

const CALL: u64 = 0;
const STOP: u64 = 1;
const CONNECT: u64 = 2;
const CLEAR_POISON: u64 = 3;

/// A request's header: its kind, the caller, the call, and the task's two words.
const REQUEST_HEADER: usize = 40;
/// A reply's header: the call, and whether an error follows.
const REPLY_HEADER: usize = 9;
const RETURNED: u8 = 0;
const FAILED: u8 = 1;

/// A channel for replies; replies that find no room wait in the server's memory.
const REPLIES: Layout = Layout::new(0, 256 * 1024, u32::MAX).with_early_timeouts();

impl Request {
    pub(super) fn write(self, id: CallId, out: &mut Vec<u8>) {
        let (kind, task) = match self {
            Self::Call(task) => (CALL, task.words()),
            Self::Stop(task) => (STOP, task.words()),
            Self::Connect => (CONNECT, [0; 2]),
            Self::ClearPoison => (CLEAR_POISON, [0; 2]),
        };
        for word in [kind, id.caller, id.call, task[0], task[1]] {
            out.extend_from_slice(&word.to_ne_bytes());
        }
    }

    /// The request and what follows its header; `None` if these bytes are none.
    pub(super) fn read(bytes: &[u8]) -> Option<(Self, CallId, &[u8])> {
        let (header, rest) = bytes.split_at_checked(REQUEST_HEADER)?;
        let (words, _) = header.as_chunks::<8>();
        let word = |index: usize| words.get(index).map(|word| u64::from_ne_bytes(*word));
        let task = TaskId::from_words([word(3)?, word(4)?]);
        let request = match word(0)? {
            CALL => Self::Call(task),
            STOP => Self::Stop(task),
            CONNECT => Self::Connect,
            CLEAR_POISON => Self::ClearPoison,
            _ => return None,
        };
        Some((request, CallId { caller: word(1)?, call: word(2)? }, rest))
    }
}

/// Numbers the call of a request that is written already.
pub(super) fn set_call(request: &mut [u8], call: u64) {
    if let Some(place) = request.get_mut(16..24) {
        place.copy_from_slice(&call.to_ne_bytes());
    }
}

/// Begins a reply to a call, to which the result is appended.
pub(super) fn begin_reply(call: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(&call.to_ne_bytes());
    out.push(RETURNED);
}

/// The reply to a call that has failed.
pub(super) fn failure(call: u64, error: &Error) -> Vec<u8> {
    let mut out = call.to_ne_bytes().to_vec();
    out.push(FAILED);
    // An error always encodes; if it did not, the caller could not decode the reply, which is an error, too.
    let _ = wire::encode_internal(error, &mut out, "an error");
    out
}

/// The call that a reply answers.
pub(super) fn call_of(reply: &[u8]) -> Result<u64> {
    let call = reply.first_chunk().filter(|_| reply.len() >= REPLY_HEADER);
    call.map(|call| u64::from_ne_bytes(*call)).ok_or_else(|| Error::decode("a reply", "invalid length"))
}

/// The encoded result in a reply, or the error.
pub(super) fn result(reply: &[u8]) -> Result<&[u8]> {
    match reply.get(REPLY_HEADER - 1..).and_then(<[u8]>::split_first) {
        Some((&RETURNED, result)) => Ok(result),
        Some((&FAILED, error)) => Err(wire::decode_internal(error, Vec::new(), "a server's error")?),
        Some((other, _)) => Err(Error::decode("a reply", format!("unknown kind {other:#x}"))),
        None => Err(Error::decode("a reply", "invalid length")),
    }
}

/// Makes a channel for replies: the receiving end, and the parts of the sending end.
pub(super) fn reply_channel() -> Result<(ReceiverCore, (SharedMemory, EndpointFds))> {
    let size = NonZeroUsize::new(REPLIES.end()).unwrap_or(NonZeroUsize::MIN);
    let (from, to) = sockets()?;
    let (sender, receiver) = REPLIES.create(&SharedMemory::create(size)?, from, to)?;
    let parts = (sender.end().memory().clone(), sender.end().fds().clone());
    Ok((receiver, parts))
}

/// Opens the sending end of a channel for replies.
pub(super) fn open_replies((memory, fds): (SharedMemory, EndpointFds)) -> Result<SenderCore> {
    SenderCore::open(REPLIES, memory, fds)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::error::Cause;
    use crate::testing::{any_bytes, cases};

    proptest! {
        #![proptest_config(cases(300))]

        #[test]
        fn any_bytes_are_a_message_or_none(bytes in any_bytes(100)) {
            let _ = Request::read(&bytes);
            let _ = call_of(&bytes);
            if let Err(error) = result(&bytes) {
                prop_assert!(!error.to_string().is_empty());
            }
        }
    }

    #[test]
    fn messages_arrive_as_they_were_sent() {
        let task = TaskId::from_words([7, 8]);
        let id = CallId { caller: 1, call: 2 };
        for request in [Request::Call(task), Request::Stop(task), Request::Connect, Request::ClearPoison] {
            let mut out = Vec::new();
            request.write(CallId { call: 0, ..id }, &mut out);
            set_call(&mut out, id.call);
            out.push(9);
            assert_eq!(Request::read(&out), Some((request, id, &[9][..])));
        }
        let failure = failure(5, &Error::new(Cause::Stopped));
        assert_eq!(call_of(&failure).unwrap(), 5);
        assert!(result(&failure).unwrap_err().is_closed());
        let mut reply = Vec::new();
        begin_reply(6, &mut reply);
        reply.extend_from_slice(b"result");
        assert_eq!((call_of(&reply).unwrap(), result(&reply).unwrap()), (6, &b"result"[..]));
    }
}
