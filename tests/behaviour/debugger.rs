//! **Debugger**: a program that is attached to a child, as `gdb -p` is.

use std::path::Path;

use multiproc::{Connection, Process, pipe};
use nix::libc;
use tests::cannot_run;

use crate::support::{Outcome, TEST_TIMEOUT, blocked_child_by, trials};

trials![a_killed_child_that_a_debugger_holds_has_ended];

/// Attaches to a process, and then leaves it as it is until the other end is dropped.
#[allow(unsafe_code)]
fn attach(pid: u32, attached: Connection<(), ()>) -> bool {
    // SAFETY: the request takes numbers.
    let result = unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, 0, 0) };
    if result == 0 {
        attached.send(()).unwrap();
        let _ = attached.recv_timeout(TEST_TIMEOUT);
    }
    result == 0
}

/// The kernel gives the debugger its status first.
fn a_killed_child_that_a_debugger_holds_has_ended() -> Outcome {
    // The kernel's name of the process ends in the middle of a character.
    let (mut child, _latch) = blocked_child_by(Process::builder().name("aaaaaaaaaaaaaaä"))?;
    let (attached, at_debugger) = pipe()?;
    let debugger = Process::spawn(attach, (child.pid(), at_debugger))?;
    if attached.recv().is_err() {
        assert!(!debugger.join()?);
        cannot_run("a process may not attach to another one");
        return Ok(());
    }
    child.kill()?;
    assert_eq!(child.join_timeout(TEST_TIMEOUT).unwrap_err().signal(), Some(9));
    assert!(debugger.is_alive(), "it has gone first");
    drop(attached);
    assert!(debugger.join()?);
    Process::spawn(|| (), ())?.join()?; // its end collects what the debugger has left
    assert!(!Path::new(&format!("/proc/{}", child.pid())).exists());
    Ok(())
}
