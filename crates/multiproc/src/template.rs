//! The template: the program, executed once more, that does nothing but fork children on request.
//!
//! It comes up as any child does, but has no task: from [`serve`] on it is in the library's hands, a single thread
//! without anything of the user's. Each request brings a child's standard output, standard error and start socket.
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

use crate::error::{Error, Result};
use crate::link::{Incoming, Link, Sent};
use crate::supervisor::Child;
use crate::sys::fork::{Fork, Forker, close_streams, copy_out_of_the_way, flush_c_streams, install};
use crate::sys::poll::{Deadline, either};
use crate::sys::process::{PidFd, leave};
use crate::wire::Pages;

/// How large the memory is that program and template share: one word.
pub(crate) const PAGE: NonZeroUsize = NonZeroUsize::new(4).unwrap();
const BORN: usize = 0;

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

/// Asks the template behind `control` to fork a child with this start socket. Blocks until the deadline at most.
pub(crate) fn ask(
    control: &Link,
    template: &Child,
    page: &Pages,
    socket: BorrowedFd<'_>,
    deadline: Deadline,
) -> Result<Answer> {
    page.word32(BORN).store(0, Ordering::Relaxed);
    match request(control, socket, deadline)? {
        Sent::Yes => {}
        Sent::NotYet => return Ok(Answer::Silence),
        Sent::Gone => return Ok(Answer::Death),
    }
    loop {
        // Its death has to be looked for: a child that has not closed its copy of the template's end yet hides it.
        let in_time = either(control.as_fd(), template.as_fd(), deadline)?;
        let is_dead = !template.is_alive(); // before the look at what it has said last
        match control.receive(Deadline::now())? {
            Incoming::Message(reply, mut descriptors) => {
                if let Ok(reply) = reply.as_slice().try_into() {
                    return understand(reply, descriptors.pop());
                }
                template.note_up(); // that is what it says first
            }
            Incoming::Gone => return Ok(Answer::Death),
            Incoming::NotYet if is_dead => return Ok(Answer::Death),
            Incoming::NotYet if !in_time => return Ok(Answer::Silence),
            Incoming::NotYet => {}
        }
    }
}

/// The child that was made last, though nobody has said so. Asked of a template that has ended.
pub(crate) fn last_born(page: &Pages) -> Result<Option<(u32, PidFd)>> {
    match page.word32(BORN).load(Ordering::Relaxed) {
        0 => Ok(None),
        pid => Ok(Some((pid, PidFd::of_child(pid)?))),
    }
}

fn request(control: &Link, socket: BorrowedFd<'_>, deadline: Deadline) -> Result<Sent> {
    let (stdout, stderr) = (io::stdout(), io::stderr());
    match control.lend(REQUEST, &[stdout.as_fd(), stderr.as_fd(), socket], deadline) {
        Err(error) if error.os_error() == Some(Errno::EBADF as i32) => {
            // A stream that is closed here is one in the child that goes nowhere, as in any program that is executed.
            let nowhere =
                File::options().write(true).open("/dev/null").map_err(|e| Error::io("open /dev/null", &e))?;
            let [stdout, stderr] = [stdout.as_fd(), stderr.as_fd()]
                .map(|fd| if fcntl(fd, FcntlArg::F_GETFD).is_ok() { fd } else { nowhere.as_fd() });
            control.lend(REQUEST, &[stdout, stderr, socket], deadline)
        }
        sent => sent,
    }
}

/// All that a request says is in its descriptors.
const REQUEST: &[u8] = b"fork";

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

/// The template's life. **Returns in every child**, with the child's start socket; in the template itself, never: it
/// ends when the program has closed the other end of `control`.
pub(crate) fn serve(control: Link, page: Pages) -> Link {
    let _ = io::stdout().flush(); // what `main` has printed before `init`, lest every child print it
    flush_c_streams();
    close_streams();
    let control = copy_out_of_the_way(control.as_fd()).map_or(control, Link::from_socket);
    let forker = Forker::new();
    loop {
        let Ok(Incoming::Message(_, descriptors)) = control.receive(Deadline::Never) else { leave(0) };
        let Ok([stdout, stderr, socket]) = <[OwnedFd; 3]>::try_from(descriptors) else { leave(1) };
        // The streams arrive where they belong, as a rule, since these are the lowest numbers that are free.
        if install(stdout, 1).and_then(|()| install(stderr, 2)).is_err() {
            leave(1);
        }
        let sent = match forker.as_ref().map_or_else(|&errno| Err(errno), |it| it.fork(page.word32(BORN))) {
            Ok(Fork::Child) => return Link::from_socket(socket),
            Ok(Fork::Forker(pid, pidfd)) => control.lend(&reply(pid, 0), &[pidfd.as_fd()], Deadline::Never),
            Err(errno) => control.lend(&reply(0, errno as i32), &[], Deadline::Never),
        };
        if sent.is_err() {
            leave(1); // the program finds out what there is
        }
        close_streams();
    }
}
