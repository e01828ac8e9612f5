//! `wait_any`: waits until one of several things is ready: receivers, pipes, processes, tasks, calls, sockets.

use std::cell::RefCell;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::sync::{Arc, OnceLock};
use std::task::{Wake, Waker};
use std::time::Duration;

use nix::poll::PollFlags;

use self::sealed::Wait;
use crate::channel::ReceiverCore;
use crate::error::Result;
use crate::fd::Fd;
use crate::pipe::Connection;
use crate::pool::{CountedWaker, TaskHandle};
use crate::process::Process;
use crate::queue::Receiver;
use crate::server::CallHandle;
use crate::sys::eventfd;
use crate::sys::failpoint::{self, Failpoint};
use crate::sys::poll::{self, Deadline};

/// What [`wait_any`] can wait for, and what it means to be ready:
///
/// | type | is ready when |
/// |---|---|
/// | [`queue::Receiver`](Receiver) | `recv` would not block: an item is there, or the last sender is gone |
/// | [`Connection`] | `recv` would not block |
/// | [`Process`] | it has ended, also where `join` would not wait for the last output |
/// | [`TaskHandle`], [`CallHandle`] | `get` would not block |
/// | [`Fd`], `OwnedFd`, sockets of the standard library | it is readable, or hung up |
pub trait Waitable: Wait {}

impl<W: Wait> Waitable for W {}

mod sealed {
    /// Has no name outside of the library.
    pub trait Wait {
        /// Whether it is ready.
        fn is_ready(&self) -> super::Result<bool>;
        /// Adds the descriptors that become ready when it does.
        fn watch<'a>(&'a self, watch: &mut super::Watch<'a>) -> super::Result<()>;
        /// Undoes that where the descriptor is the waiting thread's own.
        fn unwatch(&self, _task_event: &super::TaskEvent) {}
    }
}

/// Waits until at least one of these is ready, and returns the indices of all that are. Blocks until then; it
/// returns at once when there are none to wait for.
///
/// ```
/// use multiproc::{Process, Result, pipe, queue, wait_any};
///
/// fn main() -> Result<()> {
///     multiproc::init();
///     let (sender, items) = queue::bounded::<u32>(10)?;
///     let (here, _there) = pipe::<(), u32>()?;
///     let child = Process::spawn(|sender: queue::Sender<u32>| sender.send(7).is_ok(), (sender,))?;
///     let ready = wait_any(&[&items, &here])?;
///     assert_eq!(ready, [0]);
///     assert_eq!(items.recv()?, 7);
///     assert_eq!(wait_any(&[&child])?, [0]);
///     assert!(child.join()?);
///     Ok(())
/// }
/// ```
///
/// Another thread or process may take a message first: to be sure not to block, receive with `try_recv`. A
/// receiver of which others wait for the same queue may notice an item up to 50 ms late, and so may a call whose
/// server other threads of this process call.
///
/// # Errors
/// When the kernel refuses to wait, or a descriptor for it.
pub fn wait_any(these: &[&dyn Waitable]) -> Result<Vec<usize>> {
    wait(these, Deadline::Never)
}

/// As [`wait_any`], but blocks for `time` at most; then no index is returned.
///
/// ```
/// let (_sender, receiver) = multiproc::queue::bounded::<u32>(1)?;
/// let ready = multiproc::wait_any_timeout(&[&receiver], std::time::Duration::from_millis(1))?;
/// assert!(ready.is_empty());
/// # Ok::<(), multiproc::Error>(())
/// ```
///
/// # Errors
/// As [`wait_any`].
pub fn wait_any_timeout(these: &[&dyn Waitable], time: Duration) -> Result<Vec<usize>> {
    wait(these, Deadline::after(time))
}

/// The time after which the conditions are checked again: another receiver may have cleared an eventfd.
const RECHECK_INTERVAL: Duration = Duration::from_millis(50);
/// The first pause after a sleep that may have ended in vain. Each further one is twice as long, up to
/// [`RECHECK_INTERVAL`].
const PAUSE: Duration = Duration::from_millis(1);

fn wait(these: &[&dyn Waitable], deadline: Deadline) -> Result<Vec<usize>> {
    let task_event = TaskEvent::default();
    let ready = wait_with(&task_event, these, deadline);
    if task_event.0.get().is_some() {
        for waitable in these {
            waitable.unwatch(&task_event);
        }
    }
    ready
}

fn wait_with(task_event: &TaskEvent, these: &[&dyn Waitable], deadline: Deadline) -> Result<Vec<usize>> {
    let mut pause = Duration::ZERO;
    loop {
        let mut watch = Watch::new(task_event, pause);
        let mut ready = ready(these)?;
        if ready.is_empty() && !these.is_empty() && !deadline.is_over() {
            these.iter().try_for_each(|waitable| waitable.watch(&mut watch))?;
            ready = self::ready(these)?; // what became ready before it was watched
            if ready.is_empty() {
                let is_in_vain = watch.sleep(deadline)?;
                pause = if is_in_vain { (2 * pause).clamp(PAUSE, RECHECK_INTERVAL) } else { Duration::ZERO };
                continue;
            }
        }
        return Ok(ready);
    }
}

fn ready(these: &[&dyn Waitable]) -> Result<Vec<usize>> {
    let ready = these.iter().enumerate().map(|(index, waitable)| Ok(waitable.is_ready()?.then_some(index)));
    ready.filter_map(Result::transpose).collect()
}

/// The descriptors of one sleep.
pub struct Watch<'a> {
    polled: Vec<(BorrowedFd<'a>, PollFlags)>,
    /// Those of channels whose readiness cannot be trusted: a process that is stopped while it sends or receives can
    /// keep them readable. They are not polled during the pause.
    doubtful: Vec<(BorrowedFd<'a>, PollFlags)>,
    pause: Duration,
    /// Channels of replies, which their connections may give up meanwhile.
    replies: Vec<Arc<ReceiverCore>>,
    task_event: &'a TaskEvent,
    /// Whether a descriptor may stay as it is although something is ready.
    may_miss: bool,
}

impl<'a> Watch<'a> {
    fn new(task_event: &'a TaskEvent, pause: Duration) -> Self {
        let (polled, doubtful, replies) = (Vec::new(), Vec::new(), Vec::new());
        Self { polled, doubtful, pause, replies, task_event, may_miss: false }
    }

    /// Returns whether it ended although nothing may be ready, so that the next one would end at once, too.
    fn sleep(self, deadline: Deadline) -> Result<bool> {
        let mut polled = self.polled;
        polled.extend(self.replies.iter().flat_map(|channel| of_receiver(channel)));
        failpoint::hit(Failpoint::WaitAnySleeps);
        if !self.pause.is_zero() && poll::poll_all(&mut polled, deadline.or_within(self.pause))?.is_some() {
            return Ok(false);
        }
        let is_doubtful = !self.doubtful.is_empty();
        polled.extend(self.doubtful);
        let until = if self.may_miss { deadline.or_within(RECHECK_INTERVAL) } else { deadline };
        let has_hung_up = poll::poll_all(&mut polled, until)?;
        Ok(has_hung_up.is_some_and(|has_hung_up| has_hung_up || is_doubtful))
    }

    fn receiver(&mut self, receiver: &'a ReceiverCore) -> Result<()> {
        let is_locked = !receiver.update_readiness()?;
        let is_doubtful = is_locked || !self.pause.is_zero() && receiver.end().peer_hung_up();
        let these = if is_doubtful { &mut self.doubtful } else { &mut self.polled };
        these.extend(of_receiver(receiver));
        self.may_miss = true;
        Ok(())
    }
}

fn of_receiver(receiver: &ReceiverCore) -> [(BorrowedFd<'_>, PollFlags); 2] {
    let [event, socket] = receiver.poll_fds();
    [(event, PollFlags::POLLIN), (socket, PollFlags::empty())]
}

/// Wakes the waiting thread when a task's result arrives; made for the first task.
#[derive(Default)]
pub struct TaskEvent(OnceLock<(Arc<Event>, Waker)>, RefCell<Vec<CountedWaker>>);

struct Event(OwnedFd);

impl Wake for Event {
    fn wake(self: Arc<Self>) {
        eventfd::notify(self.0.as_fd());
    }
}

impl TaskEvent {
    fn get_or_create(&self) -> Result<&(Arc<Event>, Waker)> {
        if let Some(event) = self.0.get() {
            return Ok(event);
        }
        let event = Arc::new(Event(eventfd::create()?));
        let waker = Waker::from(Arc::clone(&event));
        Ok(self.0.get_or_init(|| (event, waker)))
    }
}

impl<T> Wait for Receiver<T> {
    fn is_ready(&self) -> Result<bool> {
        self.core().wait(Deadline::now())
    }

    fn watch<'a>(&'a self, watch: &mut Watch<'a>) -> Result<()> {
        watch.receiver(self.core())
    }
}

impl<S, R> Wait for Connection<S, R> {
    fn is_ready(&self) -> Result<bool> {
        self.incoming().wait(Deadline::now())
    }

    fn watch<'a>(&'a self, watch: &mut Watch<'a>) -> Result<()> {
        watch.receiver(self.incoming())
    }
}

impl<R> Wait for TaskHandle<R> {
    fn is_ready(&self) -> Result<bool> {
        Ok(self.is_ready())
    }

    fn watch<'a>(&'a self, watch: &mut Watch<'a>) -> Result<()> {
        let (event, waker) = watch.task_event.get_or_create()?;
        eventfd::clear(event.0.as_fd());
        watch.task_event.1.borrow_mut().extend(TaskHandle::watch(self, waker));
        watch.polled.push((event.0.as_fd(), PollFlags::POLLIN));
        Ok(())
    }

    fn unwatch(&self, task_event: &TaskEvent) {
        if let Some((_, waker)) = task_event.0.get() {
            TaskHandle::unwatch(self, waker);
        }
    }
}

impl<R> Wait for CallHandle<R> {
    fn is_ready(&self) -> Result<bool> {
        Ok(self.is_ready())
    }

    fn watch<'a>(&'a self, watch: &mut Watch<'a>) -> Result<()> {
        watch.may_miss = true; // another thread may receive the reply, or the connection be made again
        watch.replies.extend(self.watch_replies()?);
        Ok(())
    }
}

/// For types whose descriptor says whether they are ready.
macro_rules! by_descriptor {
    ($([$($generic:ident $(: $bound:ident)?)?] $type:ty;)*) => {$(
        impl<$($generic $(: $bound)?)?> Wait for $type {
            fn is_ready(&self) -> Result<bool> {
                poll::ready(self.as_fd(), PollFlags::POLLIN, Deadline::now())
            }

            fn watch<'a>(&'a self, watch: &mut Watch<'a>) -> Result<()> {
                watch.polled.push((self.as_fd(), PollFlags::POLLIN));
                Ok(())
            }
        }
    )*};
}

by_descriptor! {
    [T] Process<T>;
    [T: AsFd] Fd<T>;
    [] OwnedFd;
    [] BorrowedFd<'_>;
    [] TcpListener;
    [] TcpStream;
    [] UdpSocket;
    [] UnixDatagram;
    [] UnixListener;
    [] UnixStream;
}
