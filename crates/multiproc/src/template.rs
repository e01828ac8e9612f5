//! The template: the program, executed once more, that does nothing but fork children on request.
//!
//! It comes up as any child does, but has no task: from [`serve`] on it is in the library's hands, a single thread
//! without anything of the user's. Each request brings a child's letter, standard output and error, start socket, and
//! the descriptors among its arguments; the template lets go of all these once it has forked.
//! The copy that the template makes for it is a child of the *program*, for which see [`crate::sys::fork`].
//!
//! The template may be killed at any instruction. A word in memory shared with the program holds the process id of the
//! child made last, written by the kernel before that child's first instruction: so the program knows in every case
//! whether there is one.

use std::fs::File;
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

use crate::error::{Culprit, Error, Result};
use crate::link::{Incoming, Link, Message, Sent};
use crate::supervisor::Child;
use crate::sys::fault::{self, Point};
use crate::sys::fork::{Fork, Forker, close_streams, copy_out_of_the_way, flush_c_streams, install};
use crate::sys::memory::Shared;
use crate::sys::poll::{Deadline, either};
use crate::sys::process::{PidFd, leave};
use crate::wire;

/// How large the memory is that program and template share: one word.
pub(crate) const PAGE: NonZeroUsize = NonZeroUsize::new(4).unwrap();
const BORN: usize = 0;

/// The first message of a process that was executed.
pub(crate) const UP: &[u8] = b"up";

/// What became of a request.
pub(crate) enum Answer {
    Child(u32, PidFd),
    /// The system refuses it.
    Refused(Errno),
    /// The template has not answered in time.
    Silence,
    /// The template has ended.
    Death,
}

/// Asks the template behind `control` to fork a child with this letter and start socket. Blocks until the deadline at most.
pub(crate) fn ask(
    control: &Link,
    template: &Child,
    page: &Shared,
    (letter, socket): (&Message, BorrowedFd<'_>),
    deadline: Deadline,
) -> Result<Answer> {
    page.word32(BORN).store(0, Ordering::Relaxed);
    match request(control, letter, socket, deadline)? {
        Sent::Yes => {}
        Sent::NotYet => return Ok(Answer::Silence),
        Sent::Gone => return Ok(Answer::Death),
    }
    fault::at(Point::TemplateAsked);
    loop {
        // Its death has to be looked for: a child that has not closed its copy of the template's end yet hides it.
        let in_time = either(control.as_fd(), template.as_fd(), deadline)?;
        let is_dead = !template.is_alive(); // before the look at what it has said last
        match control.receive(Deadline::now())? {
            Incoming::Message(reply, mut descriptors) => {
                if reply == UP {
                    template.note_up();
                    continue;
                }
                return match reply.as_slice().try_into() {
                    Ok(reply) => understand(reply, descriptors.pop()),
                    Err(_) => Err(refusal(&reply, template)),
                };
            }
            Incoming::Gone => return Ok(Answer::Death),
            Incoming::NotYet if is_dead => return Ok(Answer::Death),
            Incoming::NotYet if !in_time => return Ok(Answer::Silence),
            Incoming::NotYet => {}
        }
    }
}

/// Why a template does not come up, in its own words.
fn refusal(reply: &[u8], template: &Child) -> Error {
    let culprit = || Culprit::Process { name: template.name().to_owned(), pid: template.pid() };
    match outcome(reply) {
        Ok(_) => Error::decode("a template's answer", "it is none"),
        Err(error) => error.or_by(culprit),
    }
}

/// What a process says at its end: its result, or the error that it has ended with.
pub(crate) fn outcome(message: &[u8]) -> Result<Vec<u8>> {
    match message.split_first() {
        Some((0, result)) => Ok(result.to_vec()),
        Some((_, error)) => Err(wire::decode(error, Vec::new(), "a child's error")?),
        None => Err(Error::decode("a child's outcome", "it is empty")),
    }
}

/// The child that was made last, though nobody has said so. Asked of a template that has ended.
pub(crate) fn last_born(page: &Shared) -> Result<Option<(u32, PidFd)>> {
    match page.word32(BORN).load(Ordering::Relaxed) {
        0 => Ok(None),
        pid => Ok(Some((pid, PidFd::of_child(pid)?))),
    }
}

fn request(control: &Link, letter: &Message, socket: BorrowedFd<'_>, deadline: Deadline) -> Result<Sent> {
    let (stdout, stderr) = (io::stdout(), io::stderr());
    match control.lend(&[stdout.as_fd(), stderr.as_fd(), socket], letter, deadline) {
        Err(error) if error.os_error() == Some(Errno::EBADF as i32) => {
            // A stream that is closed here is one in the child that goes nowhere, as in any program that is executed.
            let nowhere =
                File::options().write(true).open("/dev/null").map_err(|e| Error::io("open /dev/null", &e))?;
            let [stdout, stderr] = [stdout.as_fd(), stderr.as_fd()]
                .map(|fd| if fcntl(fd, FcntlArg::F_GETFD).is_ok() { fd } else { nowhere.as_fd() });
            control.lend(&[stdout, stderr, socket], letter, deadline)
        }
        sent => sent,
    }
}

/// A reply: the child's process id, or 0 and why there is none.
fn reply(pid: u32, errno: i32) -> [u8; 8] {
    (u64::from(pid) << 32 | u64::from(errno.cast_unsigned())).to_le_bytes()
}

fn understand(reply: [u8; 8], pidfd: Option<OwnedFd>) -> Result<Answer> {
    let number = u64::from_le_bytes(reply);
    #[allow(clippy::cast_possible_truncation)] // its two halves
    let (pid, errno) = ((number >> 32) as u32, number as u32);
    Ok(match (pid, pidfd) {
        (0, _) => Answer::Refused(Errno::from_raw(errno.cast_signed())),
        (pid, Some(pidfd)) => Answer::Child(pid, PidFd::from(pidfd)),
        (pid, None) => Answer::Child(pid, PidFd::of_child(pid)?),
    })
}

/// A letter as it came: a packet and its descriptors.
pub(crate) type Letter = (Vec<u8>, Vec<OwnedFd>);

/// The template's life. **Returns in every child**, with the child's start socket and letter; in the template itself,
/// never: it ends when the program has closed the other end of `control`. What can be done with the letter before the
/// fork is done by `open`: there, everything is at hand.
pub(crate) fn serve<T>(control: Link, page: &Shared, open: impl Fn(Letter) -> T) -> (Link, T) {
    let _ = io::stdout().flush(); // what `main` has printed before `init`, lest every child print it
    flush_c_streams();
    close_streams();
    let control = copy_out_of_the_way(control.as_fd()).map_or(control, Link::from_socket);
    let forker = Forker::new();
    loop {
        let Ok(Incoming::Message(packet, descriptors)) = control.receive_packet(Deadline::Never) else {
            leave(0)
        };
        fault::at(Point::LetterTaken);
        let mut descriptors = descriptors.into_iter();
        let [Some(stdout), Some(stderr), Some(socket)] = std::array::from_fn(|_| descriptors.next()) else {
            leave(1)
        };
        // The streams arrive where they belong, as a rule, since these are the lowest numbers that are free.
        if install(stdout, 1).and_then(|()| install(stderr, 2)).is_err() {
            leave(1);
        }
        let lends = descriptors.len() > 0;
        let (socket, letter) = (Link::from_socket(socket), open((packet, descriptors.collect())));
        let fork = forker.as_ref().map_or_else(|&errno| Err(errno), |forker| forker.fork(page.word32(BORN)));
        if let Ok(Fork::Child) = fork {
            return (socket, letter);
        }
        fault::at(Point::Forked);
        // When the program hears of the child, only that holds the descriptors among its arguments.
        let letter = (!lends).then_some(letter);
        let sent = match fork {
            Ok(Fork::Forker(pid, pidfd)) => say(&control, &[pidfd.as_fd()], reply(pid, 0)),
            Ok(Fork::Child) => leave(1), // has returned above
            Err(errno) => say(&control, &[], reply(0, errno as i32)),
        };
        drop(letter);
        if sent.is_err() {
            leave(1); // the program finds out what there is
        }
        fault::at(Point::ForkTold);
        close_streams();
    }
}

fn say(control: &Link, descriptors: &[BorrowedFd<'_>], reply: [u8; 8]) -> Result<Sent> {
    control.lend(descriptors, &Message::inline(reply.to_vec()), Deadline::Never)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervisor::tests::child;

    #[test]
    fn what_a_template_says_why_it_does_not_come_up_is_told() {
        let (template, _lifeline) = child();
        let (ours, theirs) = Link::pair().unwrap();
        let (page, _fd) = Shared::create(PAGE).unwrap();
        let mut refusal = vec![1];
        wire::encode(&Error::system("do without", Errno::ENOMEM), &mut refusal, "an error").unwrap();
        for message in [UP, &refusal] {
            theirs.send(&Message::inline(message.to_vec()), Deadline::now()).unwrap();
        }
        let letter = Message::inline(Vec::new());
        let answer = ask(&ours, &template, &page, (&letter, theirs.as_fd()), Deadline::Never);
        let error = answer.err().unwrap();
        assert!(error.to_string().contains("do without"), "{error}");
        assert_eq!(error.os_error(), Some(Errno::ENOMEM as i32));
        assert!(template.was_up());
        template.kill();
    }
}
