//! The supervisor thread: starts executed children on request, kills late ones, and reaps ended ones.

use std::os::fd::AsFd;
use std::sync::mpsc;
use std::sync::{Arc, Weak};
use std::thread::Builder;

use nix::sys::epoll::{EpollEvent, EpollTimeout};

use super::child::{NewChild, SpawnPhase, StartDeadline};
use super::{
    Child, HUNG_UP, ON_PREFORKED_HANGUP, PREFORKED, ReplySlot, SpawnReply, SpawnRequest, Supervisor, WAKEUP,
    lock,
};
use crate::error::{Error, Result};
use crate::sys::exec::exec_self;
use crate::sys::poll::{Deadline, milliseconds};
use crate::sys::privileges::execute_by_this_thread;
use crate::sys::running_time::RunningTime;
use crate::sys::signals::with_signals_blocked;

type Requests = mpsc::Receiver<(SpawnRequest, SpawnReply)>;

pub(super) fn start(shared: Arc<Supervisor>, requests: Requests) -> Result<()> {
    let supervisor = SupervisorThread { shared, requests, starting: Vec::new() };
    let thread = Builder::new().name("mp-supervisor".to_owned()).stack_size(256 * 1024);
    with_signals_blocked(|| thread.spawn(move || supervisor.run()))
        .map_err(|error| Error::io("start the supervisor thread", &error))?;
    Ok(())
}

/// The thread's own state.
struct SupervisorThread {
    shared: Arc<Supervisor>,
    requests: Requests,
    /// Children that may still have a start deadline.
    starting: Vec<Weak<Child>>,
}

impl SupervisorThread {
    fn run(mut self) {
        execute_by_this_thread();
        let mut events = [EpollEvent::empty(); 64];
        loop {
            // The only possible error is EINTR.
            let count = self.shared.epoll.wait(&mut events, self.timeout()).unwrap_or(0);
            for event in &events[..count] {
                match event.data() {
                    WAKEUP => self.take_requests(),
                    PREFORKED => drop(ON_PREFORKED_HANGUP.get().get().map(|on_hangup| on_hangup())),
                    id if id & HUNG_UP != 0 => self.mark_hung_up(id & !HUNG_UP),
                    id => self.reap(id),
                }
            }
            self.kill_late();
        }
    }

    fn take_requests(&mut self) {
        let _ = self.shared.wakeup.read();
        while let Ok((request, reply)) = self.requests.try_recv() {
            if !request.deadline.is_over() {
                let _ = reply.send(ReplySlot(Some(self.execute(request))));
            }
        }
    }

    fn execute(&mut self, request: SpawnRequest) -> Result<Arc<Child>> {
        let SpawnRequest { name, environment, socket, liveness_socket, timeout, .. } = request;
        let (pid, pidfd) = exec_self(socket, &environment)?;
        let is_internal = timeout.is_none();
        let deadline = timeout.and_then(StartDeadline::after);
        let phase = SpawnPhase::Starting(deadline);
        let child =
            self.shared.register(NewChild { pid, pidfd, name, liveness_socket, is_internal, phase })?;
        if deadline.is_some() {
            self.starting.push(Arc::downgrade(&child));
        }
        Ok(child)
    }

    fn mark_hung_up(&self, id: u64) {
        let Some(child) = self.shared.child(id) else { return };
        let _ = self.shared.epoll.delete(child.liveness_socket.as_fd()); // the event would repeat
        child.mark_hung_up();
    }

    fn reap(&self, id: u64) {
        let Some(child) = lock(&self.shared.children).remove(&id) else { return };
        child.reap();
        // If these fail, the events end with the descriptors.
        let _ = self.shared.epoll.delete(&child);
        let _ = self.shared.epoll.delete(child.liveness_socket.as_fd());
    }

    /// Kills children that have not reached `init` by their start deadline.
    fn kill_late(&mut self) {
        if !self.starting.is_empty() {
            let now = RunningTime::now();
            self.starting.retain(|child| child.upgrade().is_some_and(|child| child.is_starting(now)));
        }
    }

    fn timeout(&self) -> EpollTimeout {
        let deadlines = self.starting.iter().filter_map(|child| child.upgrade()?.start_deadline());
        let deadline = deadlines.map(|deadline| deadline.at).min().map_or(Deadline::Never, Deadline::Running);
        milliseconds(deadline)
            .map_or(EpollTimeout::NONE, |ms| EpollTimeout::try_from(ms).unwrap_or(EpollTimeout::MAX))
    }
}
