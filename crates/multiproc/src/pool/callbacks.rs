//! Callbacks of tasks: one thread of this program calls them all.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Wake, Waker};
use std::thread;

use super::call::Call;
use super::dispatcher::Dispatcher;
use crate::error::{Error, Result};
use crate::sys::signals::with_signals_blocked;

type Callback = Box<dyn FnOnce() + Send>;

/// Has the thread call `callback` when a result of the call has arrived, or never will.
pub(super) fn when_arrived(
    dispatcher: &Dispatcher,
    call: &Call,
    callback: impl FnOnce() + Send + 'static,
) -> Result<()> {
    let queue = callback_thread()?;
    let waker = Waker::from(Arc::new(Pending { queue, callback: Mutex::new(Some(Box::new(callback))) }));
    dispatcher.wake_at_arrival(call, &waker);
    if call.has_arrived() || dispatcher.check_not_forked().is_err() {
        waker.wake(); // the pool has not called it
    }
    Ok(())
}

/// A callback whose result has not arrived.
struct Pending {
    queue: Sender<Callback>,
    callback: Mutex<Option<Callback>>,
}

impl Wake for Pending {
    fn wake(self: Arc<Self>) {
        let callback = self.callback.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(callback) = callback {
            let _ = self.queue.send(callback); // the thread lives as long as the program
        }
    }
}

/// The queue of the thread, which the first call starts.
fn callback_thread() -> Result<Sender<Callback>> {
    static QUEUE: Mutex<Option<Sender<Callback>>> = Mutex::new(None);
    let mut queue = QUEUE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(queue) = &*queue {
        return Ok(queue.clone());
    }
    let (sender, callbacks) = mpsc::channel::<Callback>();
    let run_all = move || {
        for callback in callbacks {
            let _ = catch_unwind(AssertUnwindSafe(callback)); // the panic hook has told of it
        }
    };
    with_signals_blocked(|| thread::Builder::new().name("mp-callbacks".to_owned()).spawn(run_all))
        .map_err(|error| Error::io("start a thread for callbacks", &error))?;
    *queue = Some(sender.clone());
    Ok(sender)
}
