//! The fork server of this process: its one template, and the spares that this has forked ahead.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use nix::errno::Errno;

use crate::error::{Cause, Culprit, Error, Result};
use crate::link::{Link, Message, Sent};
use crate::start;
use crate::supervisor::{Child, lock};
use crate::sys::memory::Shared;
use crate::sys::poll::Deadline;
use crate::sys::process::{Exit, own_pid};
use crate::sys::surroundings::fingerprint;
use crate::template::{Answer, LAST_GASP, MOST_ORDERS, PAGE, Spare, answer, end_unheard, let_go, order};
use crate::wire::Pages;

/// Gives the letter to a child, and that to the caller; or nothing, where this system cannot fork one. Blocks until the
/// deadline at most.
pub(crate) fn start(letter: &Message, patience: Duration, deadline: Deadline) -> Result<Option<Spare>> {
    Turn::take(deadline)?.start(letter, patience, deadline)
}

/// Has a template made, if there is none, and spares forked, for so many starts that will follow. Does nothing where another
/// has his turn.
pub(crate) fn announce(starts: usize, deadline: Deadline) {
    if let Ok(mut turn) = Turn::take(Deadline::now())
        && let Ok(template) = turn.template(deadline)
    {
        template.announced = u64::try_from(starts).unwrap_or(u64::MAX);
        template.replenish();
    }
}

/// The starts that were announced and have not come will not come.
pub(crate) fn withdraw() {
    if let Ok(Turn(Some(template))) = Turn::take(Deadline::now()).as_mut() {
        template.announced = 0;
    }
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

/// So many templates and spares may be found dead over one start. A few are bad luck; more is somebody who kills them all.
const ATTEMPTS: u32 = 10;

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

    fn start(&mut self, letter: &Message, patience: Duration, deadline: Deadline) -> Result<Option<Spare>> {
        for _ in 0..ATTEMPTS {
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
                template.process.wait(Deadline::after(LAST_GASP)); // until then it may fork
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
