//! Runs a child's task, and reports its outcome to the parent.

use std::sync::{Mutex, OnceLock};

use crate::error::{Error, Result};
use crate::ipc::packet::{Message, PacketSocket, Sent};
use crate::ipc::panic::catch_panic;
use crate::logs;
use crate::spawn::bootstrap::ChildStart;
use crate::spawn::outcome::{self, READY};
use crate::spawn::{fork_server, supervisor::lock};
use crate::sys::failpoint::{self, Failpoint};
use crate::sys::poll::Deadline;
use crate::sys::process::{exit_immediately, own_pid};
use crate::trace;

/// Runs the task and reports its outcome; returns the exit code.
///
/// The outcome goes first, so output that cannot be written does not hold it up. The caller flushes after
/// that, and the parent waits for the child's end before it takes the outcome.
pub(super) fn run_task(start_socket: &PacketSocket, start: ChildStart) -> i32 {
    let ChildStart { name, task, args, descriptors, logs, trace } = start;
    let pid = own_pid();
    let mut outcome = outcome::returned();
    let task = task.unwrap_or_else(|| Err(Error::decode("a child's start", "it has no task")));
    failpoint::hit(Failpoint::BootstrapDecoded);
    if let Some(link) = trace {
        trace::install(link, &name);
    }
    let started = call_start_functions();
    // Behind the program's own functions, which may set a logger.
    if let Some(link) = logs {
        logs::install(link, &name);
    }
    let result = started
        .and(task)
        .and_then(|task| trace::task(task.name(), || task.run(&args, descriptors, &mut outcome)));
    if own_pid() != pid {
        exit_immediately(0); // a copy that the task has forked and let return
    }
    failpoint::hit(Failpoint::Returned);
    let code = match result.and_then(|descriptors| Message::new(outcome, descriptors)) {
        Ok(outcome) => send_outcome(start_socket, &outcome, 0),
        Err(error) => report_failure(start_socket, &error),
    };
    // Otherwise its processes would end a moment later, as orphans for another process to reap.
    let _ = fork_server::stop();
    code
}

/// Functions that [`at_start`](crate::at_start) has added.
static ADDED: Mutex<Vec<fn()>> = Mutex::new(Vec::new());

/// Those that children call. Reading it writes to no page, as locking a mutex would.
static START_FUNCTIONS: OnceLock<Vec<fn()>> = OnceLock::new();

pub(crate) fn add_start_function(function: fn()) {
    lock(&ADDED).push(function);
}

/// Called once, before any task: no function can be added any more.
pub(crate) fn freeze_start_functions() {
    let _ = START_FUNCTIONS.set(std::mem::take(&mut *lock(&ADDED)));
}

pub(crate) fn call_start_functions() -> Result<()> {
    START_FUNCTIONS.get().into_iter().flatten().try_for_each(catch_panic)
}

/// Reports an error; returns the exit code that goes with it.
fn report_failure(start_socket: &PacketSocket, error: &Error) -> i32 {
    let code = failure_code(error);
    let message = outcome::failed(error).and_then(|outcome| Message::new(outcome, Vec::new()));
    message.map_or(code, |outcome| send_outcome(start_socket, &outcome, code))
}

/// The exit code of a child whose task has failed: 101 as for a panic in `main`.
pub(crate) fn failure_code(error: &Error) -> i32 {
    if error.is_panic() { 101 } else { 1 }
}

/// Sends the outcome. That the parent has dropped the socket is no error: it has detached the child. If a
/// result cannot be sent, reports that instead.
fn send_outcome(start_socket: &PacketSocket, outcome: &Message, code: i32) -> i32 {
    let sent = start_socket.send(outcome, Deadline::Never);
    failpoint::hit(Failpoint::ResultReported);
    match sent {
        Err(error) if code == 0 => report_failure(start_socket, &error),
        _ => code,
    }
}

/// Reports that this process has reached `init`. Exits if it cannot, usually since the parent is gone.
pub(super) fn report_ready(start_socket: &PacketSocket) {
    match start_socket.send(&Message::inline(READY.to_vec()), Deadline::Never) {
        Ok(Sent::Done) => {}
        Ok(Sent::TimedOut | Sent::Disconnected) => fail_start(start_socket, &Error::disconnected("parent")),
        Err(error) => fail_start(start_socket, &error),
    }
}

/// Reports why this process cannot start, and exits.
pub(super) fn fail_start(start_socket: &PacketSocket, error: &Error) -> ! {
    report_failure(start_socket, error);
    exit_immediately(1)
}
