//! The fork server of this process: its one zygote, and the preforked children that this has forked ahead.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::error::{Cause, Error, Origin, Result};
use crate::ipc::packet::{Message, PacketSocket, Sent};
use crate::ipc::wire::SharedMemory;
use crate::spawn::exec;
use crate::spawn::supervisor::{self, Child, lock};
use crate::spawn::zygote::{
    MAX_REQUESTS, PAGE, Preforked, Priority, Response, release, request, response, unclaimed,
};
use crate::sys::inherited::fingerprint;
use crate::sys::mapping::SharedMapping;
use crate::sys::poll::Deadline;
use crate::sys::process::{Exit, PidFd, own_pid};

/// Gives the bootstrap message to a child, and that to the caller; or nothing, where this system cannot fork one. Blocks until the
/// deadline at most.
pub(crate) fn start(bootstrap: &Message, timeout: Duration, deadline: Deadline) -> Result<Option<Preforked>> {
    SlotGuard::take(deadline)?.start(bootstrap, timeout, deadline)
}

/// Has a zygote made, if there is none, and preforked children forked, for so many starts that will follow. Does nothing where
/// another has his turn.
pub(crate) fn prefork(starts: usize, deadline: Deadline) {
    if starts > 0
        && let Ok(mut turn) = SlotGuard::take(Deadline::now())
        && let Ok(zygote) = turn.zygote(deadline)
    {
        let _ = zygote.ensure_pending(starts.min(MAX_REQUESTS), Priority::Immediate, Deadline::now()); // if not, the starts will find out why
    }
}

/// Buries preforked children that somebody has killed. Called by the supervisor's thread, so it does not wait for its turn.
fn reap_dead() {
    NEEDS_REAPING.store(true, Ordering::Relaxed);
    let _ = SlotGuard::take(Deadline::now()).map(drop); // whoever has his turn tidies up behind him
}

/// Some preforked child on order has ended.
static NEEDS_REAPING: AtomicBool = AtomicBool::new(false);

/// Ends preforked children that were announced and are not needed, which have so long to come up.
pub(crate) fn cancel_prefork(deadline: Deadline) {
    if let Ok(SlotGuard(Some(zygote))) = SlotGuard::take(deadline).as_mut() {
        zygote.forgo(deadline);
    }
}

/// Ends this process's fork server, and what it has forked ahead, and collects their statuses. The children
/// that were started live on, and the next start makes another fork server.
///
/// The fork server ([`StartMethod::ForkServer`](crate::StartMethod::ForkServer)) and the processes that it
/// has forked ahead are children of this process that [`active_children`](crate::active_children) does not
/// list. A program needs this call:
///
/// - before it waits for *all* its children, by `while wait() > 0` or `waitpid(-1, …)`, which else blocks as
///   long as the fork server lives, and takes its status away;
/// - before it executes another program in its own place, or itself again: the children of a process stay its
///   children through `exec`, but the new program does not know of them, so they would remain as zombies. It
///   should also have joined its children and pools;
/// - after it was moved to another control group, or has changed something else that later children should
///   have and that is not looked at before each start; [`ForkServer`](crate::StartMethod::ForkServer) says
///   what that is.
///
/// Without a fork server it does nothing. A start in another thread that runs at the same time may make a new
/// one.
///
/// Blocks until these processes have ended: for a moment, or 3 seconds at most.
///
/// # Errors
/// When other threads are busy with starts for 1 second, or one of the processes has not ended 1 second after
/// it was killed.
///
/// ```
/// use multiproc::Process;
///
/// fn main() -> multiproc::Result<()> {
///     multiproc::init();
///     Process::spawn(|| (), ())?.join()?;
///     multiproc::stop_fork_server()?;
///     // Now this process has no child at all: std::process::Command::new("/proc/self/exe").exec()
///     Ok(())
/// }
/// ```
pub fn stop_fork_server() -> Result<()> {
    if !IS_USED.load(Ordering::Relaxed) {
        return Ok(());
    }
    SlotGuard::take(Deadline::after(EXIT_GRACE))?.shut_down();
    let deadline = Deadline::after(EXIT_GRACE);
    let mut helpers = supervisor::internal_processes().into_iter();
    match helpers.find(|process| process.wait(deadline).is_none()) {
        None => Ok(()),
        Some(process) => Err(Error::timeout(&format!("end the fork server's process {}", process.pid()))),
    }
}

/// Ends all that this fork server has made and nobody has taken, and blocks until that has ended, for a
/// moment at most. For a process that is about to end: else those would end after it, and be a burden to
/// whoever gets them then.
pub(crate) fn close() {
    let _ = stop_fork_server();
}

/// There has been a zygote, in this process or one of which it is a copy.
static IS_USED: AtomicBool = AtomicBool::new(false);

/// The one zygote of this process, for one after another.
struct Slot {
    /// Which process this is about. In a copy that somebody forked, all this is another's.
    pid: u32,
    is_taken: bool,
    zygote: Option<RunningZygote>,
}

static SLOT: Mutex<Slot> = Mutex::new(Slot { pid: 0, is_taken: false, zygote: None });
static AVAILABLE: Condvar = Condvar::new();

/// Somebody's time with the zygote.
struct SlotGuard(Option<RunningZygote>);

/// The zygote of this process, and what it was made in.
struct RunningZygote {
    process: Arc<Child>,
    control: PacketSocket,
    page: Arc<SharedMapping>,
    /// Not known where they changed just then.
    surroundings: Option<u64>,
    /// How many orders were answered, and the answer taken.
    answered: u64,
    /// Those that were not, the first first.
    on_order: VecDeque<PendingFork>,
    /// How many there should be between two starts: none, until a second start has had to wait.
    stock: usize,
}

/// A preforked child that was ordered.
enum PendingFork {
    /// And our end of its start socket.
    Waits(PacketSocket),
    /// Somebody has killed it, or it was refused.
    Disconnected,
}

/// What comes of the next order.
enum Next {
    Spare {
        preforked: Preforked,
        /// It was ordered for this start.
        is_fresh: bool,
    },
    /// The system refuses it.
    Refused(Errno),
    /// The zygote has not answered in time.
    Silence,
    /// It has ended.
    Death,
    /// It does not come up, and says why; or it is out of its mind.
    Failure(Error),
}

/// How many preforked children are kept for starts that nobody has announced. They take up little, but are in the way of who looks at a
/// list of processes.
const MAX_PREFORKED: usize = 2;

/// So many zygotes, and preforked children that were ordered for it, may die over one start. One is bad luck; more is somebody who
/// kills them all.
const ATTEMPTS: u32 = 3;

/// A zygote that is silent for so long, or for half of what a start may take, is not only busy.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long one that must end may take for it.
const EXIT_GRACE: Duration = Duration::from_secs(1);

impl SlotGuard {
    /// Waits until nobody else has it.
    fn take(deadline: Deadline) -> Result<Self> {
        let mut desk = lock(&SLOT);
        let pid = own_pid();
        if desk.pid != pid {
            *desk = Slot { pid, is_taken: false, zygote: None };
        }
        while desk.is_taken {
            desk = match deadline.left() {
                None => AVAILABLE.wait(desk).unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => return Err(late()),
                Some(left) => AVAILABLE.wait_timeout(desk, left).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
        desk.is_taken = true;
        Ok(Self(desk.zygote.take()))
    }

    fn start(
        &mut self,
        bootstrap: &Message,
        timeout: Duration,
        deadline: Deadline,
    ) -> Result<Option<Preforked>> {
        let begun = Instant::now();
        let mut deaths = 0;
        // What was ordered before is numbered below this. It may have been killed, or refused, long ago.
        let mut ordered = None;
        while deaths < ATTEMPTS {
            let zygote = self.zygote(deadline)?;
            let first = *ordered.get_or_insert(zygote.ordered());
            match zygote.next(first, deadline)? {
                Next::Spare { preforked, is_fresh } => match preforked.send(bootstrap, deadline) {
                    Ok(Sent::Done) => {
                        release(&zygote.page, zygote.answered - 1);
                        return Ok(Some(preforked));
                    }
                    Ok(Sent::Disconnected) => {
                        deaths += u32::from(is_fresh);
                        reap(preforked.pid, preforked.pidfd, &preforked.link);
                    }
                    unsent => {
                        reap(preforked.pid, preforked.pidfd, &preforked.link);
                        return Err(unsent.err().unwrap_or_else(|| Error::timeout("hand a child its task")));
                    }
                },
                Next::Refused(Errno::ENOSYS | Errno::EPERM | Errno::EINVAL) => {
                    self.shut_down();
                    return Ok(None);
                }
                Next::Refused(errno) => return Err(Error::system("start a child process", errno)),
                Next::Silence if begun.elapsed() < RESPONSE_TIMEOUT.min(timeout / 2) => return Err(late()),
                lost => {
                    deaths += 1;
                    ordered = None;
                    let Some(zygote) = self.0.take() else { break };
                    let ended = zygote.end(!matches!(lost, Next::Death), timeout);
                    if let Next::Failure(error) = lost {
                        return Err(error);
                    }
                    ended?;
                }
            }
        }
        Err(failed(format!("the fork server, or what it had forked, was killed {ATTEMPTS} times in a row")))
    }

    /// The zygote there is, if it still fits; else a new one.
    fn zygote(&mut self, deadline: Deadline) -> Result<&mut RunningZygote> {
        let surroundings = fingerprint();
        if self.0.as_ref().is_some_and(|zygote| zygote.surroundings != Some(surroundings)) {
            self.shut_down();
        }
        match &mut self.0 {
            Some(zygote) => Ok(zygote),
            none => Ok(none.insert(RunningZygote::make(surroundings, deadline)?)),
        }
    }

    /// Ends a zygote that is not needed any more; the supervisor buries it.
    fn shut_down(&mut self) {
        if let Some(zygote) = self.0.take() {
            zygote.process.kill();
            if !zygote.on_order.is_empty() {
                zygote.process.wait(Deadline::after(EXIT_GRACE)); // until then it may fork
            }
            zygote.reap_all_preforked();
        }
    }
}

impl Drop for SlotGuard {
    fn drop(&mut self) {
        let mut desk = lock(&SLOT);
        while NEEDS_REAPING.swap(false, Ordering::Relaxed) {
            drop(desk);
            self.0.iter_mut().for_each(RunningZygote::reap_preforked);
            desk = lock(&SLOT); // and look again: who has set that meanwhile has not got the turn
        }
        desk.is_taken = false;
        desk.zygote = self.0.take();
        AVAILABLE.notify_one();
    }
}

impl RunningZygote {
    fn make(surroundings: u64, deadline: Deadline) -> Result<Self> {
        IS_USED.store(true, Ordering::Relaxed);
        let page = SharedMemory::create(PAGE)?;
        let (control, process) = exec::exec_zygote(&page, deadline)?;
        let surroundings = Some(surroundings).filter(|before| fingerprint() == *before);
        let page = page.into_mapping();
        Ok(Self { process, control, page, surroundings, answered: 0, on_order: VecDeque::new(), stock: 0 })
    }

    /// Waits for the next preforked child, which is ordered now if there is none on order. It is fresh if its number is not below
    /// `ordered`. An error is not about the zygote.
    fn next(&mut self, ordered: u64, deadline: Deadline) -> Result<Next> {
        loop {
            if self.on_order.is_empty() {
                self.stock = if self.answered == 0 { 0 } else { MAX_PREFORKED };
                self.ensure_pending(1, Priority::Immediate, deadline)?; // a zygote that is gone may have said why, which is the next answer
            }
            let is_fresh = self.answered >= ordered;
            match response(&self.control, &self.process, deadline) {
                Ok(Response::Forked(pid)) => {
                    let Some(ordered) = self.take_response() else { return Ok(unrequested()) };
                    let PendingFork::Waits(link) = ordered else { continue };
                    let pidfd = PidFd::of_child(pid)?;
                    let _ = self.ensure_pending(self.stock, Priority::Ahead, Deadline::now()); // if not, the next start finds out why
                    return Ok(Next::Spare { preforked: Preforked { pid, pidfd, link }, is_fresh });
                }
                Ok(Response::Failed(errno)) => {
                    if self.take_response().is_none() {
                        return Ok(unrequested());
                    }
                    if is_fresh {
                        return Ok(Next::Refused(errno));
                    }
                    // What was refused some time ago may be granted now.
                }
                Ok(Response::TimedOut) => return Ok(Next::Silence),
                Ok(Response::Exited) => return Ok(Next::Death),
                Err(error) => return Ok(Next::Failure(error)),
            }
        }
    }

    fn take_response(&mut self) -> Option<PendingFork> {
        let ordered = self.on_order.pop_front()?;
        if let PendingFork::Waits(link) = &ordered {
            supervisor::forget_preforked(link.as_fd());
        }
        self.answered += 1;
        Some(ordered)
    }

    fn ordered(&self) -> u64 {
        self.answered + self.on_order.len() as u64
    }

    /// Orders preforked children until there are so many on order; or none any more, where the zygote is gone.
    fn ensure_pending(&mut self, count: usize, need: Priority, deadline: Deadline) -> Result<()> {
        while self.on_order.len() < count
            && let Some(link) = request(&self.control, &self.page, self.ordered(), need, deadline)?
        {
            let _ = supervisor::watch_preforked(link.as_fd(), reap_dead); // else it is buried when it is missed
            self.on_order.push_back(PendingFork::Waits(link));
        }
        Ok(())
    }

    fn reap_preforked(&mut self) {
        for (number, ordered) in (self.answered..).zip(&mut self.on_order) {
            if let PendingFork::Waits(link) = ordered
                && link.is_hung_up()
            {
                if let Some((pid, pidfd)) = unclaimed(&self.page, number) {
                    reap(pid, pidfd, link);
                }
                *ordered = PendingFork::Disconnected;
            }
        }
    }

    /// Ends the preforked children that are more than there should be.
    fn forgo(&mut self, deadline: Deadline) {
        while self.on_order.len() > self.stock {
            match self.next(0, deadline) {
                Ok(Next::Spare { preforked, .. }) => reap(preforked.pid, preforked.pidfd, &preforked.link),
                Ok(Next::Refused(_)) | Err(_) => {}
                Ok(Next::Silence | Next::Death | Next::Failure(_)) => break, // the next start sees to that
            }
        }
    }

    /// Ends one that has not answered, being silent or about to die. An error means that the next would be no better.
    fn end(self, is_silent: bool, timeout: Duration) -> Result<()> {
        let process = Arc::clone(&self.process);
        let is_silent = is_silent && process.is_alive();
        let is_up = if is_silent { process.set_started() } else { process.has_started() };
        match (is_silent, is_up) {
            (true, true) => process.kill(),
            (true, false) => process.kill_start_timeout(timeout),
            (false, _) if process.wait(Deadline::after(EXIT_GRACE)).is_none() => process.kill(),
            (false, _) => {}
        }
        let exit = process.wait(Deadline::after(EXIT_GRACE));
        self.reap_all_preforked();
        let (name, pid) = (process.name().to_owned(), process.pid());
        match (is_silent, is_up, exit) {
            (true, true, _) => Err(failed(format!(
                "the fork server (process {pid}) did not answer within {} s and was killed; the next start makes another",
                timeout.as_secs_f32()
            ))),
            (false, true, _) | (false, false, Some(Exit::Signal(_))) => Ok(()),
            (_, false, _) => Err(process.exit_error(Origin::Process { name, pid })),
        }
    }

    /// Ends the preforked children that nobody has taken. To be called when the zygote has ended.
    fn reap_all_preforked(self) {
        for (number, ordered) in (self.answered..).zip(self.on_order) {
            if let PendingFork::Waits(link) = ordered
                && let Some((pid, pidfd)) = unclaimed(&self.page, number)
            {
                reap(pid, pidfd, &link);
            }
        }
    }
}

/// Has the supervisor bury a preforked child that is not needed, or is dead already.
fn reap(pid: u32, pidfd: PidFd, link: &PacketSocket) {
    // Not where it has gone: then it is dead, and in its stead this may be another, if somebody else has buried it.
    let is_there = link.is_held();
    if let Ok(child) = supervisor::reap(pid, pidfd, link.handle())
        && is_there
    {
        child.kill();
    }
}

fn unrequested() -> Next {
    Next::Failure(Error::decode("a fork server's reply", "nobody has asked for it"))
}

fn late() -> Error {
    failed("the fork server was busy with other starts, or silent, for as long as a start may take")
}

fn failed(why: impl Into<String>) -> Error {
    Error::new(Cause::Start(why.into()))
}
