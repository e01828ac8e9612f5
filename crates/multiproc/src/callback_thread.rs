//! Threads that call foreign code, one call after the other: the wakers of futures, and callbacks. They do
//! nothing else, so the code may do anything: block, panic, use a pool whose worker is about to die.

use std::sync::mpsc::{self, Sender};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::task::Waker;
use std::thread;

use crate::error::{Error, Result};
use crate::ipc::panic::ignore_panic;
use crate::sys::process_local::ProcessLocal;
use crate::sys::signals::with_signals_blocked;

/// Calls the wakers of futures. Callbacks have another thread: they may take long, and wait for a future.
pub(crate) static WAKERS: CallbackThread<Waker> = CallbackThread::new("mp-wakers", Waker::wake);

/// One thread of this program, which [`start`](Self::start) starts.
pub(crate) struct CallbackThread<C> {
    name: &'static str,
    call: fn(C),
    /// A forked copy of the program starts its own.
    thread: ProcessLocal<StartedThread<C>>,
}

struct StartedThread<C> {
    queue: OnceLock<Sender<C>>,
    /// Held while the thread is started.
    starting: Mutex<()>,
}

impl<C> Default for StartedThread<C> {
    fn default() -> Self {
        Self { queue: OnceLock::new(), starting: Mutex::default() }
    }
}

impl<C: Send + 'static> CallbackThread<C> {
    pub(crate) const fn new(name: &'static str, call: fn(C)) -> Self {
        Self { name, call, thread: ProcessLocal::new(|_| StartedThread::default()) }
    }

    /// Starts the thread unless it runs.
    pub(crate) fn start(&'static self) -> Result<()> {
        let StartedThread { queue, starting } = self.thread.get();
        if queue.get().is_some() {
            return Ok(());
        }
        let _starting = starting.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.get().is_some() {
            return Ok(());
        }
        let (sender, callbacks) = mpsc::channel();
        let call = self.call;
        let call_all = move || {
            for callback in callbacks {
                ignore_panic(|| call(callback));
            }
        };
        with_signals_blocked(|| thread::Builder::new().name(self.name.to_owned()).spawn(call_all))
            .map_err(|error| Error::io("start a thread for callbacks", &error))?;
        let _ = queue.set(sender); // under the lock, so it is the first
        Ok(())
    }

    /// Has the thread call `callback`, if it was started.
    pub(crate) fn call(&'static self, callback: C) {
        if let Some(queue) = self.thread.get().queue.get() {
            let _ = queue.send(callback); // the thread lives as long as the program
        }
    }
}
