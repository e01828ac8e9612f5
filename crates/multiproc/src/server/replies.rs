//! The replies to one caller: over its channel at once, or by a thread of its own if the channel is full.
//!
//! A server must not wait for a caller that takes no replies, because it is stopped or busy: the others wait
//! for the server.

use std::io;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::message;
use crate::channel::{Message, SenderCore};
use crate::error::Result;
use crate::ipc::wire::SharedFd;
use crate::sys::poll::Deadline;
use crate::sys::signals::with_signals_blocked;
use crate::sys::socket::Sent;

type Reply = (Vec<u8>, Vec<SharedFd>);

/// The server's end of a caller's channel.
pub(super) struct Replies {
    channel: SenderCore,
    writer: Option<Writer>,
}

/// A thread that waits for room in the channel. It ends when its sender is dropped, or the caller is gone.
struct Writer {
    queue: mpsc::Sender<Reply>,
    thread: JoinHandle<()>,
}

/// What became of a reply.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ReplyOutcome {
    Done,
    CallerGone,
    /// There is no thread that could wait for the caller.
    Refused,
}

impl Replies {
    pub(super) fn new(channel: SenderCore) -> Self {
        Self { channel, writer: None }
    }

    /// Sends a reply. Does not wait for the caller. A reply that cannot be sent is replaced by the error.
    pub(super) fn send(&mut self, call: u64, reply: &[u8], descriptors: &[SharedFd]) -> Result<ReplyOutcome> {
        if let Some(writer) = &self.writer {
            let queued = writer.queue.send((reply.to_vec(), descriptors.to_vec()));
            return Ok(if queued.is_ok() { ReplyOutcome::Done } else { ReplyOutcome::CallerGone });
        }
        match self.channel.send([Message { bytes: reply, descriptors }], Deadline::now(), &mut 0) {
            Ok(Sent::Done) => Ok(ReplyOutcome::Done),
            Ok(Sent::Disconnected) => Ok(ReplyOutcome::CallerGone),
            Ok(Sent::TimedOut) => {
                let Ok(writer) = Writer::start(self.channel.clone()) else {
                    return Ok(ReplyOutcome::Refused);
                };
                let _ = writer.queue.send((reply.to_vec(), descriptors.to_vec()));
                self.writer = Some(writer);
                Ok(ReplyOutcome::Done)
            }
            Err(error) => {
                let failure = message::failure(call, &error);
                if failure.len() == reply.len() && failure == reply {
                    return Err(error);
                }
                self.send(call, &failure, &[])
            }
        }
    }

    /// Whether the caller is gone, as far as is known.
    pub(super) fn caller_is_gone(&self) -> bool {
        self.channel.end().peer_hung_up()
    }

    /// Waits until the caller has taken what waits for it, or is gone, or the deadline comes.
    pub(super) fn flush(&mut self, deadline: Deadline) {
        let Some(Writer { queue, thread }) = self.writer.take() else { return };
        drop(queue);
        while !thread.is_finished() && !deadline.is_over() {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Writer {
    fn start(channel: SenderCore) -> io::Result<Self> {
        let (queue, replies) = mpsc::channel::<Reply>();
        let write = move || {
            for (bytes, descriptors) in replies {
                let message = Message { bytes: &bytes, descriptors: &descriptors };
                let call = message::call_of(&bytes).unwrap_or(0);
                match channel.send([message], Deadline::Never, &mut 0) {
                    Ok(Sent::Done) => {}
                    Ok(Sent::Disconnected | Sent::TimedOut) => return,
                    Err(error) => {
                        let failure = message::failure(call, &error);
                        let _ = channel.send([Message::without_fds(&failure)], Deadline::Never, &mut 0);
                    }
                }
            }
        };
        let thread = thread::Builder::new().name("mp-replies".to_owned());
        let thread = with_signals_blocked(|| thread.spawn(write))?;
        Ok(Self { queue, thread })
    }
}
