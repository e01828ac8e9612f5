//! The zygote's main function, and that of the children that it forks.

use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;

use super::pid_page::PidPage;
use super::{COMM, Priority, encode_response};
use crate::error::{Cause, Error, Result};
use crate::ipc::packet::{Incoming, Message, PacketSocket};
use crate::ipc::wire::{self, SharedMemory};
use crate::spawn::bootstrap::{self, ChildStart};
use crate::spawn::outcome::PRELOADED;
use crate::spawn::prefork::prefault::Prefault;
use crate::spawn::run_task::{fail_start, report_ready, run_task};
use crate::spawn::supervisor::lock;
use crate::sys::coverage;
use crate::sys::crash_handler;
use crate::sys::failpoint::{self, Failpoint};
use crate::sys::fork::{Fork, ZygoteForker, serve_on_fresh_thread};
use crate::sys::huge_pages;
use crate::sys::output::{expect_one_thread_in_children, flush_all, has_one_thread_now};
use crate::sys::parent_death::kill_on_hangup;
use crate::sys::poll::Deadline;
use crate::sys::process::{exit_immediately, set_comm};
use crate::sys::stdio::{close_stdio, dup_above_stdio, dup_onto, redirect_stdio_to_null};
use crate::task::initializer::Initializer;
use crate::trace;

/// A forked child's name in `ps` until it has its bootstrap message.
const FORKED_COMM: &str = "mp-preforked";

/// Serves requests, in another thread, until the program closes its end of `start_socket`.
pub(crate) fn run_zygote(start_socket: PacketSocket, start: ChildStart) -> ! {
    let decoded = wire::decode_internal(&start.args, start.descriptors, "a zygote's start")
        .map(|(page, preload): (SharedMemory, Vec<Initializer>)| (PidPage(page.into_mapping()), preload));
    let (pids, preload) = decoded.unwrap_or_else(|error| fail_start(&start_socket, &error));
    failpoint::hit(Failpoint::ZygoteStarted);
    report_ready(&start_socket);
    // Before the first flush: what `main` has printed before `init`, and is still buffered, the program
    // prints itself. The zygote and its children must not print it again, nor may a full pipe block them.
    redirect_stdio_to_null();
    if !preload.is_empty() {
        run_all(preload, &start_socket).unwrap_or_else(|error| fail_start(&start_socket, &error));
    }
    // Shared, not moved into the thread: if there can be no thread, this one reports that.
    let state = Arc::new(Mutex::new(Some((start_socket, pids))));
    let take = |state: &Mutex<Option<_>>| lock(state).take();
    let thread_state = Arc::clone(&state);
    let errno = serve_on_fresh_thread(move || {
        if let Some((start_socket, pids)) = take(&thread_state) {
            serve(start_socket, pids)
        }
    });
    if let Some((start_socket, _)) = take(&state) {
        fail_start(&start_socket, &Error::os("start a child process", errno));
    }
    exit_immediately(1)
}

/// Runs functions whose results all children begin with. They run in the thread that is parked later, so the
/// children's thread-local state stays fresh.
fn run_all(preload: Vec<Initializer>, start_socket: &PacketSocket) -> Result<()> {
    preload.into_iter().try_for_each(Initializer::run)?;
    huge_pages::collapse_own_memory();
    // The kernel may still be about to end a thread that was joined.
    let deadline = Deadline::after(THREAD_EXIT);
    while !has_one_thread_now() {
        if deadline.is_over() {
            return Err(Error::new(Cause::Start(
                "the function that preloads the state has left a thread running, or `main` has started one \
                 before `init`: a forked worker would not have it"
                    .to_owned(),
            )));
        }
        thread::sleep(Duration::from_millis(1));
    }
    start_socket.send(&Message::inline(PRELOADED.to_vec()), Deadline::Never).map(drop)
}

/// How long a thread that has been joined may take to end.
const THREAD_EXIT: Duration = Duration::from_secs(1);

/// Forks children. Each of them goes on here as [`run_forked_child`].
fn serve(start_socket: PacketSocket, pids: PidPage) -> ! {
    set_comm(COMM);
    expect_one_thread_in_children();
    crash_handler::use_alternate_stack();
    let prefault = Prefault::new(FORKED_COMM);
    prefault.run();
    let ForkedChildStart { start_socket, number, priority } = serve_requests(start_socket, &pids);
    failpoint::hit(Failpoint::ChildStarted);
    set_comm(FORKED_COMM);
    if priority == Priority::Ahead {
        prefault.run();
        // What comes after the bootstrap message.
        let _ = start_socket.is_hung_up();
        pids.prefault(number);
    }
    run_forked_child(&start_socket, pids, number)
}

/// The data of a forked child: its end of its start socket, and the request that it was forked for.
struct ForkedChildStart {
    start_socket: PacketSocket,
    number: u64,
    priority: Priority,
}

/// **Returns in every child.** In the zygote it exits when the program has closed its end.
fn serve_requests(start_socket: PacketSocket, pids: &PidPage) -> ForkedChildStart {
    let start_socket = dup_above_stdio(start_socket.as_fd()).map_or(start_socket, PacketSocket::from_socket);
    let forker = ZygoteForker::new();
    for number in 0.. {
        let (socket, priority) = match start_socket.receive(Deadline::Never) {
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
                return ForkedChildStart {
                    start_socket: PacketSocket::from_socket(socket),
                    number,
                    priority,
                };
            }
            Ok((Fork::Zygote(pid), socket)) => {
                failpoint::hit(Failpoint::Forked);
                drop(socket); // from now on only the child holds it
                encode_response(pid, 0)
            }
            Err(errno) => encode_response(0, errno as i32),
        };
        if start_socket.send(&Message::inline(response.to_vec()), Deadline::Never).is_err() {
            break; // the program learns from the page of pids which children there are
        }
        failpoint::hit(Failpoint::ForkReported);
    }
    exit_immediately(1)
}

fn run_forked_child(start_socket: &PacketSocket, pids: PidPage, number: u64) -> ! {
    coverage::begin();
    close_stdio();
    crash_handler::report_to(start_socket.as_fd());
    failpoint::hit(Failpoint::PreforkedIdle);
    let start =
        receive_stdio_and_bootstrap(start_socket).unwrap_or_else(|error| fail_start(start_socket, &error));
    set_comm(&start.name);
    pids.wait_for_release(number, start_socket);
    if kill_on_hangup(start_socket.as_fd()).is_err() {
        exit_immediately(1);
    }
    drop(pids); // the task must not be able to write there
    let code = run_task(start_socket, start);
    // No exit handlers: they are the zygote's, and running them costs as much as the fork.
    flush_all();
    trace::flush_file();
    coverage::write();
    exit_immediately(code)
}

/// Waits for the bootstrap message. Exits if the parent closes its end.
fn receive_stdio_and_bootstrap(start_socket: &PacketSocket) -> Result<ChildStart> {
    let Incoming::Message(packet, descriptors) = start_socket.receive_packet(Deadline::Never)? else {
        exit_immediately(0)
    };
    failpoint::hit(Failpoint::BootstrapReceived);
    let mut descriptors = descriptors.into_iter();
    // The lowest numbers are free, so the streams usually arrive as 1 and 2.
    for number in [1, 2] {
        let stream =
            descriptors.next().ok_or_else(|| Error::decode("a child's start", "it has no streams"))?;
        dup_onto(stream, number).map_err(|errno| Error::os("set up a standard stream", errno))?;
    }
    bootstrap::receive(&packet, descriptors.collect())
}
