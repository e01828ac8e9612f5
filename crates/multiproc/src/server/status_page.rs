//! The page of a server in shared memory: whether it runs, how it ended, and which call it is running.
//!
//! The spawning process writes how the server ended. A server that dies cannot say what it was doing, so it
//! notes each call before it takes it.

use std::time::Duration;

use crate::error::{Cause, Error, Origin, Result};
use crate::impl_serde::impl_serde;
use crate::ipc::event_count::{EventCount, Ticket};
use crate::ipc::ring::just_before_overflow;
use crate::ipc::wire::{self, SharedMemory};
use crate::sys::atomic::{Acquire, AtomicU64, Relaxed, Release};
use crate::sys::thread_id::ThreadId;
use crate::task::TaskId;
use crate::task::method::CallMethod;

/// The size in bytes; the requests' channel follows.
pub(super) const SIZE: usize = ERROR + MAX_ERROR;

/// The beginning of memory that the request channel lies in, too.
#[derive(Clone, Copy)]
pub(super) struct StatusPage<'a>(pub(super) &'a SharedMemory);

/// A call among all of a server: its caller's number, and its number at the caller, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CallId {
    pub(super) caller: u64,
    pub(super) call: u64,
}

impl_serde!(struct CallId { caller, call });

/// How a server ended for good.
pub(super) struct End {
    pub(super) error: Error,
    /// The call during which an earlier process of the server died, if its caller was not told.
    pub(super) failed: Option<(CallId, Error)>,
}

impl_serde!(struct End { error, failed });

impl End {
    /// The error of a call that has no reply; `running` is the call that was running at the end.
    pub(super) fn error_of(&self, id: CallId, running: Option<CallId>) -> Error {
        match &self.failed {
            Some((failed, error)) if *failed == id => error.clone(),
            _ if running == Some(id) => self.error.clone(),
            _ => self.error.clone().while_waiting(),
        }
    }
}

/// The offsets of the words. The status is the number of restarts times 2, plus 1 if the server has ended.
const EVENTS: usize = 0;
const IS_ENDING: usize = 4;
const STATUS: usize = 8;
const CALL: usize = 16;
const CALLER: usize = 24;
const METHOD: [usize; 2] = [32, 40];
const CALLERS: usize = 48;
const MONITOR: usize = 56;
const PID: usize = 64;
const ERROR_LENGTH: usize = 72;
/// A word for the callers whose numbers have the same remainder.
const REFUSED: usize = 80;
const REFUSED_WORDS: usize = 64;
const ERROR: usize = REFUSED + 8 * REFUSED_WORDS;
/// Memory that is not written takes no room.
const MAX_ERROR: usize = 64 * 1024 - ERROR;

const ENDED: u64 = 1;

/// Whether this is the status of a server that has ended.
pub(super) fn is_end(status: u64) -> bool {
    status & ENDED != 0
}

impl StatusPage<'_> {
    /// Sets the counters of a new page.
    pub(super) fn init(self) {
        self.0.word32(EVENTS).store(just_before_overflow(16), Relaxed);
        // An even number of restarts, times 2.
        self.0.word64(STATUS).store(just_before_overflow(4).into(), Relaxed);
        self.0.word64(CALLERS).store(just_before_overflow(2).into(), Relaxed);
    }

    /// A number for a caller that no other one has, from 1.
    pub(super) fn new_caller(self) -> u64 {
        self.0.word64(CALLERS).fetch_add(1, Relaxed).wrapping_add(1)
    }

    /// The latest of these numbers.
    pub(super) fn last_caller(self) -> u64 {
        self.0.word64(CALLERS).load(Relaxed)
    }

    pub(super) fn status(self) -> u64 {
        self.0.word64(STATUS).load(Acquire)
    }

    pub(super) fn has_ended(self) -> bool {
        is_end(self.status())
    }

    pub(super) fn pid(self) -> u32 {
        u32::try_from(self.0.word64(PID).load(Relaxed)).unwrap_or(0)
    }

    pub(super) fn set_pid(self, pid: u32) {
        self.0.word64(PID).store(pid.into(), Relaxed);
    }

    /// Names the thread that will write how the server ended.
    pub(super) fn set_monitor(self, thread: ThreadId) {
        self.0.word64(MONITOR).store(thread.bits(), Relaxed);
    }

    pub(super) fn monitor(self) -> ThreadId {
        ThreadId::from_bits(self.0.word64(MONITOR).load(Relaxed))
    }

    /// Notes the call that is about to be taken. The order matters to whoever reads this after a death: a call
    /// is noted with its own caller and method, or not at all.
    pub(super) fn begin(self, id: CallId, method: TaskId) {
        let [offset, signature] = method.words();
        self.0.word64(CALL).store(0, Relaxed);
        self.0.word64(CALLER).store(id.caller, Release);
        self.0.word64(METHOD[0]).store(offset, Release);
        self.0.word64(METHOD[1]).store(signature, Release);
        self.0.word64(CALL).store(id.call, Release);
    }

    pub(super) fn finish(self) {
        self.0.word64(CALL).store(0, Release);
    }

    /// The call that the server was running when it ended.
    pub(super) fn running(self) -> Option<CallId> {
        let call = self.0.word64(CALL).load(Acquire);
        (call != 0).then(|| CallId { caller: self.0.word64(CALLER).load(Relaxed), call })
    }

    /// The name of the method of that call.
    pub(super) fn running_method(self) -> Option<String> {
        self.running()?;
        let task = TaskId::from_words(METHOD.map(|offset| self.0.word64(offset).load(Relaxed)));
        task.find::<CallMethod>().ok().map(|method| method.name().to_owned())
    }

    /// Says that the server lacks memory for a caller's channel, which it has closed.
    pub(super) fn refuse(self, caller: u64) {
        self.refused(caller).store(caller, Release);
        self.events().notify_all();
    }

    /// Whether the server has refused this caller since the last call.
    pub(super) fn take_refusal(self, caller: u64) -> bool {
        self.refused(caller).compare_exchange(caller, 0, Acquire, Relaxed).is_ok()
    }

    fn refused(&self, caller: u64) -> &AtomicU64 {
        self.0.word64(REFUSED + 8 * (usize::try_from(caller).unwrap_or(0) % REFUSED_WORDS))
    }

    /// Notes that the server ends as it should: it was stopped, or its last handle is gone.
    pub(super) fn begin_end(self) {
        self.0.word32(IS_ENDING).store(1, Relaxed);
    }

    /// Whether it does. However its process ends then, its state is not made again.
    pub(super) fn is_ending(self) -> bool {
        self.0.word32(IS_ENDING).load(Relaxed) != 0
    }

    /// Says that the state is being made again: callers connect again.
    pub(super) fn restart(self) {
        self.finish();
        self.0.word64(STATUS).fetch_add(2, Release);
        self.events().notify_all();
    }

    /// Says how the server ended.
    pub(super) fn end(self, end: &End) {
        let mut bytes = Vec::new();
        let encoded = wire::encode_internal(end, &mut bytes, "a server's end");
        if encoded.is_ok() && bytes.len() <= MAX_ERROR {
            self.0.store_bytes(ERROR, &bytes);
            self.0.word64(ERROR_LENGTH).store(bytes.len() as u64, Relaxed);
        }
        self.0.word64(STATUS).fetch_or(ENDED, Release);
        self.events().notify_all();
    }

    /// How the server ended, as the spawning process wrote it.
    pub(super) fn read_end(self, name: &str) -> End {
        let length = usize::try_from(self.0.word64(ERROR_LENGTH).load(Relaxed)).unwrap_or(0);
        if length == 0 || length > MAX_ERROR {
            return End { error: self.unknown_end(name), failed: None };
        }
        let mut bytes = vec![0; length];
        self.0.load_bytes(ERROR, &mut bytes);
        let decoded: Result<End> = wire::decode_internal(&bytes, Vec::new(), "a server's end");
        decoded.unwrap_or_else(|_| End { error: self.unknown_end(name), failed: None })
    }

    /// The error of a server of whose end nothing is known.
    pub(super) fn unknown_end(self, name: &str) -> Error {
        Error::new(Cause::StatusLost).with_origin(self.origin(name))
    }

    /// The server, with the method that it was running when it ended.
    pub(super) fn origin(self, name: &str) -> Origin {
        self.origin_of(name, self.pid())
    }

    pub(super) fn origin_of(self, name: &str, pid: u32) -> Origin {
        Origin::Server { name: name.to_owned(), pid, running: self.running_method(), waiting: None }
    }

    /// To be called before the last check of the status.
    pub(super) fn prepare_wait(self) -> Ticket {
        self.events().prepare_wait()
    }

    /// Sleeps until the status changes, for `time` at most.
    pub(super) fn wait(self, ticket: Ticket, time: Duration) {
        self.events().wait(ticket, Some(time));
    }

    fn events(&self) -> EventCount<'_> {
        EventCount(self.0.word32(EVENTS))
    }
}
