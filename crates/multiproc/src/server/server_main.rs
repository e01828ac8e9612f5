//! The server process: makes the state, and runs one call after the other on it.

use std::any::Any;
use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::mem;
use std::os::fd::OwnedFd;
use std::thread;
use std::time::Duration;

use super::message::{self, Connect, Request};
use super::replies::{Replies, ReplyOutcome};
use super::status_page::{self, CallId, StatusPage};
use crate::channel::endpoint::EndpointFds;
use crate::channel::{Layout, ReceiveOutcome, ReceiverCore};
use crate::error::{Cause, Error, Origin, Result};
use crate::impl_serde::impl_serde;
use crate::ipc::panic::ignore_panic;
use crate::ipc::wire::{self, SharedFd, SharedMemory};
use crate::sys::failpoint::{self, Failpoint};
use crate::sys::fork_detect::OriginalProcess;
use crate::sys::poll::Deadline;
use crate::sys::process::own_pid;
use crate::task::TaskId;
use crate::task::method::{CallMethod, EncodeState, MakeState};

/// What a server process is started with.
#[derive(Clone)]
pub(super) struct Start {
    pub(super) name: String,
    pub(super) memory: SharedMemory,
    /// Of the requests' receiving end.
    pub(super) fds: EndpointFds,
    pub(super) capacity: u32,
    pub(super) make: TaskId,
    pub(super) args: Vec<u8>,
    pub(super) descriptors: Vec<SharedFd>,
    /// A state that a panic leaves half changed is made again by the spawning process.
    pub(super) restarts: bool,
    /// The call during which an earlier process of this server died.
    pub(super) failed: Option<(CallId, Error)>,
}

impl_serde!(struct Start { name, memory, fds, capacity, make, args, descriptors, restarts, failed });

/// The channel of requests, after the page.
pub(super) const fn requests(capacity: u32) -> Layout {
    Layout::new(status_page::SIZE, 1024 * 1024, capacity).with_early_timeouts()
}

/// How long a server that ends waits for its callers to take their replies.
const FLUSH_LIMIT: Duration = Duration::from_secs(5);
/// How often a server tries to receive while it lacks descriptors or memory.
const TRIES: u32 = 500;
/// The interval between two tries.
const RETRY_AFTER: Duration = Duration::from_millis(10);

thread_local! {
    /// Whether this thread runs the methods of the process's server.
    static IS_SERVING: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread runs the methods of the server with this page.
pub(super) fn is_serving(page: StatusPage<'_>) -> bool {
    IS_SERVING.get() && page.pid() == own_pid()
}

/// Serves until the last handle is gone or the server is stopped. Returns why it cannot go on.
pub(super) fn serve(start: Start) -> Option<Error> {
    IS_SERVING.set(true);
    // A caller waits 2 s after a hang-up to learn of the end, so the channels stay open until the process ends.
    mem::forget(start.fds.clone());
    StatusPage(&start.memory).set_pid(own_pid());
    let mut server = match Server::new(start) {
        Ok(server) => server,
        Err(error) => return Some(error),
    };
    let error = server.serve_all();
    server.end();
    mem::forget(mem::take(&mut server.callers));
    error
}

/// What to do after a request.
enum Next {
    Continue,
    End,
    Fail(Error),
}

/// The number of a call, its reply, and the reply's descriptors.
type Undelivered = (u64, Vec<u8>, Vec<SharedFd>);

struct Server {
    /// A copy that a method forks and lets return must not serve.
    original: OriginalProcess,
    requests: ReceiverCore,
    memory: SharedMemory,
    name: String,
    state: Box<dyn Any>,
    restarts: bool,
    /// The method that panicked, after which the state is in doubt.
    poisoned: Option<&'static str>,
    callers: HashMap<u64, Replies>,
    /// The last caller that may have connected to an earlier process.
    last_earlier_caller: u64,
    /// Those up to that one that have connected to this process. Some of them may be gone.
    connected_again: HashSet<u64>,
    /// Replies to callers that have not connected again after a restart. They sent those calls to an earlier
    /// process, so there are no more of them than the capacity.
    undelivered: HashMap<u64, Vec<Undelivered>>,
    failed: Option<(CallId, Error)>,
    /// How often receiving has failed in a row.
    failures: u32,
    request: Vec<u8>,
    reply: Vec<u8>,
}

impl Server {
    fn new(start: Start) -> Result<Self> {
        let requests = ReceiverCore::open(requests(start.capacity), start.memory.clone(), start.fds)?;
        requests.reset_lock();
        requests.discard_orphans()?; // a caller whose channel an earlier process has taken connects again
        let last_earlier_caller = StatusPage(&start.memory).last_caller();
        let descriptors = descriptors(start.descriptors)?;
        let original = OriginalProcess::current();
        let state = start.make.find::<MakeState>()?.run(&start.args, descriptors);
        original.exit_if_copy();
        let state = state?;
        Ok(Self {
            original,
            requests,
            memory: start.memory,
            name: start.name,
            state,
            restarts: start.restarts,
            poisoned: None,
            callers: HashMap::new(),
            last_earlier_caller,
            connected_again: HashSet::new(),
            undelivered: HashMap::new(),
            failed: start.failed,
            failures: 0,
            request: Vec::new(),
            reply: Vec::new(),
        })
    }

    /// Serves to the end. Returns why it cannot go on.
    fn serve_all(&mut self) -> Option<Error> {
        loop {
            match self.serve_next() {
                Ok(Next::Continue) => {}
                Ok(Next::End) => {
                    StatusPage(&self.memory).begin_end();
                    return None;
                }
                Err(error) if error.is_codec() => {} // of a caller's channel, which another process has overwritten
                Ok(Next::Fail(error)) | Err(error) => return Some(error),
            }
        }
    }

    /// Drops the state, and waits until the callers have taken their replies, or are gone: else these were lost with
    /// the process.
    fn end(&mut self) {
        ignore_panic(|| drop(mem::replace(&mut self.state, Box::new(()))));
        self.original.exit_if_copy();
        let deadline = Deadline::limit(FLUSH_LIMIT);
        self.callers.values_mut().for_each(|replies| replies.flush(deadline));
    }

    /// Receives one request and does it.
    fn serve_next(&mut self) -> Result<Next> {
        if self.failed.is_some() && self.requests.end().len() == 0 {
            self.report_failed();
        }
        let mut bytes = mem::take(&mut self.request);
        bytes.clear();
        let page = StatusPage(&self.memory);
        let note = |bytes: &[u8]| match Request::read(bytes) {
            Some((Request::Call(method), id, _)) => {
                page.begin(id, method);
                failpoint::hit(Failpoint::CallNoted);
            }
            Some((Request::Stop(_), ..)) => page.begin_end(), // the process may die before it has encoded the state
            _ => {}
        };
        let take = |frame: &[u8]| {
            note(frame);
            bytes.extend_from_slice(frame);
        };
        let received = self.requests.receive_noting(1, Deadline::Never, take, note);
        if !received.as_ref().is_err_and(|error| !error.is_codec()) {
            self.failures = 0;
        }
        let next = match received {
            Ok(ReceiveOutcome::PassedToClosure) => self.serve_request(&bytes, Vec::new()),
            Ok(ReceiveOutcome::Owned(bytes, descriptors)) => self.serve_request(&bytes, descriptors),
            Ok(ReceiveOutcome::TimedOut) => Ok(self.after_silence()),
            Ok(ReceiveOutcome::Disconnected) => Ok(Next::End),
            // Overwritten memory. Which requests are lost is not known; their callers learn it from the end.
            Err(error) if error.is_codec() => Ok(Next::Fail(error)),
            Err(error) if self.failures == TRIES => Err(error),
            Err(_) => {
                self.failures += 1;
                self.drop_lost_callers();
                thread::sleep(RETRY_AFTER);
                Ok(Next::Continue)
            }
        };
        self.request = bytes;
        next
    }

    /// What to do when no request came for half a second. The memory of the requests may have been overwritten, so that
    /// a lock seems to be held: the receivers', which no other thread takes, or that of the senders, of which none is
    /// left.
    fn after_silence(&self) -> Next {
        let has_hung_up = self.requests.end().peer_hung_up(); // first: what was sent before is counted
        match self.requests.end().len() {
            0 if has_hung_up => return Next::End,
            0 => {}
            _ => self.requests.reset_lock(),
        }
        Next::Continue
    }

    fn serve_request(&mut self, bytes: &[u8], descriptors: Vec<OwnedFd>) -> Result<Next> {
        let Some((request, id, rest)) = Request::read(bytes) else {
            return Ok(Next::Fail(Error::decode("a call", "the message is not a call")));
        };
        // The call that failed comes again if the server before has only noted it, and not begun it.
        match self.failed.take_if(|(failed, _)| *failed == id) {
            Some(_) => {}
            None => self.report_failed(),
        }
        match request {
            Request::Call(method) => self.call(id, method, rest, descriptors),
            Request::Stop(encode) => self.stop(id, encode),
            Request::ClearPoison => self.clear_poison(id),
            Request::Connect => {
                let Ok(connect) = self.connect(id.caller, rest, descriptors) else {
                    StatusPage(&self.memory).refuse(id.caller);
                    return Ok(Next::Continue);
                };
                self.tell(id.caller, connect)
            }
        }
    }

    fn call(&mut self, id: CallId, method: TaskId, args: &[u8], descriptors: Vec<OwnedFd>) -> Result<Next> {
        failpoint::hit(Failpoint::CallTaken);
        let mut reply = mem::take(&mut self.reply);
        reply.clear();
        message::begin_reply(id.call, &mut reply);
        let result = match (self.poisoned, method.find::<CallMethod>()) {
            (Some(panicked), _) => Err(Error::new(Cause::StatePoisoned(panicked.to_owned()))),
            (None, Err(error)) => Err(error),
            (None, Ok(method)) => method
                .run(&mut *self.state, args, descriptors, &mut reply)
                .inspect_err(|error| self.poisoned = error.is_panic().then(|| method.name())),
        };
        self.original.exit_if_copy();
        failpoint::hit(Failpoint::CallRan);
        let next = match result {
            Ok(descriptors) => self.reply(id, &reply, &descriptors).map(|()| Next::Continue),
            Err(error) => self.fail(id, error),
        };
        failpoint::hit(Failpoint::ReplySent);
        StatusPage(&self.memory).finish();
        self.reply = reply;
        next
    }

    /// Replies with an error. After a panic that is the end of a server whose state is made again.
    fn fail(&mut self, id: CallId, error: Error) -> Result<Next> {
        let error = error.or_with_origin(|| self.origin());
        self.reply(id, &message::failure(id.call, &error), &[])?;
        Ok(if self.restarts && error.is_panic() { Next::Fail(error) } else { Next::Continue })
    }

    fn stop(&mut self, id: CallId, encode: TaskId) -> Result<Next> {
        let mut reply = Vec::new();
        message::begin_reply(id.call, &mut reply);
        let encoded = match self.poisoned {
            Some(panicked) => Err(Error::new(Cause::StatePoisoned(panicked.to_owned()))),
            None => encode.find::<EncodeState>().and_then(|encode| encode.run(&*self.state, &mut reply)),
        };
        self.original.exit_if_copy();
        match encoded {
            Ok(descriptors) => self.reply(id, &reply, &descriptors)?,
            Err(error) => {
                let error = error.or_with_origin(|| self.origin());
                self.reply(id, &message::failure(id.call, &error), &[])?;
            }
        }
        Ok(Next::End)
    }

    fn clear_poison(&mut self, id: CallId) -> Result<Next> {
        self.poisoned = None;
        let mut reply = Vec::new();
        message::begin_reply(id.call, &mut reply);
        wire::encode(&(), &mut reply, "nothing")?;
        self.reply(id, &reply, &[]).map(|()| Next::Continue)
    }

    /// Opens a caller's channel.
    fn connect(&mut self, caller: u64, bytes: &[u8], descriptors: Vec<OwnedFd>) -> Result<Connect> {
        let mut connect: Connect = wire::decode_internal(bytes, descriptors, "a caller")?;
        if let Some(channel) = connect.channel.take() {
            self.drop_lost_callers();
            self.callers.insert(caller, Replies::new(message::open_replies(channel)?));
            if caller <= self.last_earlier_caller {
                self.connected_again.insert(caller);
            }
        }
        Ok(connect)
    }

    /// Tells a caller that has connected what it has missed.
    fn tell(&mut self, caller: u64, connect: Connect) -> Result<Next> {
        failpoint::hit(Failpoint::CallerConnected);
        for (call, reply, descriptors) in self.undelivered.remove(&caller).unwrap_or_default() {
            self.reply(CallId { caller, call }, &reply, &descriptors)?;
        }
        let lost = Error::new(Cause::ReplyLost).with_origin(self.origin());
        for call in connect.open_calls {
            self.reply(CallId { caller, call }, &message::failure(call, &lost), &[])?;
        }
        Ok(Next::Continue)
    }

    fn reply(&mut self, id: CallId, reply: &[u8], descriptors: &[SharedFd]) -> Result<()> {
        let CallId { caller, call } = id;
        if let Some(replies) = self.callers.get_mut(&caller) {
            let outcome = replies.send(call, reply, descriptors)?;
            if outcome == ReplyOutcome::Refused {
                StatusPage(&self.memory).refuse(caller); // before its channel hangs up
            }
            if outcome != ReplyOutcome::Done {
                self.callers.remove(&caller);
            }
        } else if self.may_connect_again(caller) {
            let waiting = self.undelivered.entry(caller).or_default();
            waiting.push((call, reply.to_vec(), descriptors.to_vec()));
        }
        Ok(())
    }

    /// Whether a caller that is not connected may be one of an earlier process. Else it is gone.
    fn may_connect_again(&self, caller: u64) -> bool {
        self.restarts && caller <= self.last_earlier_caller && !self.connected_again.contains(&caller)
    }

    /// Tells the caller of the failed call how it failed.
    fn report_failed(&mut self) {
        if let Some((id, error)) = self.failed.take() {
            let reply = message::failure(id.call, &error);
            self.undelivered.entry(id.caller).or_default().push((id.call, reply, Vec::new()));
        }
    }

    /// Frees the descriptors of callers that are gone.
    fn drop_lost_callers(&mut self) {
        self.callers.retain(|_, replies| !replies.caller_is_gone());
    }

    fn origin(&self) -> Origin {
        StatusPage(&self.memory).origin_of(&self.name, own_pid())
    }
}

/// The descriptors of the state's arguments.
fn descriptors(shared: Vec<SharedFd>) -> Result<Vec<OwnedFd>> {
    shared.into_iter().map(SharedFd::into_descriptor).collect()
}
