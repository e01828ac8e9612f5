//! The fork server of one pool: its zygote has run functions whose results all children begin with.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::error::{Cause, Error, Result};
use crate::ipc::packet::Message;
use crate::spawn::fork_server::{ForkServer, start_with};
use crate::spawn::supervisor::{Child, lock};
use crate::spawn::zygote::handle::ForkedChild;
use crate::sys::environment::EnvChanges;
use crate::sys::fork_detect::OriginalProcess;
use crate::sys::poll::Deadline;
use crate::task::initializer::Initializer;

/// It has no pre-forked children: each would hold copies of pages that nothing needs yet.
pub(crate) struct PreloadServer {
    environment: EnvChanges,
    preload: Vec<Initializer>,
    /// How long the functions may take.
    preload_timeout: Duration,
    server: Mutex<Option<ForkServer>>,
    latest: Mutex<Latest>,
    /// A forked copy of this process must not end the zygote.
    original: OriginalProcess,
}

/// The last zygote that was begun. It can be ended without the lock of the server, which is taken until it has run the
/// functions, and while it forks a child.
#[derive(Default)]
struct Latest {
    zygote: Option<Arc<Child>>,
    is_stopped: bool,
}

impl PreloadServer {
    /// Makes no zygote yet.
    pub(crate) fn new(environment: EnvChanges, preload: Vec<Initializer>, preload_timeout: Duration) -> Self {
        let (server, original) = (Mutex::new(None), OriginalProcess::current());
        Self { environment, preload, preload_timeout, server, latest: Mutex::default(), original }
    }

    /// Forks a child and sends it the bootstrap message. If there is no zygote, it has died, or this process has
    /// given up privileges since, makes one first: then this blocks while the functions run. The fork may take
    /// `timeout`.
    pub(crate) fn start(&self, bootstrap: &Message, timeout: Duration) -> Result<ForkedChild> {
        let ensure =
            |slot: &mut Option<ForkServer>| self.ensure(slot, timeout).map(|()| Deadline::limit(timeout));
        let forked = start_with(&mut lock(&self.server), ensure, bootstrap, timeout)?;
        forked.ok_or_else(|| Error::new(Cause::Start("this system cannot fork a preloaded state".to_owned())))
    }

    /// Makes the zygote if there is none. Blocks while the functions run; the start before may take `timeout`.
    pub(crate) fn make(&self, timeout: Duration) -> Result<()> {
        self.ensure(&mut lock(&self.server), timeout)
    }

    fn ensure(&self, slot: &mut Option<ForkServer>, timeout: Duration) -> Result<()> {
        ForkServer::end_if_privileges_changed(slot);
        if slot.is_none() {
            let environment = self.environment.clone();
            let begin = |zygote: &Arc<Child>| self.set_latest(zygote);
            *slot =
                Some(ForkServer::preload(environment, &self.preload, timeout, self.preload_timeout, begin)?);
        }
        Ok(())
    }

    /// Kills the zygote at once if this was stopped meanwhile.
    fn set_latest(&self, zygote: &Arc<Child>) {
        let mut latest = lock(&self.latest);
        if latest.is_stopped {
            zygote.kill();
        }
        latest.zygote = Some(Arc::clone(zygote));
    }

    /// Ends the zygote, also while it runs the functions or does not answer a start. None is made any more.
    pub(crate) fn stop(&self) {
        if !self.original.is_current() {
            return;
        }
        {
            let mut latest = lock(&self.latest);
            latest.is_stopped = true;
            latest.zygote.iter().for_each(|zygote| zygote.kill());
        }
        lock(&self.server).take().into_iter().for_each(ForkServer::shut_down);
    }
}

impl Drop for PreloadServer {
    fn drop(&mut self) {
        self.stop();
    }
}
