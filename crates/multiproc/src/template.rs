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

/// Stands in front of the error that a child, or a template that cannot begin, says at its end.
pub(crate) const FAILED: u8 = 1;
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
        Sent::Yes | Sent::Gone => {} // one that is gone may have said why
        Sent::NotYet => return Ok(Answer::Silence),
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
                let Ok(numbers) = reply.as_slice().try_into() else { return Err(refusal(&reply, template)) };
                return understand(numbers, descriptors.pop());
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
    let error = match reply.split_first() {
        Some((&FAILED, error)) => wire::decode::<Error>(error, Vec::new(), "a fork server's error"),
        _ => Err(Error::decode("a fork server's reply", "it is not one")),
    };
    let (name, pid) = (template.name().to_owned(), template.pid());
    error.unwrap_or_else(|error| error).or_by(|| Culprit::Process { name, pid })
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
        let (packet, descriptors) = match control.receive_packet(Deadline::Never) {
            Ok(Incoming::Message(packet, descriptors)) => (packet, descriptors),
            // There was no room for all that came with the letter, and it is gone. The next one may bring less.
            Err(error) if error.os_error() == Some(Errno::EMFILE as i32) => {
                if say(&control, &[], reply(0, Errno::EMFILE as i32)).is_err() {
                    leave(1);
                }
                continue;
            }
            _ => leave(0),
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
    use proptest::prelude::*;

    use super::*;
    use crate::supervisor::tests::child;
    use crate::sys::memory;
    use crate::testing::cases;

    proptest! {
        #![proptest_config(cases(300))]

        #[test]
        fn any_reply_is_an_answer_or_an_error(numbers in any::<u64>(), lends in any::<bool>()) {
            let pidfd = lends.then(|| memory::store(b"no process").unwrap());
            let _ = understand(numbers.to_le_bytes(), pidfd);
        }
    }

    /// A number that is no child's must not be believed: if it cannot be held, the child would be killed, and the numbers
    /// below zero are all processes, or all of a group.
    #[test]
    fn only_a_child_of_ours_can_be_the_last_born() {
        let (page, _fd) = Shared::create(PAGE).unwrap();
        for number in [1, std::process::id(), std::os::unix::process::parent_id(), 1 << 31, u32::MAX] {
            page.word32(BORN).store(number, Ordering::Relaxed);
            let Ok(Some((pid, pidfd))) = last_born(&page) else { panic!("{number}") };
            assert!(pid == number && pidfd.has_ended(), "{number} is no child of ours any more");
        }
        page.word32(BORN).store(0, Ordering::Relaxed);
        assert!(last_born(&page).unwrap().is_none());
    }

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
