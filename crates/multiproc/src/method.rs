//! The two ways to start a child, and the one template of this process.

use std::ffi::OsStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Cause, Culprit, Error, Result};
use crate::link::{Link, Message, Sent};
use crate::start::{self, PATIENCE, Started};
use crate::supervisor::{Child, lock};
use crate::sys::memory::Shared;
use crate::sys::poll::Deadline;
use crate::sys::process::{Exit, own_pid};
use crate::sys::surroundings::fingerprint;
use crate::task::Call;
use crate::template::{Answer, LAST_GASP, MOST_ORDERS, PAGE, Spare, answer, end_unheard, let_go, order};
use crate::wire::Pages;

/// How a child process is started: per process ([`Builder::start_method`](crate::Builder::start_method)), per pool
/// ([`pool::Builder`](crate::pool::Builder::start_method)), or for a whole program by the environment variable
/// `MULTIPROC_START_METHOD`, which may be `fork-server` or `spawn`. (Anything else in it is an error at the first start.)
/// That variable is the user's, so it is passed on as any other: to children, and to whatever programs they execute.
///
/// A child is the same under both: it shares no memory with its parent, has no descriptor that it was not given, and
/// dies with it.
///
/// **There is no start by forking the running program.** A copy of a program with threads may do almost nothing before
/// it executes another: any lock that another thread held at that moment, in the allocator for instance, stays locked in
/// the copy for ever. And the copy takes the longer the more memory the program has, even with the lightest of children.
///
/// ```
/// use multiproc::{Pool, StartMethod};
///
/// fn main() -> multiproc::Result<()> {
///     multiproc::init();
///     let pool = Pool::builder().workers(2).start_method(StartMethod::Spawn).build()?;
///     assert_eq!(pool.map(|n: u32| n + 1, [1, 2])?, [2, 3]);
///     Ok(())
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartMethod {
    /// Forks the child from a template: a small process with a single thread, in which the program has been executed
    /// as far as [`init`](crate::init), and that has never run anything of the user's beyond that. The quickest way,
    /// about as quick as a fork of a small program, however large this one is.
    ///
    /// The first start of the process makes the template, which takes about as long as a start by [`Spawn`](Self::Spawn).
    /// Once a start has had to wait for a fork, two children are forked ahead, which wait for a task (`fork-spare` in a list
    /// of processes). A new template is made when the old one was killed (its children live on), and when this process has changed what a
    /// program inherits: the environment, the current directory, user or groups, process group or session, resource
    /// limits, and which of the usual signals it ignores. What costs too much to look at, such as the umask, is as it was when the template was
    /// made. What stands before `init` in `main` runs in the template, and not again in each child; so what it leaves
    /// in memory, addresses included, is the same in all of them. A child whose function has returned writes out what
    /// it has printed and is gone: handlers that C code has registered to run at exit do not run.
    ///
    /// Where the system cannot do it (it takes Linux 5.4 with checkpoint and restore, the GNU C library, and no thread
    /// that is started before `init`), this is the same as `Spawn`.
    ForkServer,
    /// Executes the program again for each child; nothing is shared with anyone.
    Spawn,
}

/// What `MULTIPROC_START_METHOD` says; where it says nothing (or nothing sensible, which a start will complain about),
/// [`ForkServer`](StartMethod::ForkServer).
impl Default for StartMethod {
    fn default() -> Self {
        Self::from_environment().unwrap_or(Self::ForkServer)
    }
}

impl StartMethod {
    fn from_environment() -> Result<Self> {
        static METHOD: OnceLock<Result<StartMethod>> = OnceLock::new();
        METHOD.get_or_init(|| Self::parse(std::env::var_os("MULTIPROC_START_METHOD").as_deref())).clone()
    }

    fn parse(text: Option<&OsStr>) -> Result<Self> {
        let Some(text) = text else { return Ok(Self::ForkServer) };
        match text.to_str() {
            Some("fork-server" | "forkserver") => Ok(Self::ForkServer),
            Some("spawn") => Ok(Self::Spawn),
            _ => Err(Error::invalid(format!(
                "the environment variable MULTIPROC_START_METHOD is \"{}\": it may be \"fork-server\" or \"spawn\"",
                text.display()
            ))),
        }
    }
}

/// How a child is to be started.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manner {
    /// None is for the environment to say.
    pub(crate) method: Option<StartMethod>,
    /// How long the child may take to come up.
    pub(crate) patience: Duration,
}

impl Default for Manner {
    fn default() -> Self {
        Self { method: None, patience: PATIENCE }
    }
}

impl Manner {
    /// Starts a child that calls `function` with these arguments.
    pub(crate) fn call<F, Args>(self, name: String, function: F, args: &Args) -> Result<Started>
    where
        F: Call<Args>,
        Args: Serialize + DeserializeOwned,
    {
        let deadline = Deadline::after(self.patience);
        let posted = start::post(name, function, args)?;
        let method = self.method.map_or_else(StartMethod::from_environment, Ok)?;
        if method == StartMethod::ForkServer
            && !CANNOT_FORK.load(Ordering::Relaxed)
            && let Some(letter) = posted.for_spare()
        {
            match Turn::take(deadline)?.fork(letter, self.patience, deadline)? {
                Some(child) => return posted.adopt(child),
                None => CANNOT_FORK.store(true, Ordering::Relaxed),
            }
        }
        posted.exec(Some(self.patience), deadline)
    }
}

impl Manner {
    /// Has a fork server made, if there is none, and children forked, while the caller prepares what else it takes to start
    /// so many. What does not go well here, the starts will find out. Waits for nobody else's start.
    pub(crate) fn announce(self, starts: usize) {
        let method = self.method.map_or_else(StartMethod::from_environment, Ok);
        if matches!(method, Ok(StartMethod::ForkServer))
            && !CANNOT_FORK.load(Ordering::Relaxed)
            && let Ok(mut turn) = Turn::take(Deadline::now())
            && let Ok(template) = turn.template(Deadline::after(self.patience))
        {
            template.announced = u64::try_from(starts).unwrap_or(u64::MAX);
            template.replenish();
        }
    }
}

/// A template has found out that this system has not what it needs.
static CANNOT_FORK: AtomicBool = AtomicBool::new(false);

/// The template of this process, and what it was made in.
struct Template {
    process: Arc<Child>,
    control: Link,
    page: Arc<Shared>,
    /// Not known where they changed just then.
    surroundings: Option<u64>,
    /// How many spares were ordered so far, and how many of the orders were answered to a start. What lies between is
    /// on its way, or waits in the socket: this process holds nothing of a spare that it does not need yet.
    ordered: u64,
    answered: u64,
    /// How many orders to have under way between two starts: none, until a second start has had to wait.
    stock: u64,
    /// How many starts are known to come.
    announced: u64,
}

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

/// So many templates, or fresh spares, may die over one start. One is bad luck; more is somebody who kills them all.
const ATTEMPTS: u64 = 3;

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
                Some(Duration::ZERO) => {
                    return Err(failed("the fork server did not get round to it in time"));
                }
                Some(left) => FREE.wait_timeout(desk, left).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
        desk.is_taken = true;
        Ok(Self(desk.template.take()))
    }

    /// Gives the letter to a child; gives none where this system cannot fork one.
    fn fork(&mut self, letter: &Message, patience: Duration, deadline: Deadline) -> Result<Option<Spare>> {
        for _ in 0..ATTEMPTS + MOST_STOCK {
            let template = self.template(deadline)?;
            let answer = template.spare(deadline);
            match answer {
                Ok(Answer::Spare(spare)) => match spare.send(letter, deadline) {
                    Ok(Sent::Yes) => {
                        let_go(&template.page, template.answered - 1);
                        return Ok(Some(spare));
                    }
                    Ok(Sent::Gone) => spare.end(), // it was killed while it waited
                    Ok(Sent::NotYet) => {
                        spare.end();
                        return Err(Error::timeout("hand a child its task"));
                    }
                    Err(error) => {
                        spare.end();
                        return Err(error);
                    }
                },
                Ok(Answer::Refused(Errno::ENOSYS | Errno::EPERM | Errno::EINVAL)) => {
                    self.dismiss();
                    return Ok(None);
                }
                Ok(Answer::Refused(errno)) => return Err(Error::system("start a child process", errno)),
                Ok(Answer::Lost | Answer::Silence | Answer::Death) | Err(_) => {
                    let Some(template) = self.0.take() else { break };
                    let is_silent = !matches!(answer, Ok(Answer::Death));
                    let ended = template.end(is_silent, patience);
                    answer?;
                    ended?;
                }
            }
        }
        Err(failed("the fork server was killed, or what it had forked, again and again"))
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

    /// Ends a template that is not needed any more.
    fn dismiss(&mut self) {
        if let Some(template) = self.0.take() {
            template.process.kill();
            if template.ordered != template.answered {
                template.process.wait(Deadline::Never); // until then it may fork
                template.end_spares();
            }
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut desk = lock(&DESK);
        desk.is_taken = false;
        desk.template = self.0.take();
        FREE.notify_one();
    }
}

/// How many spares wait at most. They take up little, but are in the way of who looks at a list of processes.
const MOST_STOCK: u64 = 2;
const _: () = assert!(MOST_STOCK < MOST_ORDERS);

impl Template {
    fn make(surroundings: u64, deadline: Deadline) -> Result<Self> {
        let page = Pages::create(PAGE)?;
        let (control, process) = start::exec_template(&page, deadline)?;
        let surroundings = Some(surroundings).filter(|before| fingerprint() == *before);
        let page = page.into_mapping();
        Ok(Self { process, control, page, surroundings, ordered: 0, answered: 0, stock: 0, announced: 0 })
    }

    /// The next spare; where none is ready, one that is ordered now.
    fn spare(&mut self, deadline: Deadline) -> Result<Answer> {
        let before = self.ordered;
        loop {
            let mut answer = Answer::Silence;
            if self.answered != self.ordered {
                answer = self.answer(Deadline::now())?;
            }
            if let Answer::Silence = answer {
                let is_first = self.answered == 0;
                if !is_first && self.announced == 0 {
                    self.stock = MOST_STOCK;
                }
                self.announced = self.announced.max(1);
                self.replenish();
                answer = self.answer(deadline)?;
            }
            match answer {
                // What was refused some time ago may be granted now.
                Answer::Refused(_) if self.answered <= before => {}
                answer => {
                    self.announced = self.announced.saturating_sub(1);
                    self.replenish();
                    return Ok(answer);
                }
            }
        }
    }

    fn answer(&mut self, deadline: Deadline) -> Result<Answer> {
        let answer = answer(&self.control, &self.process, deadline)?;
        if let Answer::Silence | Answer::Death = answer {
            return Ok(answer);
        }
        if self.answered == self.ordered {
            return Err(Error::decode("a fork server's reply", "nobody has asked for it"));
        }
        let number = self.answered;
        self.answered += 1;
        if let Answer::Lost = answer {
            end_unheard(&self.page, number);
            return Ok(Answer::Refused(Errno::EMFILE));
        }
        Ok(answer)
    }

    /// Orders as many spares as there should be.
    fn replenish(&mut self) {
        let wanted = self.announced.max(self.stock).min(MOST_ORDERS);
        while self.ordered - self.answered < wanted {
            match order(&self.control, &self.page, self.ordered) {
                Ok(Sent::Yes) => self.ordered += 1,
                _ => break, // who waits for the answer finds out why
            }
        }
    }

    /// Ends those that were ordered and that nobody has taken. Asked of a template that has ended.
    fn end_spares(self) {
        let Self { control, page, ordered, answered, .. } = self;
        drop(control); // with what is in it
        (answered..ordered).for_each(|number| end_unheard(&page, number));
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
        let exit = process.wait(Deadline::Never);
        self.end_spares();
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
}

fn failed(why: impl Into<String>) -> Error {
    Error::new(Cause::Start(why.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_names_a_method_or_it_is_an_error() {
        let parse = |text: &str| StartMethod::parse(Some(OsStr::new(text)));
        assert_eq!(StartMethod::parse(None).unwrap(), StartMethod::ForkServer);
        assert_eq!(parse("fork-server").unwrap(), StartMethod::ForkServer);
        assert_eq!(parse("forkserver").unwrap(), StartMethod::ForkServer);
        assert_eq!(parse("spawn").unwrap(), StartMethod::Spawn);
        for other in ["", "fork", "Spawn", "spawn "] {
            assert!(parse(other).unwrap_err().to_string().contains("MULTIPROC_START_METHOD"), "{other:?}");
        }
    }
}
