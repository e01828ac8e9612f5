//! The program's side of a zygote: executes it, requests forks, and sends children their bootstrap messages.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::Signal;

use super::pid_page::PidPage;
use super::{COMM, Priority, Response, decode_response};
use crate::error::{Cause, Error, Origin, Result};
use crate::ipc::packet::{Incoming, Message, PacketSocket, Sent};
use crate::ipc::wire::{self, SharedMemory};
use crate::spawn::outcome::{PRELOADED, READY, decode_failure};
use crate::spawn::spawned_child::prepare;
use crate::spawn::supervisor::{self, Child};
use crate::sys::environment::EnvChanges;
use crate::sys::failpoint::{self, Failpoint};
use crate::sys::pidfd::{Exit, PidFd};
use crate::sys::poll::{Deadline, poll_any};
use crate::sys::stdio::stdout;
use crate::task::initializer::Initializer;

/// The longest time that a process that must end may take for it.
pub(crate) const EXIT_GRACE: Duration = Duration::from_secs(1);

/// A zygote of this process.
pub(crate) struct Zygote {
    pub(super) process: Arc<Child>,
    pub(super) start_socket: PacketSocket,
    pub(crate) pids: PidPage,
}

/// A child that a zygote has forked, and that waits for its bootstrap message.
pub(crate) struct ForkedChild {
    pub(crate) pid: u32,
    /// This child's if the bootstrap message can be sent: then the child has lived since it was forked.
    pub(crate) pidfd: PidFd,
    /// The parent's end of its start socket.
    pub(crate) start_socket: PacketSocket,
}

impl Zygote {
    /// Executes the program again, with this environment, to be a zygote that first runs these functions.
    /// Does not wait until it is ready.
    pub(crate) fn exec(environment: EnvChanges, preload: &[Initializer], deadline: Deadline) -> Result<Self> {
        let page = SharedMemory::create(PidPage::SIZE)?;
        let start = (page.clone(), preload.to_vec());
        let mut encode =
            |body: &mut Vec<u8>| wire::encode_internal_with_descriptors(&start, body, "a zygote's start");
        let spawned = prepare(COMM.to_owned(), None, &mut encode)?.exec(environment, None, deadline)?;
        let (process, start_socket) = spawned.into_parts();
        Ok(Self { process, start_socket, pids: PidPage(page.into_mapping()) })
    }

    /// Requests the fork with this number, counted from 0; returns the parent's end of the child's start
    /// socket, or `None` if the zygote is gone. Blocks while too many descriptors are in flight.
    pub(crate) fn request(
        &self,
        number: u64,
        priority: Priority,
        deadline: Deadline,
    ) -> Result<Option<PacketSocket>> {
        let (ours, theirs) = PacketSocket::pair()?;
        self.pids.word(number).store(0, Ordering::Relaxed);
        let request = Message::inline(priority.encode().to_vec());
        let sent = self.start_socket.send_with_fds(&[theirs.as_fd()], &request, deadline)?;
        failpoint::hit(Failpoint::ForkRequested);
        match sent {
            Sent::Done => Ok(Some(ours)),
            Sent::Disconnected => Ok(None),
            Sent::TimedOut => Err(Error::os("request a child process", Errno::ETOOMANYREFS)),
        }
    }

    /// Takes the response to the next request. Blocks until the deadline.
    pub(crate) fn response(&self, deadline: Deadline) -> Result<Response> {
        let mut has_waited = false;
        loop {
            // A forked child may still hold a copy of the zygote's end, and so hide its hang-up.
            let has_ended = has_waited && !self.process.is_alive(); // before the last message is received
            match self.start_socket.receive(Deadline::now())? {
                Incoming::Message(bytes, _) if bytes == READY => self.process.mark_started(),
                Incoming::Message(bytes, _) => match bytes.as_slice().try_into() {
                    Ok(bytes) => return Ok(decode_response(bytes)),
                    Err(_) => return Err(decode_failure(&bytes).or_with_origin(|| self.origin())),
                },
                Incoming::Disconnected => return Ok(Response::Exited),
                Incoming::TimedOut if has_ended => return Ok(Response::Exited),
                Incoming::TimedOut if deadline.is_over() => return Ok(Response::TimedOut),
                Incoming::TimedOut => {
                    poll_any(self.start_socket.as_fd(), self.process.as_fd(), deadline)?;
                    has_waited = true;
                }
            }
        }
    }

    pub(crate) fn process(&self) -> &Arc<Child> {
        &self.process
    }

    /// Blocks until it has run its functions, for `timeout` at most. Otherwise it is killed.
    pub(crate) fn wait_until_preloaded(&self, timeout: Duration) -> Result<()> {
        let deadline = Deadline::limit(timeout);
        let waited = self.receive_preloaded(deadline, timeout);
        if waited.is_err() {
            self.process.kill();
        }
        waited
    }

    fn receive_preloaded(&self, deadline: Deadline, timeout: Duration) -> Result<()> {
        loop {
            let has_ended = !self.process.is_alive(); // before the last message is received
            match self.start_socket.receive(Deadline::now())? {
                Incoming::Message(bytes, _) if bytes == READY => self.process.mark_started(),
                Incoming::Message(bytes, _) if bytes == PRELOADED => return Ok(()),
                Incoming::Message(bytes, _) => {
                    return Err(decode_failure(&bytes).or_with_origin(|| self.origin()));
                }
                Incoming::TimedOut if !has_ended && deadline.is_over() => {
                    let why = format!("its state was not preloaded within {} s", timeout.as_secs_f32());
                    return Err(Error::new(Cause::Start(why)).with_origin(self.origin()));
                }
                Incoming::TimedOut if !has_ended => {
                    poll_any(self.start_socket.as_fd(), self.process.as_fd(), deadline)?;
                }
                Incoming::TimedOut | Incoming::Disconnected => {
                    self.process.wait(Deadline::limit(EXIT_GRACE));
                    return Err(self.process.exit_error(self.origin()));
                }
            }
        }
    }

    /// Kills the zygote. If requests are pending, waits until it has ended and forks no more.
    pub(crate) fn kill(&self, has_pending: bool) {
        self.process.kill();
        if has_pending {
            self.process.wait(Deadline::limit(EXIT_GRACE));
        }
    }

    /// Ends a zygote that was silent or has hung up. An error means that another one would do no better.
    pub(crate) fn end(&self, is_silent: bool, timeout: Duration) -> Result<()> {
        let process = &self.process;
        let is_silent = is_silent && process.is_alive();
        let has_started = if is_silent { process.has_reported() } else { process.has_started() };
        match (is_silent, has_started) {
            (true, true) => process.kill(),
            (true, false) => process.kill_start_timeout(timeout),
            (false, _) if process.wait(Deadline::limit(EXIT_GRACE)).is_none() => process.kill(),
            (false, _) => {}
        }
        let exit = process.wait(Deadline::limit(EXIT_GRACE));
        match (is_silent, has_started, exit) {
            (true, true, _) => Err(Error::new(Cause::Start(format!(
                "the fork server (process {}) did not answer within {} s and was killed; the next start \
                 makes another",
                process.pid(),
                timeout.as_secs_f32()
            )))),
            (false, true, _) | (false, false, Some(Exit::Signal(_))) => Ok(()),
            (_, false, _) => Err(process.exit_error(self.origin())),
        }
    }

    fn origin(&self) -> Origin {
        Origin::Process { name: self.process.name().to_owned(), pid: self.process.pid() }
    }
}

impl ForkedChild {
    /// Sends it its bootstrap message, and this process's present standard output and error.
    pub(crate) fn send(&self, bootstrap: &Message, deadline: Deadline) -> Result<Sent> {
        let _ = self.pidfd.signal(Signal::SIGCONT); // a SIGSTOP to the process group may have stopped it
        let stderr = io::stderr();
        let mut streams = [stdout(), stderr.as_fd()];
        // A stream that is closed here, or whose number has another file by now, is /dev/null in the child.
        let null;
        if !streams.iter().all(|&fd| is_inherited(fd)) {
            null = File::options().write(true).open("/dev/null");
            let null = null.as_ref().map_err(|error| Error::io("open /dev/null", error))?;
            streams = streams.map(|fd| if is_inherited(fd) { fd } else { null.as_fd() });
        }
        let sent = self.start_socket.send_with_fds(&streams, bootstrap, deadline);
        failpoint::hit(Failpoint::BootstrapSent);
        sent
    }

    /// Ends a child that is not needed, or is dead, and has the supervisor reap it.
    pub(crate) fn end(self) {
        // A child that has hung up is dead. If other code has reaped it, its pid may be another child's.
        // One that is alive may have sent a crash report.
        let is_alive = self.start_socket.is_surely_connected()
            || matches!(self.start_socket.wait_for_hang_up(Deadline::now()), Ok(false));
        if let Ok(child) = supervisor::watch_internal(self.pid, self.pidfd, self.start_socket.handle())
            && is_alive
        {
            child.kill();
        }
    }
}

/// Whether an executed program would inherit it.
fn is_inherited(fd: BorrowedFd<'_>) -> bool {
    fcntl(fd, FcntlArg::F_GETFD).is_ok_and(|flags| flags & FdFlag::FD_CLOEXEC.bits() == 0)
}
