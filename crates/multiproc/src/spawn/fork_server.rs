//! The fork server of this process: its one template, and the spares that this has forked ahead.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::error::{Cause, Culprit, Error, Result};
use crate::ipc::packet::{Link, Message, Sent};
use crate::ipc::wire::Pages;
use crate::spawn::exec;
use crate::spawn::supervisor::{self, Child, lock};
use crate::spawn::zygote::{Answer, MOST_ORDERS, Need, PAGE, Spare, answer, let_go, order, unheard};
use crate::sys::inherited::fingerprint;
use crate::sys::mapping::Shared;
use crate::sys::poll::Deadline;
use crate::sys::process::{Exit, PidFd, own_pid};

/// Gives the letter to a child, and that to the caller; or nothing, where this system cannot fork one. Blocks until the
/// deadline at most.
pub(crate) fn start(letter: &Message, patience: Duration, deadline: Deadline) -> Result<Option<Spare>> {
    Turn::take(deadline)?.start(letter, patience, deadline)
}

/// Has a template made, if there is none, and spares forked, for so many starts that will follow. Does nothing where
/// another has his turn.
pub(crate) fn announce(starts: usize, deadline: Deadline) {
    if starts > 0
        && let Ok(mut turn) = Turn::take(Deadline::now())
        && let Ok(template) = turn.template(deadline)
    {
        let _ = template.have_on_order(starts.min(MOST_ORDERS), Need::Now, Deadline::now()); // if not, the starts will find out why
    }
}

/// Buries spares that somebody has killed. Called by the supervisor's thread, so it does not wait for its turn.
fn tidy() {
    IS_UNTIDY.store(true, Ordering::Relaxed);
    let _ = Turn::take(Deadline::now()).map(drop); // whoever has his turn tidies up behind him
}

/// Some spare on order has ended.
static IS_UNTIDY: AtomicBool = AtomicBool::new(false);

/// Ends spares that were announced and are not needed, which have so long to come up.
pub(crate) fn forgo(deadline: Deadline) {
    if let Ok(Turn(Some(template))) = Turn::take(deadline).as_mut() {
        template.forgo(deadline);
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
    Turn::take(Deadline::after(LAST_GASP))?.dismiss();
    let deadline = Deadline::after(LAST_GASP);
    let mut helpers = supervisor::helpers().into_iter();
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

/// There has been a template, in this process or one of which it is a copy.
static IS_USED: AtomicBool = AtomicBool::new(false);

/// The one template of this process, for one after another.
struct Desk {
    /// Which process this is about. In a copy that somebody forked, all this is another's.
    pid: u32,
    is_taken: bool,
    template: Option<Template>,
}

static DESK: Mutex<Desk> = Mutex::new(Desk { pid: 0, is_taken: false, template: None });
static FREE: Condvar = Condvar::new();

/// Somebody's time with the template.
struct Turn(Option<Template>);

/// The template of this process, and what it was made in.
struct Template {
    process: Arc<Child>,
    control: Link,
    page: Arc<Shared>,
    /// Not known where they changed just then.
    surroundings: Option<u64>,
    /// How many orders were answered, and the answer taken.
    answered: u64,
    /// Those that were not, the first first.
    on_order: VecDeque<Ordered>,
    /// How many there should be between two starts: none, until a second start has had to wait.
    stock: usize,
}

/// A spare that was ordered.
enum Ordered {
    /// And our end of its start socket.
    Waits(Link),
    /// Somebody has killed it, or it was refused.
    Gone,
}

/// What comes of the next order.
enum Next {
    Spare {
        spare: Spare,
        /// It was ordered for this start.
        is_fresh: bool,
    },
    /// The system refuses it.
    Refused(Errno),
    /// The template has not answered in time.
    Silence,
    /// It has ended.
    Death,
    /// It does not come up, and says why; or it is out of its mind.
    Failure(Error),
}

/// How many spares are kept for starts that nobody has announced. They take up little, but are in the way of who looks at a
/// list of processes.
const MOST_STOCK: usize = 2;

/// So many templates, and spares that were ordered for it, may die over one start. One is bad luck; more is somebody who
/// kills them all.
const ATTEMPTS: u32 = 3;

/// A template that is silent for so long, or for half of what a start may take, is not only busy.
const SILENCE: Duration = Duration::from_secs(1);
/// How long one that must end may take for it.
const LAST_GASP: Duration = Duration::from_secs(1);

impl Turn {
    /// Waits until nobody else has it.
    fn take(deadline: Deadline) -> Result<Self> {
        let mut desk = lock(&DESK);
        let pid = own_pid();
        if desk.pid != pid {
            *desk = Desk { pid, is_taken: false, template: None };
        }
        while desk.is_taken {
            desk = match deadline.left() {
                None => FREE.wait(desk).unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => return Err(late()),
                Some(left) => FREE.wait_timeout(desk, left).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
        desk.is_taken = true;
        Ok(Self(desk.template.take()))
    }

    fn start(&mut self, letter: &Message, patience: Duration, deadline: Deadline) -> Result<Option<Spare>> {
        let begun = Instant::now();
        let mut deaths = 0;
        // What was ordered before is numbered below this. It may have been killed, or refused, long ago.
        let mut ordered = None;
        while deaths < ATTEMPTS {
            let template = self.template(deadline)?;
            let first = *ordered.get_or_insert(template.ordered());
            match template.next(first, deadline)? {
                Next::Spare { spare, is_fresh } => match spare.send(letter, deadline) {
                    Ok(Sent::Yes) => {
                        let_go(&template.page, template.answered - 1);
                        return Ok(Some(spare));
                    }
                    Ok(Sent::Gone) => {
                        deaths += u32::from(is_fresh);
                        see_off(spare.pid, spare.pidfd, &spare.link);
                    }
                    unsent => {
                        see_off(spare.pid, spare.pidfd, &spare.link);
                        return Err(unsent.err().unwrap_or_else(|| Error::timeout("hand a child its task")));
                    }
                },
                Next::Refused(Errno::ENOSYS | Errno::EPERM | Errno::EINVAL) => {
                    self.dismiss();
                    return Ok(None);
                }
                Next::Refused(errno) => return Err(Error::system("start a child process", errno)),
                Next::Silence if begun.elapsed() < SILENCE.min(patience / 2) => return Err(late()),
                lost => {
                    deaths += 1;
                    ordered = None;
                    let Some(template) = self.0.take() else { break };
                    let ended = template.end(!matches!(lost, Next::Death), patience);
                    if let Next::Failure(error) = lost {
                        return Err(error);
                    }
                    ended?;
                }
            }
        }
        Err(failed(format!("the fork server, or what it had forked, was killed {ATTEMPTS} times in a row")))
    }

    /// The template there is, if it still fits; else a new one.
    fn template(&mut self, deadline: Deadline) -> Result<&mut Template> {
        let surroundings = fingerprint();
        if self.0.as_ref().is_some_and(|template| template.surroundings != Some(surroundings)) {
            self.dismiss();
        }
        match &mut self.0 {
            Some(template) => Ok(template),
            none => Ok(none.insert(Template::make(surroundings, deadline)?)),
        }
    }

    /// Ends a template that is not needed any more; the supervisor buries it.
    fn dismiss(&mut self) {
        if let Some(template) = self.0.take() {
            template.process.kill();
            if !template.on_order.is_empty() {
                template.process.wait(Deadline::after(LAST_GASP)); // until then it may fork
            }
            template.see_spares_off();
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut desk = lock(&DESK);
        while IS_UNTIDY.swap(false, Ordering::Relaxed) {
            drop(desk);
            self.0.iter_mut().for_each(Template::bury_dead_spares);
            desk = lock(&DESK); // and look again: who has set that meanwhile has not got the turn
        }
        desk.is_taken = false;
        desk.template = self.0.take();
        FREE.notify_one();
    }
}

impl Template {
    fn make(surroundings: u64, deadline: Deadline) -> Result<Self> {
        IS_USED.store(true, Ordering::Relaxed);
        let page = Pages::create(PAGE)?;
        let (control, process) = exec::exec_template(&page, deadline)?;
        let surroundings = Some(surroundings).filter(|before| fingerprint() == *before);
        let page = page.into_mapping();
        Ok(Self { process, control, page, surroundings, answered: 0, on_order: VecDeque::new(), stock: 0 })
    }

    /// Waits for the next spare, which is ordered now if there is none on order. It is fresh if its number is not below
    /// `ordered`. An error is not about the template.
    fn next(&mut self, ordered: u64, deadline: Deadline) -> Result<Next> {
        loop {
            if self.on_order.is_empty() {
                self.stock = if self.answered == 0 { 0 } else { MOST_STOCK };
                self.have_on_order(1, Need::Now, deadline)?; // a template that is gone may have said why, which is the next answer
            }
            let is_fresh = self.answered >= ordered;
            match answer(&self.control, &self.process, deadline) {
                Ok(Answer::Forked(pid)) => {
                    let Some(ordered) = self.take_answer() else { return Ok(unasked()) };
                    let Ordered::Waits(link) = ordered else { continue };
                    let pidfd = PidFd::of_child(pid)?;
                    let _ = self.have_on_order(self.stock, Need::Later, Deadline::now()); // if not, the next start finds out why
                    return Ok(Next::Spare { spare: Spare { pid, pidfd, link }, is_fresh });
                }
                Ok(Answer::Refused(errno)) => {
                    if self.take_answer().is_none() {
                        return Ok(unasked());
                    }
                    if is_fresh {
                        return Ok(Next::Refused(errno));
                    }
                    // What was refused some time ago may be granted now.
                }
                Ok(Answer::Silence) => return Ok(Next::Silence),
                Ok(Answer::Death) => return Ok(Next::Death),
                Err(error) => return Ok(Next::Failure(error)),
            }
        }
    }

    fn take_answer(&mut self) -> Option<Ordered> {
        let ordered = self.on_order.pop_front()?;
        if let Ordered::Waits(link) = &ordered {
            supervisor::forget_spare(link.as_fd());
        }
        self.answered += 1;
        Some(ordered)
    }

    fn ordered(&self) -> u64 {
        self.answered + self.on_order.len() as u64
    }

    /// Orders spares until there are so many on order; or none any more, where the template is gone.
    fn have_on_order(&mut self, count: usize, need: Need, deadline: Deadline) -> Result<()> {
        while self.on_order.len() < count
            && let Some(link) = order(&self.control, &self.page, self.ordered(), need, deadline)?
        {
            let _ = supervisor::watch_spare(link.as_fd(), tidy); // else it is buried when it is missed
            self.on_order.push_back(Ordered::Waits(link));
        }
        Ok(())
    }

    fn bury_dead_spares(&mut self) {
        for (number, ordered) in (self.answered..).zip(&mut self.on_order) {
            if let Ordered::Waits(link) = ordered
                && link.is_hung_up()
            {
                if let Some((pid, pidfd)) = unheard(&self.page, number) {
                    see_off(pid, pidfd, link);
                }
                *ordered = Ordered::Gone;
            }
        }
    }

    /// Ends the spares that are more than there should be.
    fn forgo(&mut self, deadline: Deadline) {
        while self.on_order.len() > self.stock {
            match self.next(0, deadline) {
                Ok(Next::Spare { spare, .. }) => see_off(spare.pid, spare.pidfd, &spare.link),
                Ok(Next::Refused(_)) | Err(_) => {}
                Ok(Next::Silence | Next::Death | Next::Failure(_)) => break, // the next start sees to that
            }
        }
    }

    /// Ends one that has not answered, being silent or about to die. An error means that the next would be no better.
    fn end(self, is_silent: bool, patience: Duration) -> Result<()> {
        let process = Arc::clone(&self.process);
        let is_silent = is_silent && process.is_alive();
        let is_up = if is_silent { process.is_up() } else { process.was_up() };
        match (is_silent, is_up) {
            (true, true) => process.kill(),
            (true, false) => process.give_up(patience),
            (false, _) if process.wait(Deadline::after(LAST_GASP)).is_none() => process.kill(),
            (false, _) => {}
        }
        let exit = process.wait(Deadline::after(LAST_GASP));
        self.see_spares_off();
        let (name, pid) = (process.name().to_owned(), process.pid());
        match (is_silent, is_up, exit) {
            (true, true, _) => Err(failed(format!(
                "the fork server (process {pid}) did not answer within {} s and was killed; the next start makes another",
                patience.as_secs_f32()
            ))),
            (false, true, _) | (false, false, Some(Exit::Signal(_))) => Ok(()),
            (_, false, _) => Err(process.obituary(Culprit::Process { name, pid })),
        }
    }

    /// Ends the spares that nobody has taken. To be called when the template has ended.
    fn see_spares_off(self) {
        for (number, ordered) in (self.answered..).zip(self.on_order) {
            if let Ordered::Waits(link) = ordered
                && let Some((pid, pidfd)) = unheard(&self.page, number)
            {
                see_off(pid, pidfd, &link);
            }
        }
    }
}

/// Has the supervisor bury a spare that is not needed, or is dead already.
fn see_off(pid: u32, pidfd: PidFd, link: &Link) {
    // Not where it has gone: then it is dead, and in its stead this may be another, if somebody else has buried it.
    let is_there = link.is_held();
    if let Ok(child) = supervisor::see_off(pid, pidfd, link.handle())
        && is_there
    {
        child.kill();
    }
}

fn unasked() -> Next {
    Next::Failure(Error::decode("a fork server's reply", "nobody has asked for it"))
}

fn late() -> Error {
    failed("the fork server was busy with other starts, or silent, for as long as a start may take")
}

fn failed(why: impl Into<String>) -> Error {
    Error::new(Cause::Start(why.into()))
}
