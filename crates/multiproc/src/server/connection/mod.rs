//! A caller's side of a server: one channel for replies, shared by the handles that a process has cloned.
//!
//! The channel is made with the first call, and sent to the server before it. One of the threads that wait for
//! a reply receives for all of them. When the server dies, the channel hangs up; the page says whether the
//! server has ended, or its state is made again and the caller connects again.

mod wait;

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::death::{Fate, await_fate, monitor_has_ended};
use super::inbox::{Call, Inbox};
use super::message::{self, Connect, Request};
use super::server_main::is_serving;
use super::status_page::{CallId, StatusPage};
use crate::channel::{ChannelEnd, Message, ReceiverCore, SenderCore};
use crate::error::{Cause, Error, Result};
use crate::ipc::scratch::Scratch;
use crate::ipc::wire::{self, SharedFd};
use crate::sys::failpoint::{self, Failpoint};
use crate::sys::fork_detect::OriginalProcess;
use crate::sys::poll::Deadline;
use crate::sys::socket::Sent;

pub(super) struct Connection {
    pub(super) name: String,
    pub(super) requests: SenderCore,
    /// Its number among the server's callers.
    caller: u64,
    /// A forked copy of it would take this one's replies.
    original: OriginalProcess,
    inbox: Mutex<Inbox>,
    /// Notified when replies have come, or no thread uses the channel any more.
    changed: Condvar,
}

/// Much longer than connecting takes if there is room, and than an idle server takes to receive the connection.
const CONNECT_TIME: Duration = Duration::from_millis(1);

/// A call that does not wait for room waits for another thread that connects, and until the server has taken
/// its own connection: usually there is room then. It waits equally long to learn how the server has ended.
fn with_grace(deadline: Deadline) -> Deadline {
    match deadline {
        Deadline::Immediate => Deadline::limit(CONNECT_TIME),
        later => later,
    }
}

/// A call that has a number, and is not sent.
struct OpenedCall {
    call: u64,
    /// How often this process had begun to connect.
    connects: u64,
    /// This thread has just connected.
    has_connected: bool,
}

impl Connection {
    pub(super) fn new(name: String, requests: SenderCore) -> Self {
        let caller = StatusPage(requests.end().memory()).new_caller();
        let (inbox, changed) = (Mutex::default(), Condvar::new());
        Self { name, requests, caller, original: OriginalProcess::current(), inbox, changed }
    }

    /// Fails in a method of this server: its reply would come after the method's end.
    pub(super) fn check_can_wait(&self) -> Result<()> {
        if is_serving(self.page()) {
            return Err(Error::os("wait in a method for another call of the same server", Errno::EDEADLK));
        }
        Ok(())
    }

    pub(super) fn check_not_forked(&self) -> Result<()> {
        if self.original.is_current() {
            return Ok(());
        }
        Err(Error::invalid("a server's handle cannot be used in a forked copy of its process"))
    }

    pub(super) fn page(&self) -> StatusPage<'_> {
        StatusPage(self.requests.end().memory())
    }

    fn page_and_namespace(&self) -> (StatusPage<'_>, u64) {
        (self.page(), self.requests.end().fds().namespace)
    }

    /// Sends a request whose header `encode` completes; returns the call's number.
    pub(super) fn send(
        &self,
        request: Request,
        deadline: Deadline,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<Vec<SharedFd>>,
    ) -> Result<u64> {
        self.check_not_forked()?;
        // A method must not wait for room that its own end would make.
        let is_serving = is_serving(self.page());
        let deadline = if is_serving { Deadline::now() } else { deadline };
        // Encoding runs user code, so no lock is held. The number of the call is filled in afterwards.
        let mut buffer = Scratch::borrow();
        request.write(CallId { caller: self.caller, call: 0 }, &mut buffer.0);
        let descriptors = encode(&mut buffer.0)?;
        let OpenedCall { call, connects, has_connected } = self.open_call(deadline)?;
        message::set_call(&mut buffer.0, call);
        let until = if has_connected && !is_serving { with_grace(deadline) } else { deadline };
        let sent = self.send_bytes(&buffer.0, &descriptors, until, deadline);
        failpoint::hit(Failpoint::CallSent);
        match sent {
            Ok(()) => {
                self.mark_sent(call, connects, deadline);
                Ok(call)
            }
            Err(error) => {
                self.forget(call);
                Err(error)
            }
        }
    }

    /// Waits for room `until` then, which may be later than the call's deadline. The error is that of the deadline.
    fn send_bytes(
        &self,
        bytes: &[u8],
        descriptors: &[SharedFd],
        until: Deadline,
        deadline: Deadline,
    ) -> Result<()> {
        match self.requests.send([Message { bytes, descriptors }], until, &mut 0)? {
            Sent::Done => Ok(()),
            Sent::Disconnected => Err(self.end_error(deadline)),
            Sent::TimedOut => Err(Self::no_room(deadline)),
        }
    }

    /// The error of a call that may not wait longer.
    fn no_room(deadline: Deadline) -> Error {
        match deadline {
            Deadline::Immediate => Self::full(),
            _ => Error::timeout("send a call"),
        }
    }

    fn full() -> Error {
        Error::new(Cause::Full("server's queue".to_owned()))
    }

    /// The error of a call that was not sent, with another one for [a time that was over](Self::no_room).
    pub(super) fn timeout_as_full(error: Error) -> Error {
        if error.is_timeout() { Self::full() } else { error }
    }

    /// Numbers a call, which is to be sent over a channel that is connected.
    fn open_call(&self, deadline: Deadline) -> Result<OpenedCall> {
        let until = with_grace(deadline);
        let mut has_connected = false;
        let mut inbox = self.lock();
        self.take_replies_that_are_there(&mut inbox, false);
        while inbox.channel.is_none() {
            if !inbox.is_in_use {
                let connected;
                (inbox, connected) = self.connect(inbox, deadline);
                connected?;
                has_connected = true;
            } else if until.is_over() {
                return Err(Self::no_room(deadline));
            } else {
                inbox = self.wait_for_change(inbox, until);
            }
        }
        inbox.last_call += 1;
        let call = inbox.last_call;
        inbox.calls.insert(call, Call::Sending);
        Ok(OpenedCall { call, connects: inbox.connects, has_connected })
    }

    /// Notes that a call is sent. If this process has connected to another server process meanwhile, asks that
    /// one about the call.
    fn mark_sent(&self, call: u64, connects: u64, deadline: Deadline) {
        let mut inbox = self.lock();
        if let Some(sent @ Call::Sending) = inbox.calls.get_mut(&call) {
            *sent = Call::Sent;
        }
        let connected_since = inbox.connects != connects && (inbox.channel.is_some() || inbox.is_in_use);
        if !connected_since {
            return; // the next one to connect asks
        }
        drop(inbox);
        let connect = Connect { channel: None, open_calls: vec![call] };
        if let Err(error) = self.send_connect(connect, deadline) {
            // It may run, or have run. A caller that gets `is_full` or a timeout calls again.
            let is_lost = error.is_full() || error.is_timeout();
            let lost = || Error::new(Cause::ReplyLost).with_origin(self.page().origin(&self.name));
            let error = if is_lost { lost() } else { error };
            let mut inbox = self.lock();
            if let Some(unknown @ Call::Sent) = inbox.calls.get_mut(&call) {
                *unknown = Call::Done(Err(error));
                self.notify_waiters(&inbox);
            }
        }
    }

    /// Makes a channel, and sends it to the server. Does not hold the lock while it waits for room: the calls of
    /// other threads have time limits of their own.
    fn connect<'a>(
        &'a self,
        mut inbox: MutexGuard<'a, Inbox>,
        deadline: Deadline,
    ) -> (MutexGuard<'a, Inbox>, Result<()>) {
        let status = self.page().status();
        let sent = inbox.calls.iter().filter(|(_, call)| matches!(call, Call::Sent));
        let open_calls = sent.map(|(call, _)| *call).collect();
        inbox.connects += 1;
        let (mut inbox, connected) = self.without_lock(inbox, || {
            let (receiver, parts) = message::reply_channel()?;
            self.send_connect(Connect { channel: Some(parts), open_calls }, deadline)?;
            failpoint::hit(Failpoint::ConnectSent);
            Ok(receiver)
        });
        let connected = connected.map(|receiver| {
            (inbox.channel, inbox.hung_up_since) = (Some(Arc::new(receiver)), None);
            inbox.status = status;
        });
        (inbox, connected)
    }

    /// Uses the channel, as the only thread.
    fn without_lock<'a, T>(
        &'a self,
        mut inbox: MutexGuard<'a, Inbox>,
        using: impl FnOnce() -> T,
    ) -> (MutexGuard<'a, Inbox>, T) {
        inbox.is_in_use = true;
        drop(inbox);
        let result = using();
        let mut inbox = self.lock();
        inbox.is_in_use = false;
        self.notify_waiters(&inbox);
        (inbox, result)
    }

    fn send_connect(&self, connect: Connect, deadline: Deadline) -> Result<()> {
        let mut bytes = Vec::new();
        Request::Connect.write(CallId { caller: self.caller, call: 0 }, &mut bytes);
        let descriptors = wire::encode_internal_with_descriptors(&connect, &mut bytes, "a caller")?;
        self.send_bytes(&bytes, &descriptors, deadline, deadline)
    }

    /// Whether the reply to a call is there, without waiting. A forked copy gets an error at once.
    pub(super) fn is_ready(&self, call: u64) -> bool {
        if !self.original.is_current() {
            return true;
        }
        let mut inbox = self.lock();
        let has_hung_up = |channel: &Arc<ReceiverCore>| channel.end().peer_hung_up();
        let has_hung_up = inbox.is_open(call) && inbox.channel.as_ref().is_some_and(has_hung_up);
        self.take_replies_that_are_there(&mut inbox, has_hung_up);
        if inbox.is_open(call) && inbox.channel.is_none() && !inbox.is_in_use {
            let connected;
            (inbox, connected) = self.connect(inbox, Deadline::now()); // nothing else may wait for a reply
            let _ = self.note_failure(&mut inbox, connected); // the next one tries again
        }
        !inbox.is_open(call)
    }

    /// The channel, whose eventfd then becomes readable with the next reply. `None` if it has hung up; and if there
    /// is a reply that was not taken, which needs a descriptor or memory, and nothing announces these.
    pub(super) fn watch_replies(&self) -> Result<Option<Arc<ReceiverCore>>> {
        if self.check_not_forked().is_err() {
            return Ok(None);
        }
        let inbox = self.lock();
        let can_be_polled = |end: &ChannelEnd| end.len() == 0 && !end.peer_hung_up();
        let channel = inbox.channel.clone().filter(|channel| can_be_polled(channel.end()));
        // No other thread takes the channel's lock while one receives.
        if let Some(channel) = channel.as_ref().filter(|_| !inbox.is_in_use) {
            channel.update_readiness()?;
        }
        Ok(channel)
    }

    pub(super) fn is_alive(&self) -> bool {
        !self.page().has_ended() && !monitor_has_ended(self.page_and_namespace())
    }

    /// Makes a system call only if a thread waits. (`notify_all` always makes one.)
    fn notify_waiters(&self, inbox: &Inbox) {
        if inbox.waiters > 0 {
            self.changed.notify_all();
        }
    }

    /// Fails the calls if connecting did; not if only its time was over, nor if the kernel has refused what it
    /// needs, which is returned.
    fn note_failure(&self, inbox: &mut Inbox, connected: Result<()>) -> Result<()> {
        let Err(error) = connected else { return Ok(()) };
        if error.is_timeout() || error.is_full() {
            return Ok(());
        }
        if self.page().has_ended() {
            self.end_all(inbox);
        } else if error.os_error().is_some() {
            return Err(error);
        } else {
            inbox.fail_all(|_| error.clone());
        }
        self.notify_waiters(inbox);
        Ok(())
    }

    /// Gives all calls without a reply the error of a server that has ended.
    fn end_all(&self, inbox: &mut Inbox) {
        let (end, running) = (self.page().read_end(&self.name), self.page().running());
        inbox.fail_all(|call| end.error_of(CallId { caller: self.caller, call }, running));
    }

    /// The error of a request that finds no server.
    fn end_error(&self, deadline: Deadline) -> Error {
        let status = self.page().status();
        let begun = *self.lock().hung_up_since.get_or_insert_with(Instant::now);
        match await_fate(self.page_and_namespace(), self.caller, status, begun, with_grace(deadline)) {
            Fate::Ended => self.page().read_end(&self.name).error.while_waiting(),
            Fate::TimedOut => Self::no_room(deadline),
            Fate::Restarted | Fate::Refused | Fate::Nothing => self.page().unknown_end(&self.name),
        }
    }

    /// Drops the result of a call, which may not have come.
    pub(super) fn forget(&self, call: u64) {
        if self.original.is_current() {
            self.lock().calls.remove(&call);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
