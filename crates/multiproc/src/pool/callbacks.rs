//! Callbacks of tasks: one thread of this program calls them all.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Wake, Waker};

use super::call::Call;
use super::pool_core::{CountedWaker, PoolCore};
use super::wake_list::ArrivalWaker;
use crate::callback_thread::CallbackThread;
use crate::error::Result;

type Callback = Box<dyn FnOnce() + Send>;

static CALLBACKS: CallbackThread<Callback> = CallbackThread::new("mp-callbacks", |callback| callback());

/// Has the thread call `callback` when a result of the call has arrived, or at once if that was taken.
pub(super) fn when_arrived(
    core: &Arc<PoolCore>,
    call: &Call,
    was_taken: bool,
    callback: impl FnOnce() + Send + 'static,
) -> Result<()> {
    core.check_not_forked()?;
    CALLBACKS.start()?;
    let pending: (Callback, _) = (Box::new(callback), core.count_waker());
    let waker = Waker::from(Arc::new(Pending(Mutex::new(Some(pending)))));
    core.wake_at_arrival(call, ArrivalWaker::Internal(waker.clone()));
    core.check();
    if was_taken || call.has_arrived() {
        waker.wake(); // the pool has not called it
    }
    Ok(())
}

/// A callback whose result has not arrived.
struct Pending(Mutex<Option<(Callback, CountedWaker)>>);

impl Wake for Pending {
    fn wake(self: Arc<Self>) {
        let pending = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((callback, _)) = pending {
            CALLBACKS.call(callback);
        }
    }
}
