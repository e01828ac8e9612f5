//! `ReceiverStream`: awaits the items of a queue.

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::thread;

use futures_core::Stream;
use serde_core::de::DeserializeOwned;

use crate::channel::errors;
use crate::error::{Error, Result};
use crate::ipc::panic::ignore_panic;
use crate::queue::Receiver;
use crate::sys::eventfd;
use crate::sys::private_mutex::PrivateMutex;
use crate::sys::signals::with_signals_blocked;
use crate::wait::wait_any;

/// Awaits the items of a queue, until the last sender is gone. Feature `async`. Any executor will do: a thread
/// of this stream wakes it, which starts when the queue is first found empty.
///
/// An item is taken in `poll_next` alone, so dropping the stream loses none. `poll_next` blocks for at most 1
/// ms, as [`Receiver::try_recv`] does. If others receive from the same queue, it may notice an item up to 50 ms
/// late.
///
/// ```
/// use futures_lite::StreamExt; // or that of `futures`
/// use multiproc::{Process, queue};
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     multiproc::init();
///     let (sender, receiver) = queue::bounded(10)?;
///     let send = |sender: queue::Sender<u64>| sender.send_all([1, 2, 3]).is_ok();
///     let child = Process::spawn(send, (sender,))?;
///     tokio::runtime::Runtime::new()?.block_on(async {
///         let mut items = receiver.stream();
///         let mut sum = 0;
///         while let Some(item) = items.next().await {
///             sum += item?;
///         }
///         assert_eq!(sum, 6);
///         assert!(child.await?);
///         Ok(())
///     })
/// }
/// ```
///
/// # Errors
/// Those of [`Receiver::recv`], as items; the end of the queue is the end of the stream. An error of an item
/// that does not decode does not end the stream. Any other error does, as it ends
/// [`Receiver::iter`]: an adapter that skips errors would receive it without end.
#[must_use = "a stream does nothing unless it is polled"]
pub struct ReceiverStream<T> {
    receiver: Receiver<T>,
    /// Made when the queue is first found empty.
    watcher: Option<Arc<Watcher>>,
    has_ended: bool,
}

/// What the stream shares with its thread.
struct Watcher {
    state: PrivateMutex<State>,
    /// Tells the thread that the state has changed.
    changed: OwnedFd,
}

#[derive(Default)]
struct State {
    /// Called when the queue is ready; the thread watches the queue while there is one.
    waker: Option<Waker>,
    /// Why the thread could not watch it.
    error: Option<Error>,
    has_ended: bool,
}

impl<T> Receiver<T> {
    /// The items of this queue, to be awaited. Feature `async`. The stream has a clone of this receiver.
    pub fn stream(&self) -> ReceiverStream<T> {
        ReceiverStream { receiver: self.clone(), watcher: None, has_ended: false }
    }
}

impl<T: DeserializeOwned + 'static> ReceiverStream<T> {
    /// Has `waker` called when the queue is ready.
    fn watch(&mut self, waker: &Waker) -> Result<()> {
        // That of a process which this one is a copy of has no thread here.
        self.watcher.take_if(|watcher| watcher.state.lock().is_none());
        let watcher = match &self.watcher {
            Some(watcher) => watcher,
            None => self.watcher.insert(Watcher::start(self.receiver.clone())?),
        };
        let Some(mut state) = watcher.state.lock() else {
            return Err(Error::internal("a new lock is a copy's"));
        };
        if let Some(error) = state.error.take() {
            return Err(error);
        }
        let is_watching = state.waker.replace(waker.clone()).is_some();
        drop(state);
        if !is_watching {
            eventfd::notify(watcher.changed.as_fd());
        }
        Ok(())
    }
}

impl<T: DeserializeOwned + 'static> Stream for ReceiverStream<T> {
    type Item = Result<T>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<T>>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        let mut received = self.receiver.try_recv();
        if received.as_ref().is_err_and(Error::is_empty) {
            match self.watch(context.waker()) {
                Ok(()) => return Poll::Pending,
                Err(error) => received = Err(error),
            }
        }
        Poll::Ready(errors::next(&mut self.has_ended, || received))
    }
}

impl<T> Drop for ReceiverStream<T> {
    fn drop(&mut self) {
        if let Some(watcher) = &self.watcher
            && let Some(mut state) = watcher.state.lock()
        {
            state.has_ended = true;
            drop(state);
            eventfd::notify(watcher.changed.as_fd());
        }
    }
}

impl Watcher {
    fn start<T: 'static>(receiver: Receiver<T>) -> Result<Arc<Self>> {
        let watcher = Arc::new(Self { state: PrivateMutex::default(), changed: eventfd::create()? });
        let shared = Arc::clone(&watcher);
        let thread = thread::Builder::new().name("mp-stream".to_owned()).stack_size(128 * 1024);
        with_signals_blocked(|| thread.spawn(move || shared.run(&receiver)))
            .map_err(|error| Error::io("start a thread for a stream", &error))?;
        Ok(watcher)
    }

    fn run<T>(&self, receiver: &Receiver<T>) {
        loop {
            let Some(state) = self.state.lock() else { return };
            let (has_ended, is_watching) = (state.has_ended, state.waker.is_some());
            drop(state);
            if has_ended {
                return;
            }
            let ready =
                if is_watching { wait_any(&[&self.changed, receiver]) } else { wait_any(&[&self.changed]) };
            match ready {
                Ok(ready) if ready.contains(&0) => eventfd::clear(self.changed.as_fd()),
                Ok(_) => self.wake(None),
                Err(error) => self.wake(Some(error)),
            }
        }
    }

    fn wake(&self, error: Option<Error>) {
        let Some(mut state) = self.state.lock() else { return };
        state.error = error;
        let waker = state.waker.take();
        drop(state);
        ignore_panic(|| waker.into_iter().for_each(Waker::wake)); // a panic is the executor's own
    }
}

impl<T> fmt::Debug for ReceiverStream<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReceiverStream").field("receiver", &self.receiver).finish_non_exhaustive()
    }
}
