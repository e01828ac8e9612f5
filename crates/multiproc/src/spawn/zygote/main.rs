//! The zygote's main function, and that of the children that it forks.

use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};

use nix::errno::Errno;

use super::pid_page::PidPage;
use super::{COMM, Priority, encode_response};
use crate::error::{Error, Result};
use crate::ipc::packet::{Incoming, Message, PacketSocket};
use crate::ipc::wire::{self, SharedMemory};
use crate::spawn::bootstrap::{self, ChildStart};
use crate::spawn::prefork::prefault::Prefault;
use crate::spawn::run_task::{fail_start, report_ready, run_task};
use crate::spawn::supervisor::lock;
use crate::sys::coverage;
use crate::sys::crash;
use crate::sys::failpoint::{self, Failpoint};
use crate::sys::fork::{Fork, ZygoteForker, serve_on_fresh_thread};
use crate::sys::output::{expect_one_thread_in_children, flush_all};
use crate::sys::poll::Deadline;
use crate::sys::process::{exit_immediately, set_comm};
use crate::sys::start_socket::kill_on_hangup;
use crate::sys::stdio::{close_stdio, dup_above_stdio, dup_onto, redirect_stdio_to_null};

/// A forked child's name in `ps` until it has its bootstrap message.
const FORKED_COMM: &str = "mp-preforked";

/// Serves requests, in another thread, until the program closes its end of `link`.
pub(crate) fn run_zygote(link: PacketSocket, start: ChildStart) -> ! {
    let pids = wire::decode_own(&start.args, start.descriptors, "a zygote's start")
        .map(|page: SharedMemory| PidPage(page.into_mapping()));
    let pids = pids.unwrap_or_else(|error| fail_start(&link, &error));
    failpoint::hit(Failpoint::ZygoteStarted);
    report_ready(&link);
    // Before the first flush: what `main` has printed before `init`, and is still buffered, the program
    // prints itself. The zygote and its children must not print it again, nor may a full pipe block them.
    redirect_stdio_to_null();
    // Shared, not moved into the thread: if there can be no thread, this one reports that.
    let control = Arc::new(Mutex::new(Some((link, pids))));
    let take = |control: &Mutex<Option<_>>| lock(control).take();
    let thread_control = Arc::clone(&control);
    let errno = serve_on_fresh_thread(move || {
        if let Some((link, pids)) = take(&thread_control) {
            serve(link, pids)
        }
    });
    if let Some((link, _)) = take(&control) {
        fail_start(&link, &Error::system("start a child process", errno));
    }
    exit_immediately(1)
}

/// Forks children. Each of them goes on here as [`run_forked_child`].
fn serve(link: PacketSocket, pids: PidPage) -> ! {
    set_comm(COMM);
    expect_one_thread_in_children();
    crash::use_alternate_stack();
    let prefault = Prefault::new(FORKED_COMM);
    prefault.run();
    let ForkedChildStart { link, number, priority } = serve_requests(link, &pids);
    failpoint::hit(Failpoint::ChildStarted);
    set_comm(FORKED_COMM);
    if priority == Priority::Ahead {
        prefault.run();
    }
    run_forked_child(&link, pids, number)
}

/// What a forked child begins with: its end of its start socket, and the request that it was forked for.
struct ForkedChildStart {
    link: PacketSocket,
    number: u64,
    priority: Priority,
}

/// **Returns in every child.** In the zygote it exits when the program has closed its end.
fn serve_requests(control: PacketSocket, pids: &PidPage) -> ForkedChildStart {
    let control = dup_above_stdio(control.as_fd()).map_or(control, PacketSocket::from_socket);
    let forker = ZygoteForker::new();
    for number in 0.. {
        let (socket, priority) = match control.receive(Deadline::Never) {
            Ok(Incoming::Message(request, mut descriptors)) => {
                let socket = descriptors.pop().unwrap_or_else(|| exit_immediately(0));
                (Ok(socket), Priority::decode(&request))
            }
            Err(error) if error.os_error() == Some(Errno::EMFILE as i32) => {
                (Err(Errno::EMFILE), Priority::Immediate)
            }
            _ => exit_immediately(0),
        };
        failpoint::hit(Failpoint::RequestReceived);
        let forked = socket.and_then(|socket| {
            let forker = forker.as_ref().map_err(|&errno| errno)?;
            Ok((forker.fork(pids.word(number))?, socket))
        });
        let response = match forked {
            Ok((Fork::Child, socket)) => {
                return ForkedChildStart { link: PacketSocket::from_socket(socket), number, priority };
            }
            Ok((Fork::Zygote(pid), socket)) => {
                failpoint::hit(Failpoint::Forked);
                drop(socket); // from now on only the child holds it
                encode_response(pid, 0)
            }
            Err(errno) => encode_response(0, errno as i32),
        };
        if control.send(&Message::inline(response.to_vec()), Deadline::Never).is_err() {
            break; // the program learns from the page of pids which children there are
        }
        failpoint::hit(Failpoint::ForkReported);
    }
    exit_immediately(1)
}

fn run_forked_child(link: &PacketSocket, pids: PidPage, number: u64) -> ! {
    coverage::begin();
    close_stdio();
    failpoint::hit(Failpoint::PreforkedIdle);
    let start = receive_stdio_and_bootstrap(link).unwrap_or_else(|error| fail_start(link, &error));
    set_comm(&start.name);
    pids.wait_for_release(number, link);
    if kill_on_hangup(link.as_fd()).is_err() {
        exit_immediately(1);
    }
    drop(pids); // the task must not be able to write there
    let code = run_task(link, start);
    // No exit handlers: they are the zygote's, and running them costs as much as the fork.
    flush_all();
    coverage::write();
    exit_immediately(code)
}

/// Waits for the bootstrap message. Exits if the parent closes its end.
fn receive_stdio_and_bootstrap(link: &PacketSocket) -> Result<ChildStart> {
    let Incoming::Message(packet, descriptors) = link.receive_packet(Deadline::Never)? else {
        exit_immediately(0)
    };
    failpoint::hit(Failpoint::BootstrapReceived);
    let mut descriptors = descriptors.into_iter();
    // The lowest numbers are free, so the streams usually arrive as 1 and 2.
    for number in [1, 2] {
        let stream =
            descriptors.next().ok_or_else(|| Error::decode("a child's start", "it has no streams"))?;
        dup_onto(stream, number).map_err(|errno| Error::system("set up a standard stream", errno))?;
    }
    bootstrap::receive(&packet, descriptors.collect())
}
