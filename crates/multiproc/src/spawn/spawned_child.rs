//! A child in its parent: first prepared (its bootstrap message is encoded), then executed or forked.
//!
//! The parent makes a pair of sockets. It sends the message over one end, and the child gets the other as
//! standard input or from the zygote. Nothing of this has a name in the file system or the environment.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::error::{Crash, Error, Origin, Result, crash_report};
use crate::ipc::packet::{Incoming, Message, OnShortage, PacketSocket, Sent};
use crate::spawn::bootstrap::{self, EncodeArgs, MAGIC};
use crate::spawn::outcome::{self, READY};
use crate::spawn::recorded_task::RecordedTask;
use crate::spawn::supervisor::{self, Child, SpawnRequest, lock};
use crate::sys::environment::EnvChanges;
use crate::sys::failpoint::{self, Failpoint};
use crate::sys::pidfd::PidFd;
use crate::sys::poll::Deadline;
use crate::task::TaskId;

/// A child that is not started: its bootstrap message is ready to be sent.
pub(crate) struct PreparedChild {
    name: String,
    bootstrap: Message,
}

/// Prepares a child with this task, or a zygote, which has none. `encode` appends the arguments to the
/// message, and returns its descriptors.
pub(super) fn prepare(
    name: String,
    task: Option<TaskId>,
    encode: &mut EncodeArgs<'_>,
) -> Result<PreparedChild> {
    let (body, descriptors) = bootstrap::encode(&name, task, encode)?;
    failpoint::hit(Failpoint::BootstrapWritten);
    Ok(PreparedChild { name, bootstrap: Message::new(body, descriptors)? })
}

impl PreparedChild {
    /// Executes the program to be this child. Does not wait until it reaches `init`, within `timeout`.
    pub(crate) fn exec(
        self,
        environment: EnvChanges,
        timeout: Option<Duration>,
        deadline: Deadline,
    ) -> Result<SpawnedChild> {
        environment.check()?;
        let Self { name, bootstrap } = self;
        let (ours, theirs) = PacketSocket::pair()?;
        // The magic number is in the packet even if the message is too large for it.
        if ours.send_with_prefix(MAGIC, &bootstrap, deadline)? != Sent::Done {
            return Err(Error::timeout("hand a child its task")); // too many descriptors are in flight
        }
        let socket = theirs.into_descriptor()?;
        let liveness_socket = ours.handle();
        let request = SpawnRequest { name, environment, socket, liveness_socket, timeout, deadline };
        let child = supervisor::start(request)?;
        Ok(SpawnedChild::new(child, ours))
    }

    /// The bootstrap message for a forked child. `None` if a packet cannot hold the standard streams, too.
    pub(crate) fn packet(&self) -> Option<&Message> {
        self.bootstrap.has_room_for_stdio().then_some(&self.bootstrap)
    }

    /// Has the supervisor watch a forked child that has received the message.
    pub(crate) fn watch(self, pid: u32, pidfd: PidFd, start_socket: PacketSocket) -> Result<SpawnedChild> {
        let child = supervisor::watch(pid, pidfd, self.name, start_socket.handle())?;
        Ok(SpawnedChild::new(child, start_socket))
    }
}

/// A child that was started, and the socket over which it sends its outcome.
pub(crate) struct SpawnedChild {
    pub(crate) child: Arc<Child>,
    start_socket: PacketSocket,
    /// The outcome, if it was received before the child's end, and when.
    outcome: Mutex<Option<(Outcome, Instant)>>,
    /// Its task, if that is recorded should it fail.
    kept: Mutex<Option<RecordedTask>>,
}

/// An encoded outcome, and its descriptors.
pub(crate) type Outcome = (Vec<u8>, Vec<OwnedFd>);

/// How long [`SpawnedChild::wait`] waits for the end of a child that has sent its outcome: it flushes its
/// output, and with `Spawn` runs exit handlers. Time for which the program is stopped counts: a program that
/// asks seldom whether the child has ended does not read the other [clock](crate::sys::running_time).
const LINGER_LIMIT: Duration = Duration::from_secs(5);
/// The maximum packets that are received at once. A child sends four at most, and a faulty one without end.
const MAX_PACKETS: u32 = 64;

impl SpawnedChild {
    fn new(child: Arc<Child>, start_socket: PacketSocket) -> Self {
        Self { child, start_socket, outcome: Mutex::default(), kept: Mutex::default() }
    }

    /// Has the task recorded if it fails.
    pub(super) fn recorded_as(self, task: Option<RecordedTask>) -> Self {
        Self { kept: Mutex::new(task), ..self }
    }

    pub(super) fn into_parts(self) -> (Arc<Child>, PacketSocket) {
        (self.child, self.start_socket)
    }

    /// Waits until the child has ended; returns whether that was before the deadline. A child whose outcome
    /// came 5 s ago counts as ended, too: it cannot write its output, and may never be able to.
    pub(crate) fn wait(&self, deadline: Deadline) -> bool {
        self.child.wait_or_until(deadline, || self.is_lingering()).is_some() || self.is_lingering()
    }

    fn is_lingering(&self) -> bool {
        let mut outcome = lock(&self.outcome);
        // A child that has reported a crash may write a core dump, and is about to die; or it goes on, and sends
        // its outcome, too.
        let is_over = |(bytes, _): &Outcome| !crash_report::is_report(bytes);
        // A child may send reports for as long as it lives.
        for _ in 0..MAX_PACKETS {
            if outcome.as_ref().is_some_and(|(outcome, _)| is_over(outcome)) {
                break;
            }
            let Some(next) = self.receive().and_then(Result::ok) else { break };
            *outcome = Some((next, Instant::now()));
        }
        outcome.as_ref().is_some_and(|(outcome, since)| is_over(outcome) && since.elapsed() >= LINGER_LIMIT)
    }

    /// The encoded result of a child that has ended, and its descriptors; or why there is none. Blocks until
    /// the failure is recorded, if it is to be.
    pub(crate) fn result(&self, origin: &dyn Fn() -> Origin) -> Result<Outcome> {
        self.receive_result(origin).map_err(|error| match lock(&self.kept).take() {
            Some(task) => task.record(error),
            None => error,
        })
    }

    fn receive_result(&self, origin: &dyn Fn() -> Origin) -> Result<Outcome> {
        let mut received = lock(&self.outcome).take().map(|(outcome, _)| Ok(outcome));
        let mut crash = None;
        loop {
            match received.take().or_else(|| self.receive()).transpose()? {
                // A handler of the program may have saved the child afterwards, and withdrawn the report.
                Some((bytes, _)) if crash_report::is_report(&bytes) => crash = Crash::decode(&bytes),
                Some((outcome, descriptors)) => return Ok((outcome::decode(outcome, origin)?, descriptors)),
                None => return Err(self.child.exit_error(origin()).with_crash(crash)),
            }
        }
    }

    /// Receives the outcome, if it is there.
    fn receive(&self) -> Option<Result<Outcome>> {
        for _ in 0..MAX_PACKETS {
            match self.start_socket.receive_or(OnShortage::Leave, Deadline::now()) {
                Ok(Incoming::Message(bytes, _)) if bytes == READY => self.child.mark_started(),
                Ok(Incoming::Message(bytes, descriptors)) => return Some(Ok((bytes, descriptors))),
                Ok(Incoming::TimedOut | Incoming::Disconnected) => return None,
                Err(error) => return Some(Err(error)),
            }
        }
        None
    }
}
