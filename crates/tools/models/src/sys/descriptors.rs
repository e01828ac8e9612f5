//! Eventfds and sockets: descriptors of the kernel, so that the library's types hold them, with a state under
//! loom's control.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex as StdMutex};
use std::time::Duration;

use loom::sync::{Condvar, Mutex};
use nix::sys::eventfd::EventFd;

use super::failpoint::is_dead;
use super::poll::PollEvents;
use super::{Mutation, liveness_checks};
use crate::error::Result;

/// An eventfd is set while it is readable, and a socket once its connection is shut down.
struct State {
    is_set: Mutex<bool>,
    change: Condvar,
}

loom::lazy_static! {
    /// In the order in which they were made: the numbers depend on other tests.
    static ref STATES: StdMutex<Vec<(RawFd, Arc<State>)>> = StdMutex::new(Vec::new());
}

/// Descriptors of the same thing.
fn create<const COUNT: usize>() -> [OwnedFd; COUNT] {
    let state = Arc::new(State { is_set: Mutex::new(false), change: Condvar::new() });
    [(); COUNT].map(|()| {
        let fd = OwnedFd::from(EventFd::new().unwrap());
        STATES.lock().unwrap().push((fd.as_raw_fd(), Arc::clone(&state)));
        fd
    })
}

fn state_of(fd: BorrowedFd<'_>) -> Arc<State> {
    let states = STATES.lock().unwrap();
    let known = states.iter().rev().find(|(known, _)| *known == fd.as_raw_fd());
    Arc::clone(&known.expect("a descriptor of this model").1)
}

impl State {
    fn set(&self) {
        *self.is_set.lock().unwrap() = true;
        self.change.notify_all();
    }

    fn is_set(&self) -> bool {
        *self.is_set.lock().unwrap()
    }
}

/// Has all threads that poll look again.
pub(super) fn wake_all() {
    let states = STATES.lock().unwrap().clone();
    for (_, state) in states {
        let _is_set = state.is_set.lock().unwrap();
        state.change.notify_all();
    }
}

/// Without a time limit, it blocks until one of the two is set, or a thread dies.
#[allow(clippy::unnecessary_wraps)] // as the library has it
pub(crate) fn poll_event_or_hangup(
    event: BorrowedFd<'_>,
    socket: BorrowedFd<'_>,
    time: Option<Duration>,
) -> Result<PollEvents> {
    let (event, socket) = (state_of(event), state_of(socket));
    if time.is_some() {
        return Ok(PollEvents { readable: false, hung_up: socket.is_set() });
    }
    let mut readable = event.is_set.lock().unwrap();
    loop {
        let events = PollEvents { readable: *readable, hung_up: socket.is_set() };
        if events.readable || events.hung_up || is_dead() || liveness_checks::is_woken_by_death() {
            return Ok(events);
        }
        readable = event.change.wait(readable).unwrap();
    }
}

pub(crate) mod eventfd {
    use super::*;

    #[allow(clippy::unnecessary_wraps)] // as the library has it
    pub(crate) fn create() -> Result<OwnedFd> {
        let [event] = super::create();
        Ok(event)
    }

    pub(crate) fn notify(event: BorrowedFd<'_>) {
        if !Mutation::NoWake.is_active() && !is_dead() {
            state_of(event).set();
        }
    }

    pub(crate) fn clear(event: BorrowedFd<'_>) {
        if !is_dead() {
            *state_of(event).is_set.lock().unwrap() = false;
        }
    }

    /// Blocks until it is readable.
    pub(crate) fn poll(event: BorrowedFd<'_>) {
        let event = state_of(event);
        let mut readable = event.is_set.lock().unwrap();
        while !*readable {
            readable = event.change.wait(readable).unwrap();
        }
    }
}

/// Frames in a model have no ancillary packets.
pub(crate) mod socket {
    use super::super::poll::Deadline;
    use super::*;

    pub(crate) const MAX_DESCRIPTORS: usize = 0;

    /// The outcome of sending.
    #[derive(Clone, Copy, Debug, PartialEq)]
    pub(crate) enum Sent {
        Done,
        TimedOut,
        Disconnected,
    }

    #[allow(clippy::unnecessary_wraps)] // as the library has it
    pub(crate) fn pair() -> Result<(OwnedFd, OwnedFd)> {
        let [one, other] = create();
        Ok((one, other))
    }

    #[allow(clippy::unnecessary_wraps)]
    pub(crate) fn reserve(_socket: BorrowedFd<'_>, _bytes: usize) -> Result<()> {
        Ok(())
    }

    pub(crate) fn hang_up(socket: BorrowedFd<'_>) {
        if !is_dead() {
            state_of(socket).set();
            wake_all();
        }
    }

    pub(crate) fn is_surely_connected(socket: BorrowedFd<'_>) -> bool {
        !state_of(socket).is_set()
    }

    pub(crate) fn send(
        _socket: BorrowedFd<'_>,
        _parts: &[&[u8]],
        _descriptors: &[BorrowedFd<'_>],
        _deadline: Deadline,
    ) -> Result<Sent> {
        unreachable!("a model sends no descriptor")
    }

    #[allow(clippy::unnecessary_wraps)]
    pub(crate) fn peek(_socket: BorrowedFd<'_>, _buffer: &mut [u8]) -> Result<Option<(usize, Vec<OwnedFd>)>> {
        Ok(None)
    }

    pub(crate) fn waiting_packet(_socket: BorrowedFd<'_>) -> Option<Vec<u8>> {
        None
    }

    pub(crate) fn discard(_socket: BorrowedFd<'_>) {}
}
