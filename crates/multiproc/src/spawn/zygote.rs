//! The zygote: the program, executed once more, that does nothing but fork children on order.
//!
//! It comes up as any child does, but has no task: from [`serve`] on it is in the library's hands, a thread
//! of its own without anything of the user's. What it forks is a *preforked child*: a child of the *program* (for which
//! see [`crate::sys::fork`]) that has begun, and waits for its bootstrap message on a start socket that came with the
//! order. So one can be ordered before it is needed; and neither a bootstrap message nor anybody's descriptor ever comes
//! to the zygote.
//!
//! The zygote may be killed at any instruction. Each order has a word in memory shared with the program, into which
//! the kernel writes the process id before the preforked child's first instruction: so the program knows in every case which
//! preforked children there are. It clears the word when it has sent the bootstrap message.

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::Signal;

use crate::error::{Error, Origin, Result};
use crate::ipc::packet::{Incoming, Message, PacketSocket, Sent};
use crate::ipc::wire;
use crate::spawn::supervisor::Child;
use crate::sys::failpoint::{self, Failpoint};
use crate::sys::fork::{Fork, ZygoteForker, dup_above_stdio};
use crate::sys::futex;
use crate::sys::mapping::SharedMapping;
use crate::sys::poll::{Deadline, poll_any};
use crate::sys::process::{PidFd, exit_immediately, own_pid};

/// So many orders may be under way.
pub(crate) const MAX_REQUESTS: usize = WORDS - 1;
/// How large the memory is that program and zygote share: a word for each order, and one for the preforked child that was taken
/// last and may not have been [let go](release).
pub(crate) const PAGE: NonZeroUsize = NonZeroUsize::new(4 * WORDS).unwrap();
const WORDS: usize = 8;

/// Stands in front of the error that a child, or a zygote that cannot begin, says at its end.
pub(crate) const FAILED: u8 = 1;
/// The first message of a process that was executed.
pub(crate) const READY: &[u8] = b"up";

/// What a preforked child is ordered for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Priority {
    /// A start that waits, or will come at once.
    Immediate,
    /// One that may come some time. The preforked child has the time to prepare itself.
    Ahead,
}

const IMMEDIATE: &[u8] = b"fork now";
const AHEAD: &[u8] = b"fork ahead";

/// A child that waits for its bootstrap message.
#[derive(Debug)]
pub(crate) struct Preforked {
    pub(crate) pid: u32,
    /// This is surely that one's if its bootstrap message can be sent: then it lives, and has since it was forked.
    pub(crate) pidfd: PidFd,
    /// Our end of its start socket.
    pub(crate) link: PacketSocket,
}

/// What became of an order.
pub(crate) enum Response {
    /// A preforked child with this process id.
    Forked(u32),
    /// The system refuses it.
    Failed(Errno),
    /// The zygote has not answered in time.
    TimedOut,
    /// The zygote has ended.
    Exited,
}

/// Orders the preforked child with this number, counted from 0; gives our end of its start socket, or nothing where the zygote is
/// gone. Blocks until the deadline at most, while too many descriptors are in flight.
pub(crate) fn request(
    control: &PacketSocket,
    page: &SharedMapping,
    number: u64,
    need: Priority,
    deadline: Deadline,
) -> Result<Option<PacketSocket>> {
    let (ours, theirs) = PacketSocket::pair()?;
    page.word32(word(number)).store(0, Ordering::Relaxed);
    let order = if need == Priority::Immediate { IMMEDIATE } else { AHEAD };
    let sent = control.send_with_fds(&[theirs.as_fd()], &Message::inline(order.to_vec()), deadline)?;
    failpoint::hit(Failpoint::ForkRequested);
    match sent {
        Sent::Done => Ok(Some(ours)),
        Sent::Disconnected => Ok(None),
        Sent::TimedOut => Err(Error::system("order a child process", Errno::ETOOMANYREFS)),
    }
}

/// Takes the answer to the next order. Blocks until the deadline at most.
pub(crate) fn response(control: &PacketSocket, zygote: &Child, deadline: Deadline) -> Result<Response> {
    let mut has_waited = false;
    loop {
        // Its death has to be looked for: a child that has not closed its copy of the zygote's end yet hides it.
        let is_dead = has_waited && !zygote.is_alive(); // before the look at what it has said last
        match control.receive(Deadline::now())? {
            Incoming::Message(reply, _) if reply == READY => zygote.mark_started(),
            Incoming::Message(reply, _) => match reply.as_slice().try_into() {
                Ok(numbers) => return Ok(parse(numbers)),
                Err(_) => return Err(failure(&reply, zygote)),
            },
            Incoming::Disconnected => return Ok(Response::Exited),
            Incoming::TimedOut if is_dead => return Ok(Response::Exited),
            Incoming::TimedOut if deadline.is_over() => return Ok(Response::TimedOut),
            Incoming::TimedOut => {
                poll_any(control.as_fd(), zygote.as_fd(), deadline)?;
                has_waited = true;
            }
        }
    }
}

/// Why a zygote does not come up, in its own words.
fn failure(reply: &[u8], zygote: &Child) -> Error {
    let error = match reply.split_first() {
        Some((&FAILED, error)) => wire::decode_own::<Error>(error, Vec::new(), "a fork server's error"),
        _ => Err(Error::decode("a fork server's reply", "it is not one")),
    };
    let (name, pid) = (zygote.name().to_owned(), zygote.pid());
    error.unwrap_or_else(|error| error).or_with_origin(|| Origin::Process { name, pid })
}

/// The preforked child with this number, if there is one that has not been [let go](release). To be asked when no other can get its
/// number, and about one whose answer was not taken.
pub(crate) fn unclaimed(page: &SharedMapping, number: u64) -> Option<(u32, PidFd)> {
    match page.word32(word(number)).load(Ordering::Relaxed) & !RELEASED {
        0 => None,
        pid => PidFd::of_child(pid).ok().map(|pidfd| (pid, pidfd)),
    }
}

/// Where the process id of the preforked child with this number stands.
fn word(number: u64) -> usize {
    4 * usize::try_from(number % WORDS as u64).unwrap_or(0) // it fits
}

/// From now on the preforked child with this number, whose bootstrap message is sent, is a child like any other.
pub(crate) fn release(page: &SharedMapping, number: u64) {
    let word = page.word32(word(number));
    if word.swap(0, Ordering::Release) & RELEASED != 0 {
        futex::wake_all(word);
    }
}

/// Waits until [`release`] was called for this process, the preforked child with this number, which has its bootstrap message. That takes no
/// longer than its parent takes to leave the system call that has sent it, and to get a processor for that.
///
/// Until then, the kernel may still be about to tell that a packet has come. If this process had asked for a deadly signal
/// in such a case ([`die_with`](crate::sys::process::kill_on_hangup)), it would get it.
pub(crate) fn wait_for_release(page: &SharedMapping, number: u64, link: &PacketSocket) {
    let (word, pid) = (page.word32(word(number)), own_pid());
    loop {
        match word.compare_exchange(pid, pid | RELEASED, Ordering::Relaxed, Ordering::Acquire) {
            Err(now) if now & !RELEASED != pid => return,
            _ => futex::wait(word, pid | RELEASED, Some(RECHECK_INTERVAL)),
        }
        // The parent was stopped just there. Should it end, so must this process.
        if link.is_hung_up() {
            exit_immediately(1);
        }
    }
}

/// Beside the process id of a preforked child: it waits to be let go.
const RELEASED: u32 = 1 << 31;
/// How long to wait at most without a look whether the parent lives.
const RECHECK_INTERVAL: Duration = Duration::from_millis(100);

impl Preforked {
    /// Gives it its bootstrap message, and the standard output and error that this process has now.
    pub(crate) fn send(&self, bootstrap: &Message, deadline: Deadline) -> Result<Sent> {
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
        let sent = self.link.send_with_fds(&streams, bootstrap, deadline);
        failpoint::hit(Failpoint::BootstrapSent);
        sent
    }
}

/// Whether a program that is executed would have it.
fn is_inherited(fd: BorrowedFd<'_>) -> bool {
    fcntl(fd, FcntlArg::F_GETFD).is_ok_and(|flags| flags & FdFlag::FD_CLOEXEC.bits() == 0)
}

/// A reply: the preforked child's process id, or 0 and why there is none.
fn reply(pid: u32, errno: i32) -> [u8; 8] {
    (u64::from(pid) << 32 | u64::from(errno.cast_unsigned())).to_le_bytes()
}

fn parse(reply: [u8; 8]) -> Response {
    let number = u64::from_le_bytes(reply);
    #[allow(clippy::cast_possible_truncation)] // its two halves
    match ((number >> 32) as u32, number as u32) {
        (0, errno) => Response::Failed(Errno::from_raw(errno.cast_signed())),
        (pid, _) => Response::Forked(pid),
    }
}

/// The zygote's life. **Returns in every preforked child**, with its start socket, its number, and what it was ordered for; in the
/// zygote itself, never: it ends when the program has closed the other end of `control`.
pub(crate) fn serve(control: PacketSocket, page: &SharedMapping) -> (PacketSocket, u64, Priority) {
    let control = dup_above_stdio(control.as_fd()).map_or(control, PacketSocket::from_socket);
    let forker = ZygoteForker::new();
    for number in 0.. {
        let (socket, need) = match control.receive(Deadline::Never) {
            Ok(Incoming::Message(order, mut descriptors)) => {
                let need = if order == IMMEDIATE { Priority::Immediate } else { Priority::Ahead };
                (Ok(descriptors.pop().unwrap_or_else(|| exit_immediately(0))), need)
            }
            Err(error) if error.os_error() == Some(Errno::EMFILE as i32) => {
                (Err(Errno::EMFILE), Priority::Immediate)
            }
            _ => exit_immediately(0),
        };
        failpoint::hit(Failpoint::RequestReceived);
        let forked = socket.and_then(|socket| {
            let forker = forker.as_ref().map_err(|&errno| errno)?;
            Ok((forker.fork(page.word32(word(number)))?, socket))
        });
        let reply = match forked {
            Ok((Fork::Child, socket)) => return (PacketSocket::from_socket(socket), number, need),
            Ok((Fork::Forker(pid), socket)) => {
                failpoint::hit(Failpoint::Forked);
                drop(socket); // from now on only the preforked child holds it
                reply(pid, 0)
            }
            Err(errno) => reply(0, errno as i32),
        };
        if control.send(&Message::inline(reply.to_vec()), Deadline::Never).is_err() {
            break; // the program finds out what there is
        }
        failpoint::hit(Failpoint::ForkReported);
    }
    exit_immediately(1)
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
            parse(numbers.to_le_bytes());
        }
    }

    /// A number that is no child's must not be believed: the numbers below zero are all processes, or all of a group.
    #[test]
    fn only_a_child_of_ours_can_be_a_spare() {
        let (page, _fd) = SharedMapping::create(PAGE).unwrap();
        for number in [1, std::process::id(), std::os::unix::process::parent_id(), 1 << 30, u32::MAX >> 1] {
            page.word32(word(3)).store(number | RELEASED, Ordering::Relaxed);
            let Some((pid, pidfd)) = unclaimed(&page, 3) else { panic!("{number}") };
            assert!(pid == number && pidfd.has_ended(), "{number} is no child of ours any more");
        }
        let (child, _lifeline) = child();
        page.word32(word(3)).store(child.pid(), Ordering::Relaxed);
        assert!(!unclaimed(&page, 3 + WORDS as u64).unwrap().1.has_ended());
        child.kill();
        release(&page, 3);
        assert!(unclaimed(&page, 3).is_none());
    }

    #[test]
    fn a_spare_goes_on_when_it_is_let_go() {
        let (page, _fd) = SharedMapping::create(PAGE).unwrap();
        let (_ours, theirs) = PacketSocket::pair().unwrap();
        let wait_asleep = |number| {
            let word = page.word32(word(number));
            word.store(own_pid(), Ordering::Relaxed);
            thread::scope(|scope| {
                let (tell, told) = mpsc::channel();
                let (page, theirs) = (&page, &theirs);
                scope.spawn(move || {
                    tell.send(nix::unistd::gettid()).unwrap();
                    wait_for_release(page, number, theirs);
                });
                let stat = format!("/proc/self/task/{}/stat", told.recv().unwrap());
                let sleeps = || std::fs::read_to_string(&stat).unwrap().contains(") S ");
                while !(word.load(Ordering::Relaxed) & RELEASED != 0 && sleeps()) {
                    thread::yield_now();
                }
                let start = Instant::now();
                release(page, number);
                start
            })
            .elapsed()
        };
        let times = (0..20).map(wait_asleep);
        assert!(times.min().unwrap() < RECHECK_INTERVAL / 2, "none was woken, each has looked for itself");
        page.word32(word(1)).store(own_pid(), Ordering::Relaxed);
        release(&page, 1);
        wait_for_release(&page, 1, &theirs);
    }

    #[test]
    fn what_a_template_says_why_it_does_not_come_up_is_told() {
        let (zygote, _lifeline) = child();
        let (ours, theirs) = PacketSocket::pair().unwrap();
        let mut refusal = vec![FAILED];
        wire::encode_own(&Error::system("do without", Errno::ENOMEM), &mut refusal, "an error").unwrap();
        for message in [READY, &refusal] {
            theirs.send(&Message::inline(message.to_vec()), Deadline::now()).unwrap();
        }
        let error = response(&ours, &zygote, Deadline::Never).err().unwrap();
        assert!(error.to_string().contains("do without"), "{error}");
        assert_eq!(error.os_error(), Some(Errno::ENOMEM as i32));
        assert!(zygote.has_started());
        zygote.kill();
    }
}
