//! This process's fork server: one zygote with its queue of pre-forked children, used by one start at a time.

use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use nix::errno::Errno;

use crate::error::{Cause, Error, Result};
use crate::ipc::packet::{Message, Sent};
use crate::spawn::prefork::{PreforkQueue, TakeOutcome};
use crate::spawn::supervisor::{self, Child, lock};
use crate::spawn::zygote::Priority;
use crate::spawn::zygote::handle::{EXIT_GRACE, ForkedChild, Zygote};
use crate::sys::environment::EnvChanges;
use crate::sys::inherited_state::{fingerprint, privileges};
use crate::sys::poll::Deadline;
use crate::sys::process_local::ProcessLocal;
use crate::sys::running_time::RunningTime;
use crate::task::initializer::Initializer;

/// Kills all zygotes of this process, also those of pools with a preloaded state, and children that they have forked
/// ahead, and waits until they have ended. See [`crate::stop_fork_server`].
pub(crate) fn stop() -> Result<()> {
    if !IS_USED.load(Ordering::Relaxed) {
        return Ok(());
    }
    ForkServerGuard::take(Deadline::limit(EXIT_GRACE))?.shut_down();
    let deadline = Deadline::limit(EXIT_GRACE);
    let processes = supervisor::internal_processes();
    for process in &processes {
        process.kill();
    }
    match processes.iter().find(|process| process.wait(deadline).is_none()) {
        None => Ok(()),
        Some(process) => Err(Error::timeout(&format!("end the fork server's process {}", process.pid()))),
    }
}

/// Whether there has been a fork server, in this process or one that it is a forked copy of.
static IS_USED: AtomicBool = AtomicBool::new(false);

/// Forks a child and sends it the bootstrap message. Returns `None` if this system lacks what a zygote needs; a
/// shortage is an error. Blocks until the deadline.
pub(crate) fn start(
    bootstrap: &Message,
    timeout: Duration,
    deadline: Deadline,
) -> Result<Option<ForkedChild>> {
    ForkServerGuard::take(deadline)?.start(bootstrap, timeout, deadline)
}

/// Requests children for starts that will follow, from a zygote that is made if there is none. Does nothing
/// while another thread uses the fork server, and ignores errors: the starts will report them.
pub(crate) fn prefork(starts: usize, deadline: Deadline) {
    if starts > 0
        && let Ok(mut slot) = ForkServerGuard::take(Deadline::now())
        && let Ok(server) = slot.server(deadline)
    {
        let _ = server.queue.ensure_pending(&server.zygote, starts, Priority::Immediate, Deadline::now());
    }
}

/// Ends unneeded children that [`prefork`] has requested. Waits for their forks until the deadline.
pub(crate) fn cancel_prefork(deadline: Deadline) {
    if let Ok(ForkServerGuard(Some(server))) = ForkServerGuard::take(deadline).as_mut() {
        server.queue.cancel(&server.zygote, deadline);
    }
}

/// Reaps pre-forked children that were killed. The supervisor thread calls it, so it must not wait: if
/// another thread has the slot, that reaps them when it leaves the slot.
fn reap_dead() {
    NEEDS_REAPING.store(true, Ordering::Relaxed);
    let _ = ForkServerGuard::take(Deadline::now()).map(drop);
}

static NEEDS_REAPING: AtomicBool = AtomicBool::new(false);

/// A start fails after this many deaths, of zygotes or of children forked for this start.
const ATTEMPTS: u32 = 3;

/// A zygote that did not answer at the deadline counts as hung if it had this time, or half of what a start may take;
/// with less, the fork server counts as busy with other starts.
const LEAST_RESPONSE_TIME: Duration = Duration::from_secs(1);

pub(super) struct ForkServer {
    zygote: Zygote,
    queue: PreforkQueue,
    /// The [fingerprint] of what the zygote has inherited, or of its [privileges] alone if it has a preloaded
    /// state. `None` if that changed while it was executed.
    inherited: Option<u64>,
}

#[derive(Default)]
struct Slot {
    state: Mutex<SlotState>,
    /// Notified when the slot becomes free.
    available: Condvar,
}

enum SlotState {
    Free(Option<ForkServer>),
    /// A thread has the fork server, in a [`ForkServerGuard`].
    Taken,
}

impl Default for SlotState {
    fn default() -> Self {
        Self::Free(None)
    }
}

/// A forked copy of the process begins without a fork server. It closes its copies of the descriptors, unless another
/// thread had the slot at the fork.
static SLOT: ProcessLocal<Slot> = ProcessLocal::new(|inherited| {
    if let Some(Ok(mut state)) = inherited.map(|slot| slot.state.try_lock()) {
        *state = SlotState::default();
    }
    Slot::default()
});

/// Exclusive use of the slot, until it is dropped.
struct ForkServerGuard(Option<ForkServer>);

impl ForkServerGuard {
    /// Waits until no other thread has the slot.
    fn take(deadline: Deadline) -> Result<Self> {
        let Slot { state, available } = SLOT.get();
        let mut state = lock(state);
        loop {
            if let SlotState::Free(server) = mem::replace(&mut *state, SlotState::Taken) {
                return Ok(Self(server));
            }
            state = match deadline.left() {
                None => available.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => return Err(busy()),
                Some(left) => available.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
    }

    fn start(
        &mut self,
        bootstrap: &Message,
        timeout: Duration,
        deadline: Deadline,
    ) -> Result<Option<ForkedChild>> {
        let ensure =
            |slot: &mut Option<ForkServer>| ForkServer::ensure_current(slot, deadline).map(|()| deadline);
        start_with(&mut self.0, ensure, bootstrap, timeout)
    }

    /// The fork server, if its fingerprint is that of this process now; otherwise a new one.
    fn server(&mut self, deadline: Deadline) -> Result<&mut ForkServer> {
        ForkServer::ensure_current(&mut self.0, deadline)?;
        self.0.as_mut().ok_or_else(|| Error::internal("there is no fork server"))
    }

    /// Kills a fork server that is not needed. The supervisor reaps it.
    fn shut_down(&mut self) {
        self.0.take().into_iter().for_each(ForkServer::shut_down);
    }
}

/// As [`start`]. `ensure` makes the fork server if there is none, and returns the deadline of the rest.
pub(super) fn start_with(
    slot: &mut Option<ForkServer>,
    ensure: impl Fn(&mut Option<ForkServer>) -> Result<Deadline>,
    bootstrap: &Message,
    timeout: Duration,
) -> Result<Option<ForkedChild>> {
    let begun = RunningTime::now();
    let mut deaths = 0;
    let mut first_of_this_start = None;
    while deaths < ATTEMPTS {
        let deadline = ensure(slot)?;
        let Some(server) = slot else { break };
        let first = *first_of_this_start.get_or_insert(server.queue.requested());
        match server.queue.take(&server.zygote, first, deadline)? {
            TakeOutcome::Forked { child, number, is_fresh } => match child.send(bootstrap, deadline) {
                Ok(Sent::Done) => {
                    server.zygote.pids.release(number);
                    return Ok(Some(child));
                }
                Ok(Sent::Disconnected) => {
                    deaths += u32::from(is_fresh);
                    child.end();
                }
                unsent => {
                    child.end();
                    return Err(unsent.err().unwrap_or_else(|| Error::timeout("hand a child its task")));
                }
            },
            TakeOutcome::Refused(Errno::ENOSYS | Errno::EPERM | Errno::EINVAL) => {
                slot.take().into_iter().for_each(ForkServer::shut_down);
                return Ok(None);
            }
            TakeOutcome::Refused(errno) => return Err(Error::os("start a child process", errno)),
            TakeOutcome::TimedOut if begun.elapsed() < LEAST_RESPONSE_TIME.min(timeout / 2) => {
                return Err(busy());
            }
            lost => {
                deaths += 1;
                first_of_this_start = None;
                end_lost(slot, lost, timeout)?;
            }
        }
    }
    Err(Error::new(Cause::Start(format!(
        "the fork server, or what it had forked, was killed {ATTEMPTS} times in a row"
    ))))
}

/// Disposes of a fork server that has ended, is hung, or has failed. Returns its error if it cannot be replaced.
fn end_lost(slot: &mut Option<ForkServer>, lost: TakeOutcome, timeout: Duration) -> Result<()> {
    let Some(ForkServer { zygote, queue, .. }) = slot.take() else { return Ok(()) };
    let ended = zygote.end(!matches!(lost, TakeOutcome::Exited), timeout);
    queue.end_all(&zygote);
    match lost {
        TakeOutcome::Failed(error) => Err(error),
        _ => ended,
    }
}

impl Drop for ForkServerGuard {
    fn drop(&mut self) {
        let slot = SLOT.get();
        let mut state = lock(&slot.state);
        // Checked again under the lock: a `reap_dead` that found the slot taken has set it before.
        while NEEDS_REAPING.swap(false, Ordering::Relaxed) {
            drop(state);
            if let Some(server) = &mut self.0 {
                server.queue.reap_dead(&server.zygote);
            }
            state = lock(&slot.state);
        }
        *state = SlotState::Free(self.0.take());
        slot.available.notify_one();
    }
}

impl ForkServer {
    /// Keeps a fork server whose fingerprint is that of this process now; otherwise makes a new one.
    fn ensure_current(slot: &mut Option<Self>, deadline: Deadline) -> Result<()> {
        let inherited = fingerprint();
        Self::end_if_outdated(slot, inherited);
        if slot.is_none() {
            *slot = Some(Self::exec(inherited, deadline)?);
        }
        Ok(())
    }

    /// Ends a fork server with another fingerprint.
    fn end_if_outdated(slot: &mut Option<Self>, inherited: u64) {
        if slot.as_ref().is_some_and(|server| server.inherited != Some(inherited)) {
            slot.take().into_iter().for_each(Self::shut_down);
        }
    }

    /// Ends one [with a preloaded state](Self::preload) whose privileges are not those of this process any more.
    pub(super) fn end_if_privileges_changed(slot: &mut Option<Self>) {
        Self::end_if_outdated(slot, privileges());
    }

    /// Kills it, and its pre-forked children. The supervisor reaps them.
    pub(super) fn shut_down(self) {
        self.zygote.kill(self.queue.has_pending());
        self.queue.end_all(&self.zygote);
    }

    /// One whose zygote has this environment, and has run these functions. Blocks until then, for
    /// `preload_timeout` at most. Calls `on_begin` with the zygote before.
    pub(super) fn preload(
        environment: EnvChanges,
        preload: &[Initializer],
        timeout: Duration,
        preload_timeout: Duration,
        on_begin: impl FnOnce(&Arc<Child>),
    ) -> Result<Self> {
        IS_USED.store(true, Ordering::Relaxed);
        let inherited = privileges();
        let zygote = Zygote::exec(environment, preload, Deadline::limit(timeout))?;
        on_begin(zygote.process());
        zygote.wait_until_preloaded(preload_timeout)?;
        let inherited = Some(inherited).filter(|before| privileges() == *before);
        Ok(Self { zygote, queue: PreforkQueue::without_idle(reap_dead), inherited })
    }

    fn exec(inherited: u64, deadline: Deadline) -> Result<Self> {
        IS_USED.store(true, Ordering::Relaxed);
        let zygote = Zygote::exec(EnvChanges::default(), &[], deadline)?;
        let inherited = Some(inherited).filter(|before| fingerprint() == *before);
        Ok(Self { zygote, queue: PreforkQueue::new(reap_dead), inherited })
    }
}

fn busy() -> Error {
    Error::new(Cause::Start(
        "the fork server was busy with other starts, or silent, for as long as a start may take".to_owned(),
    ))
}
