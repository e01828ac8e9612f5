//! The main function of an executed child or zygote, which [`init`](crate::init()) calls.

use std::os::fd::AsFd;
use std::process::exit;

use crate::error::{Error, Result};
use crate::ipc::packet::{Incoming, PacketSocket};
use crate::ipc::panic::install_panic_hook;
use crate::spawn::bootstrap::{self, ChildStart};
use crate::spawn::run_task::{fail_start, freeze_start_functions, report_ready, run_task};
use crate::spawn::zygote::main::run_zygote;
use crate::sys::crash_handler;
use crate::sys::failpoint::{self, Failpoint};
use crate::sys::parent_death::kill_on_hangup;
use crate::sys::poll::Deadline;
use crate::sys::process::{set_comm, setup_child};
use crate::sys::start_socket::{SocketOwner, check_privileges};

/// Runs the child's task, or the zygote, and exits.
pub(crate) fn run_child(start_socket: PacketSocket, owner: SocketOwner) -> ! {
    failpoint::hit(Failpoint::ChildStarted);
    install_panic_hook();
    crash_handler::install_handlers();
    freeze_start_functions();
    let start =
        check_privileges(owner).and_then(|()| setup_child()).and_then(|()| receive_bootstrap(&start_socket));
    let start = start.unwrap_or_else(|error| fail_start(&start_socket, &error));
    set_comm(&start.name);
    if start.task.is_none() {
        run_zygote(start_socket, start);
    }
    kill_on_hangup(start_socket.as_fd()).unwrap_or_else(|error| fail_start(&start_socket, &error));
    report_ready(&start_socket);
    crash_handler::report_to(start_socket.as_fd());
    exit(run_task(&start_socket, start))
}

fn receive_bootstrap(start_socket: &PacketSocket) -> Result<ChildStart> {
    match start_socket.receive_packet(Deadline::now())? {
        Incoming::Message(packet, descriptors) => bootstrap::receive(&packet, descriptors),
        Incoming::TimedOut | Incoming::Disconnected => {
            Err(Error::decode("a child's start", "it is not there"))
        }
    }
}
