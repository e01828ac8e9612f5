//! The supervisor: liveness sockets, time limits of starts, and exits before `init`.

use std::os::fd::AsFd;
use std::process::Command;

use nix::errno::Errno;

use super::*;
use crate::sys::pidfd::Exit;
use crate::sys::poll::{PollFlags, ready};
use crate::sys::socket;

/// A child that lives until it is killed, or this process ends; and a copy of its end of its liveness socket.
pub(crate) fn child() -> (Arc<Child>, OwnedFd) {
    child_in(SpawnPhase::Ready)
}

fn child_in(phase: SpawnPhase) -> (Arc<Child>, OwnedFd) {
    let (ours, theirs) = socket::pair().unwrap();
    let copy = theirs.try_clone().unwrap();
    #[allow(clippy::zombie_processes)] // it is reaped by its pid
    let pid = Command::new("cat").stdin(theirs).spawn().unwrap().id();
    let pidfd = PidFd::of_child(pid).unwrap();
    let new = NewChild {
        pid,
        pidfd,
        name: "cat".to_owned(),
        liveness_socket: ours.into(),
        is_internal: false,
        phase,
    };
    (register(new).unwrap(), copy)
}

/// If it were, the supervisor would get the same event without end.
fn is_watched(child: &Child) -> bool {
    let supervisor = child.supervisor().unwrap();
    supervisor.epoll.delete(child.liveness_socket.as_fd()) != Err(Errno::ENOENT)
}

const KILLED: Option<Exit> = Some(Exit::Signal(Signal::SIGKILL as i32));

#[test]
fn the_liveness_socket_of_an_ended_child_is_not_watched() {
    let (child, _other) = child();
    child.set_on_change(Arc::new(|| ()));
    child.kill();
    assert_eq!(child.wait(Deadline::Never), KILLED);
    assert!(!is_watched(&child));
    child.set_on_change(Arc::new(|| ()));
    assert!(!is_watched(&child));
}

#[test]
fn a_request_is_waited_for_until_its_deadline() {
    let (child, _other) = child();
    let supervisor = Supervisor::get().unwrap();
    let children = lock(&supervisor.children); // the thread comes no further than this
    child.kill();
    assert!(ready(child.as_fd(), PollFlags::POLLIN, Deadline::Never).unwrap());
    let (ours, socket) = socket::pair().unwrap();
    let request = SpawnRequest {
        name: "late".to_owned(),
        environment: EnvChanges::default(),
        socket,
        liveness_socket: ours.into(),
        timeout: None,
        deadline: Deadline::after(Duration::from_millis(50)),
    };
    let error = start(request).err().unwrap();
    assert!(error.to_string().contains("has not executed the program in time"), "{error}");
    drop(children);
    assert_eq!(child.wait(Deadline::Never), KILLED);
}

#[test]
fn a_child_that_reports_too_late_has_timed_out() {
    let deadline = child::StartDeadline::after(Duration::ZERO);
    let (child, _other) = child_in(SpawnPhase::Starting(deadline));
    assert!(!child.is_starting(deadline.unwrap().at));
    child.mark_started();
    assert!(!child.has_started() && child.start_deadline().is_none());
    assert_eq!(child.wait(Deadline::Never), KILLED);
    let origin = || crate::error::Origin::Worker { pid: child.pid() };
    assert!(child.exit_error(origin()).to_string().contains("did not reach multiproc::init() within 0 s"));
}

/// The message that a child has reached `init` can be received after its exit was seen.
#[test]
fn an_exit_before_init_is_a_start_failure() {
    let (child, _other) = child_in(SpawnPhase::Starting(None));
    socket::hang_up(child.liveness_socket.as_fd()); // `cat` reads the end of its input, and exits
    assert_eq!(child.wait(Deadline::Never), Some(Exit::Code(0)));
    let origin = || crate::error::Origin::Worker { pid: child.pid() };
    assert!(child.exit_error(origin()).to_string().contains("exited with code 0 before it reached"));
    child.mark_started();
    assert_eq!(child.exit_error(origin()).exit_code(), Some(0));
}
