//! The template: the program, executed once more, that does nothing but fork children on order.
//!
//! It comes up as any child does, but has no task: from [`serve`] on it is in the library's hands, a thread
//! of its own without anything of the user's. What it forks is a *spare*: a child of the *program* (for which
//! see [`crate::sys::fork`]) that has begun, and waits for its letter on a start socket that came with the
//! order. So one can be ordered before it is needed; and neither a letter nor anybody's descriptor ever comes
//! to the template.
//!
//! The template may be killed at any instruction. Each order has a word in memory shared with the program, into which
//! the kernel writes the process id before the spare's first instruction: so the program knows in every case which
//! spares there are. It clears the word when it has sent the letter.

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::Signal;

use crate::error::{Culprit, Error, Result};
use crate::ipc::packet::{Incoming, Link, Message, Sent};
use crate::ipc::wire;
use crate::spawn::supervisor::Child;
use crate::sys::failpoint::{self, Failpoint};
use crate::sys::fork::{Fork, Forker, copy_out_of_the_way};
use crate::sys::futex;
use crate::sys::mapping::Shared;
use crate::sys::poll::{Deadline, either};
use crate::sys::process::{PidFd, leave, own_pid};

/// So many orders may be under way.
pub(crate) const MOST_ORDERS: usize = WORDS - 1;
/// How large the memory is that program and template share: a word for each order, and one for the spare that was taken
/// last and may not have been [let go](let_go).
pub(crate) const PAGE: NonZeroUsize = NonZeroUsize::new(4 * WORDS).unwrap();
const WORDS: usize = 8;

/// Stands in front of the error that a child, or a template that cannot begin, says at its end.
pub(crate) const FAILED: u8 = 1;
/// The first message of a process that was executed.
pub(crate) const UP: &[u8] = b"up";

/// What a spare is ordered for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// A start that waits, or will come at once.
    Now,
    /// One that may come some time. The spare has the time to prepare itself.
    Later,
}

const NOW: &[u8] = b"fork now";
const LATER: &[u8] = b"fork ahead";

/// A child that waits for its letter.
#[derive(Debug)]
pub(crate) struct Spare {
    pub(crate) pid: u32,
    /// This is surely that one's if its letter can be sent: then it lives, and has since it was forked.
    pub(crate) pidfd: PidFd,
    /// Our end of its start socket.
    pub(crate) link: Link,
}

/// What became of an order.
pub(crate) enum Answer {
    /// A spare with this process id.
    Forked(u32),
    /// The system refuses it.
    Refused(Errno),
    /// The template has not answered in time.
    Silence,
    /// The template has ended.
    Death,
}

/// Orders the spare with this number, counted from 0; gives our end of its start socket, or nothing where the template is
/// gone. Blocks until the deadline at most, while too many descriptors are in flight.
pub(crate) fn order(
    control: &Link,
    page: &Shared,
    number: u64,
    need: Need,
    deadline: Deadline,
) -> Result<Option<Link>> {
    let (ours, theirs) = Link::pair()?;
    page.word32(place(number)).store(0, Ordering::Relaxed);
    let order = if need == Need::Now { NOW } else { LATER };
    let sent = control.lend(&[theirs.as_fd()], &Message::inline(order.to_vec()), deadline)?;
    failpoint::hit(Failpoint::ForkRequested);
    match sent {
        Sent::Yes => Ok(Some(ours)),
        Sent::Gone => Ok(None),
        Sent::NotYet => Err(Error::system("order a child process", Errno::ETOOMANYREFS)),
    }
}

/// Takes the answer to the next order. Blocks until the deadline at most.
pub(crate) fn answer(control: &Link, template: &Child, deadline: Deadline) -> Result<Answer> {
    let mut has_waited = false;
    loop {
        // Its death has to be looked for: a child that has not closed its copy of the template's end yet hides it.
        let is_dead = has_waited && !template.is_alive(); // before the look at what it has said last
        match control.receive(Deadline::now())? {
            Incoming::Message(reply, _) if reply == UP => template.note_up(),
            Incoming::Message(reply, _) => match reply.as_slice().try_into() {
                Ok(numbers) => return Ok(understand(numbers)),
                Err(_) => return Err(refusal(&reply, template)),
            },
            Incoming::Gone => return Ok(Answer::Death),
            Incoming::NotYet if is_dead => return Ok(Answer::Death),
            Incoming::NotYet if deadline.is_over() => return Ok(Answer::Silence),
            Incoming::NotYet => {
                either(control.as_fd(), template.as_fd(), deadline)?;
                has_waited = true;
            }
        }
    }
}

/// Why a template does not come up, in its own words.
fn refusal(reply: &[u8], template: &Child) -> Error {
    let error = match reply.split_first() {
        Some((&FAILED, error)) => wire::decode_own::<Error>(error, Vec::new(), "a fork server's error"),
        _ => Err(Error::decode("a fork server's reply", "it is not one")),
    };
    let (name, pid) = (template.name().to_owned(), template.pid());
    error.unwrap_or_else(|error| error).or_by(|| Culprit::Process { name, pid })
}

/// The spare with this number, if there is one that has not been [let go](let_go). To be asked when no other can get its
/// number, and about one whose answer was not taken.
pub(crate) fn unheard(page: &Shared, number: u64) -> Option<(u32, PidFd)> {
    match page.word32(place(number)).load(Ordering::Relaxed) & !AWAITED {
        0 => None,
        pid => PidFd::of_child(pid).ok().map(|pidfd| (pid, pidfd)),
    }
}

/// Where the process id of the spare with this number stands.
fn place(number: u64) -> usize {
    4 * usize::try_from(number % WORDS as u64).unwrap_or(0) // it fits
}

/// From now on the spare with this number, whose letter is sent, is a child like any other.
pub(crate) fn let_go(page: &Shared, number: u64) {
    let word = page.word32(place(number));
    if word.swap(0, Ordering::Release) & AWAITED != 0 {
        futex::wake_all(word);
    }
}

/// Waits until [`let_go`] was called for this process, the spare with this number, which has its letter. That takes no
/// longer than its parent takes to leave the system call that has sent it, and to get a processor for that.
///
/// Until then, the kernel may still be about to tell that a packet has come. If this process had asked for a deadly signal
/// in such a case ([`die_with`](crate::sys::process::die_with)), it would get it.
pub(crate) fn await_parent(page: &Shared, number: u64, link: &Link) {
    let (word, pid) = (page.word32(place(number)), own_pid());
    loop {
        match word.compare_exchange(pid, pid | AWAITED, Ordering::Relaxed, Ordering::Acquire) {
            Err(now) if now & !AWAITED != pid => return,
            _ => futex::wait(word, pid | AWAITED, Some(A_WHILE)),
        }
        // The parent was stopped just there. Should it end, so must this process.
        if link.is_hung_up() {
            leave(1);
        }
    }
}

/// Beside the process id of a spare: it waits to be let go.
const AWAITED: u32 = 1 << 31;
/// How long to wait at most without a look whether the parent lives.
const A_WHILE: Duration = Duration::from_millis(100);

impl Spare {
    /// Gives it its letter, and the standard output and error that this process has now.
    pub(crate) fn send(&self, letter: &Message, deadline: Deadline) -> Result<Sent> {
        let _ = self.pidfd.signal(Signal::SIGCONT); // it may have been stopped with all others, when it was nobody's yet
        let (stdout, stderr) = (io::stdout(), io::stderr());
        let mut streams = [stdout.as_fd(), stderr.as_fd()];
        // A stream that is closed here goes nowhere in the child, as in any program that is executed; also where by now
        // something else has its number, which is then closed when a program is executed, as all that is ours.
        let nowhere;
        if !streams.iter().all(|&fd| is_inherited(fd)) {
            nowhere =
                File::options().write(true).open("/dev/null").map_err(|e| Error::io("open /dev/null", &e))?;
            streams = streams.map(|fd| if is_inherited(fd) { fd } else { nowhere.as_fd() });
        }
        let sent = self.link.lend(&streams, letter, deadline);
        failpoint::hit(Failpoint::BootstrapSent);
        sent
    }
}

/// Whether a program that is executed would have it.
fn is_inherited(fd: BorrowedFd<'_>) -> bool {
    fcntl(fd, FcntlArg::F_GETFD).is_ok_and(|flags| flags & FdFlag::FD_CLOEXEC.bits() == 0)
}

/// A reply: the spare's process id, or 0 and why there is none.
fn reply(pid: u32, errno: i32) -> [u8; 8] {
    (u64::from(pid) << 32 | u64::from(errno.cast_unsigned())).to_le_bytes()
}

fn understand(reply: [u8; 8]) -> Answer {
    let number = u64::from_le_bytes(reply);
    #[allow(clippy::cast_possible_truncation)] // its two halves
    match ((number >> 32) as u32, number as u32) {
        (0, errno) => Answer::Refused(Errno::from_raw(errno.cast_signed())),
        (pid, _) => Answer::Forked(pid),
    }
}

/// The template's life. **Returns in every spare**, with its start socket, its number, and what it was ordered for; in the
/// template itself, never: it ends when the program has closed the other end of `control`.
pub(crate) fn serve(control: Link, page: &Shared) -> (Link, u64, Need) {
    let control = copy_out_of_the_way(control.as_fd()).map_or(control, Link::from_socket);
    let forker = Forker::new();
    for number in 0.. {
        let (socket, need) = match control.receive(Deadline::Never) {
            Ok(Incoming::Message(order, mut descriptors)) => {
                let need = if order == NOW { Need::Now } else { Need::Later };
                (descriptors.pop().ok_or(Errno::EBADMSG), need)
            }
            Err(error) if error.os_error() == Some(Errno::EMFILE as i32) => (Err(Errno::EMFILE), Need::Now),
            _ => leave(0),
        };
        failpoint::hit(Failpoint::RequestReceived);
        let forked = socket.and_then(|socket| {
            let forker = forker.as_ref().map_err(|&errno| errno)?;
            Ok((forker.fork(page.word32(place(number)))?, socket))
        });
        let reply = match forked {
            Ok((Fork::Child, socket)) => return (Link::from_socket(socket), number, need),
            Ok((Fork::Forker(pid), socket)) => {
                failpoint::hit(Failpoint::Forked);
                drop(socket); // from now on only the spare holds it
                reply(pid, 0)
            }
            Err(errno) => reply(0, errno as i32),
        };
        if control.send(&Message::inline(reply.to_vec()), Deadline::Never).is_err() {
            break; // the program finds out what there is
        }
        failpoint::hit(Failpoint::ForkReported);
    }
    leave(1)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;
    use std::time::Instant;

    use proptest::prelude::*;

    use super::*;
    use crate::spawn::supervisor::tests::child;
    use crate::testing::cases;

    proptest! {
        #![proptest_config(cases(300))]

        #[test]
        fn any_reply_is_an_answer(numbers in any::<u64>()) {
            understand(numbers.to_le_bytes());
        }
    }

    /// A number that is no child's must not be believed: the numbers below zero are all processes, or all of a group.
    #[test]
    fn only_a_child_of_ours_can_be_a_spare() {
        let (page, _fd) = Shared::create(PAGE).unwrap();
        for number in [1, std::process::id(), std::os::unix::process::parent_id(), 1 << 30, u32::MAX >> 1] {
            page.word32(place(3)).store(number | AWAITED, Ordering::Relaxed);
            let Some((pid, pidfd)) = unheard(&page, 3) else { panic!("{number}") };
            assert!(pid == number && pidfd.has_ended(), "{number} is no child of ours any more");
        }
        let (child, _lifeline) = child();
        page.word32(place(3)).store(child.pid(), Ordering::Relaxed);
        assert!(!unheard(&page, 3 + WORDS as u64).unwrap().1.has_ended());
        child.kill();
        let_go(&page, 3);
        assert!(unheard(&page, 3).is_none());
    }

    #[test]
    fn a_spare_goes_on_when_it_is_let_go() {
        let (page, _fd) = Shared::create(PAGE).unwrap();
        let (_ours, theirs) = Link::pair().unwrap();
        let wait_asleep = |number| {
            let word = page.word32(place(number));
            word.store(own_pid(), Ordering::Relaxed);
            thread::scope(|scope| {
                let (tell, told) = mpsc::channel();
                let (page, theirs) = (&page, &theirs);
                scope.spawn(move || {
                    tell.send(nix::unistd::gettid()).unwrap();
                    await_parent(page, number, theirs);
                });
                let stat = format!("/proc/self/task/{}/stat", told.recv().unwrap());
                let sleeps = || std::fs::read_to_string(&stat).unwrap().contains(") S ");
                while !(word.load(Ordering::Relaxed) & AWAITED != 0 && sleeps()) {
                    thread::yield_now();
                }
                let start = Instant::now();
                let_go(page, number);
                start
            })
            .elapsed()
        };
        let times = (0..20).map(wait_asleep);
        assert!(times.min().unwrap() < A_WHILE / 2, "none was woken, each has looked for itself");
        page.word32(place(1)).store(own_pid(), Ordering::Relaxed);
        let_go(&page, 1);
        await_parent(&page, 1, &theirs);
    }

    #[test]
    fn what_a_template_says_why_it_does_not_come_up_is_told() {
        let (template, _lifeline) = child();
        let (ours, theirs) = Link::pair().unwrap();
        let mut refusal = vec![FAILED];
        wire::encode_own(&Error::system("do without", Errno::ENOMEM), &mut refusal, "an error").unwrap();
        for message in [UP, &refusal] {
            theirs.send(&Message::inline(message.to_vec()), Deadline::now()).unwrap();
        }
        let error = answer(&ours, &template, Deadline::Never).err().unwrap();
        assert!(error.to_string().contains("do without"), "{error}");
        assert_eq!(error.os_error(), Some(Errno::ENOMEM as i32));
        assert!(template.was_up());
        template.kill();
    }
}
