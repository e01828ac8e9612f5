//! Copies of a process that a program has forked by itself: with what the original made they get errors, they
//! take nothing away from it, and they can use the library as any process. None waits for a lock that a thread of the
//! original held at the fork.

mod busy;
mod exclusive;
mod in_tasks;
mod refusals;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use std::time::Duration;

use libtest_mimic::Trial;
use nix::libc;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, alarm, fork};

use crate::support::TEST_TIMEOUT;

pub(crate) fn trials() -> Vec<Trial> {
    let trials = [refusals::trials(), exclusive::trials(), in_tasks::trials(), busy::trials()];
    trials.into_iter().flatten().collect()
}

/// Runs this in a forked copy of the process; returns whether it returns true.
#[allow(unsafe_code)]
pub(crate) fn in_fork(act: impl FnOnce() -> bool) -> bool {
    // SAFETY: what the copy does takes no lock of the original but the allocator's, which the C library keeps in
    // order, and those whose owner, this library, must do so: that is what is tested.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            alarm::set(u32::try_from(TEST_TIMEOUT.as_secs()).unwrap()); // one that hangs is killed, so the test fails
            let good = catch_unwind(AssertUnwindSafe(act)).unwrap_or(false); // else this copy would leave here
            // SAFETY: ends the process at once.
            unsafe { libc::_exit(i32::from(!good)) }
        }
        ForkResult::Parent { child } => {
            matches!(waitpid(child, None), Ok(WaitStatus::Exited(_, 0)))
        }
    }
}

fn square(number: u64) -> u64 {
    number * number
}

fn slowly(number: u64) -> u64 {
    thread::sleep(Duration::from_millis(10));
    number
}
